"""Who comes in."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from deepserve.config import Settings
from deepserve.core.tenant import Tenant, TenantId
from deepserve.server.access import Access, ConfiguredKeys, is_loopback
from tests.server.live import HELLO, LiveServer, live_server, request_bytes

KEY = "sk-canary-0123456789abcdef"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1234", "127.0.0.1", "127.8.9.1:80", "[::1]:8000", "a.localhost"]
)
def test_loopback_names_are_let_in_without_keys(live: LiveServer, host: str) -> None:
    assert live.get("/models", host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "localhost@evil", "[::1"]
)
def test_foreign_hosts_are_refused_without_keys(live: LiveServer, host: str) -> None:
    """A page whose name was pointed at this machine would otherwise read answers (DNS rebinding)."""
    answer = live.get("/models", host=host)
    assert answer.status_code == 403
    assert "Host" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["host: localhost", "origin: http://localhost"])
def test_a_second_header_does_not_hide_behind_the_first(live: LiveServer, name: str) -> None:
    foreign = name.replace("localhost", "evil.example")
    answer = live.raw(f"GET /models HTTP/1.1\r\n{name}\r\n{foreign}\r\nconnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "file://", "http://localhost.evil.example"])
def test_foreign_origins_are_refused_without_keys(live: LiveServer, origin: str) -> None:
    assert live.get("/models", origin=origin).status_code == 403
    assert live.get("/health", origin=origin).status_code == 403


def test_a_page_of_this_machine_may_ask(live: LiveServer) -> None:
    assert live.get("/models", origin="http://localhost:3000").status_code == 200


def test_any_key_is_fine_where_none_is_configured(live: LiveServer) -> None:
    assert live.get("/models", authorization="Bearer whatever").status_code == 200


def test_configured_keys_are_demanded_in_either_header(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with live_server(settings=Settings(api_keys=(KEY, "other"))) as live:
        assert live.get("/models", authorization=f"Bearer {KEY}").status_code == 200
        assert live.get("/models", authorization=f"bearer  {KEY}").status_code == 200
        assert live.get("/models", **{"x-api-key": KEY}).status_code == 200
        assert live.get("/models", authorization="Bearer other", **{"x-api-key": "wrong"}).status_code == 200
        assert live.get("/models", authorization=f"Bearer {KEY}", host="api.example").status_code == 200

        missing = live.get("/models")
        assert missing.status_code == 401
        assert missing.json()["error"]["message"] == "Authentication Fails (governor)"
        wrong = live.get("/models", authorization=f"Bearer {KEY}x")
        assert wrong.status_code == 401
        assert wrong.json()["error"] == {
            "message": "Authentication Fails, Your api key: ****defx is invalid",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_request_error",
        }
        assert live.get("/metrics").status_code == 401
        assert live.get("/health").status_code == 200
        assert live.get("/ready").status_code == 200
    assert KEY not in caplog.text


def test_an_escaped_path_does_not_pass_as_a_public_one() -> None:
    """The check looks at the path as it was sent, not as the router reads it."""
    with live_server(settings=Settings(api_keys=(KEY,))) as live:
        for path in (b"/%68ealth", b"/health/../models", b"//health"):
            answer = live.raw(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 401"), path


def test_a_refused_client_that_is_still_sending_reads_the_answer() -> None:
    with live_server(settings=Settings(api_keys=(KEY,))) as live:
        answer = httpx.post(live.address + "/chat/completions", content=b"x" * 5_000_000)
        assert answer.status_code == 401


def test_keys_are_kept_as_digests_and_are_tenants_of_their_own() -> None:
    keys = ConfiguredKeys([KEY, "other"])
    one, two = keys.find(KEY), keys.find("other")
    assert one is not None
    assert two is not None
    assert one.id != two.id
    assert keys.find(KEY[:-1]) is None
    assert KEY not in repr(vars(keys))


def test_keys_may_be_kept_elsewhere() -> None:
    class Elsewhere:
        def find(self, key: str) -> Tenant | None:
            return Tenant(id=TenantId("t")) if key == "stored" else None

    with live_server(lookups=(Elsewhere(),)) as live:
        assert live.get("/models", authorization="Bearer stored").status_code == 200
        assert live.get("/models", authorization="Bearer else").status_code == 401


def test_keys_are_found_however_busy_other_threads_are() -> None:
    class Elsewhere:
        def find(self, key: str) -> Tenant | None:
            return Tenant(id=TenantId(key))

    released = threading.Event()

    async def run() -> Tenant:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        blocking = asyncio.get_running_loop().run_in_executor(None, released.wait)
        try:
            return await asyncio.wait_for(Access((Elsewhere(),)).tenant_of("k"), 10)
        finally:
            released.set()
            await blocking

    assert asyncio.run(run()).id == "k"


def test_a_key_of_odd_bytes_is_wrong_not_an_error() -> None:
    with live_server(settings=Settings(api_keys=(KEY,))) as live:
        answer = live.raw(request_bytes(HELLO, headers="authorization: Bearer \xff\xfe\xfd\r\nconnection: close\r\n"))
        assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(("name", "expected"), [("LOCALHOST", True), ("::1", True), ("", False), ("0.0.0.0", False)])
def test_loopback(name: str, expected: bool) -> None:
    assert is_loopback(name) is expected
