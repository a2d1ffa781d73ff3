"""Each limit on what a client may send, one step beyond, on a raw connection."""

import asyncio
import contextlib
import json

import httpx
import pytest

from deepserve.config import Limits, Settings
from deepserve.server import protocol
from tests.server.live import (
    HELLO,
    PATIENCE_S,
    Gate,
    LiveServer,
    live_server,
    read_all,
    read_until,
    request_bytes,
    scripted,
)

SMALL = Settings(limits=Limits(body_bytes=1000, body_timeout_s=0.05, headers_timeout_s=0.2))


def _error(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head, answer
    message = json.loads(body)["error"]["message"]
    assert isinstance(message, str)
    return message


def _wait_for_a_request(live: LiveServer) -> None:
    """Return when the server is at work on one, whose body may still be on its way."""

    async def arrives() -> None:
        while not live.server.server_state.tasks:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(arrives(), live.loop).result(PATIENCE_S)


def test_a_body_announced_as_too_large_is_refused_before_it_is_sent() -> None:
    with live_server(settings=SMALL) as live, live.connect() as connection:
        connection.sendall(b"POST /chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1001\r\n\r\n")
        head = read_until(connection, b'"}}')
        assert head.startswith(b"HTTP/1.1 413")
        assert "larger than 1000 bytes" in _error(head)


def test_a_body_of_the_largest_size_is_read() -> None:
    with live_server(settings=SMALL) as live:
        value = json.dumps(HELLO).encode()
        answer = httpx.post(live.address + "/chat/completions", content=value + b" " * (1000 - len(value)))
        assert answer.status_code == 200
        answer = httpx.post(live.address + "/chat/completions", content=value + b" " * (1001 - len(value)))
        assert answer.status_code == 413


def test_a_chunked_body_is_counted() -> None:
    with live_server(settings=SMALL) as live, live.connect() as connection:
        connection.sendall(
            b"POST /chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"3e8\r\n"
            + b" " * 1000
            + b"\r\n"
            + b"1\r\n \r\n"
            + b"0\r\n\r\n"
        )
        answer = read_until(connection, b'"}}')
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_client_that_sends_on_after_the_refusal_reads_it() -> None:
    with live_server(settings=SMALL) as live:
        answer = httpx.post(live.address + "/chat/completions", content=(b"x" * 65536 for _ in range(100)))
        assert answer.status_code == 413


def test_compressed_bodies_are_refused_by_name(live: LiveServer) -> None:
    answer = httpx.post(live.address + "/chat/completions", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]["message"]


def test_a_body_that_stops_coming_is_given_up() -> None:
    with live_server(settings=SMALL) as live, live.connect() as connection:
        connection.sendall(b"POST /chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{")
        answer = read_until(connection, b'"}}')
    assert answer.startswith(b"HTTP/1.1 408")
    assert "0.05 seconds" in _error(answer)


def test_a_body_that_crawls_is_given_up_though_it_never_stops() -> None:
    """A byte every 29 seconds kept a place for years."""
    limits = Limits(body_timeout_s=60.0, body_grace_s=0.1, body_bytes_per_s=1000.0)
    with live_server(settings=Settings(limits=limits)) as live, live.connect() as connection:
        connection.sendall(b"POST /chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n")
        connection.settimeout(0.02)
        answer = b""
        for _ in range(400):
            with contextlib.suppress(TimeoutError):
                answer += connection.recv(65536)
                break
            connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408")
    assert "at least 1000 bytes a second" in _error(answer)


def test_a_large_body_may_take_the_time_that_it_needs() -> None:
    limits = Limits(body_grace_s=0.1, body_bytes_per_s=1000.0)
    large = request_bytes({**HELLO, "max_tokens": 1, "x": "x" * 5000})
    with live_server(settings=Settings(limits=limits)) as live, live.connect() as connection:
        connection.sendall(large[:-100])
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(PATIENCE_S)
        connection.sendall(large[-100:])
        assert read_until(connection, b"\r\n").startswith(b"HTTP/1.1 200")


def test_beyond_the_limit_on_connections_requests_are_refused_in_their_dialects_words() -> None:
    gate = Gate()
    settings = Settings(limits=Limits(connections=1))
    with live_server(scripted(gate=gate, text="a", delay_s=1), settings) as live, live.connect() as connection:
        connection.sendall(request_bytes({**HELLO, "stream": True}))
        read_until(connection, b'"role":"assistant"')
        for path, form in (
            ("/chat/completions", ["error"]),
            ("/anthropic/v1/messages", ["type", "error", "request_id"]),
            ("/v1", ["errors", "error"]),
        ):
            answer = live.raw(request_bytes(path=path))
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1\r\n" in answer
            assert list(json.loads(answer.partition(b"\r\n\r\n")[2])) == form
        assert live.get("/health").status_code == 200
        gate.open()
        read_until(connection, b"data: [DONE]\n\n")


def test_an_idle_connection_makes_room_for_a_new_one() -> None:
    with live_server(settings=Settings(limits=Limits(connections=1))) as live, live.connect() as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        read_until(idle, b"ok")
        assert live.post().status_code == 200
        assert read_all(idle) == b""


def test_a_flood_of_connections_is_not_talked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_NUM_TOLD", 1)
    with live_server(settings=Settings(limits=Limits(connections=1))) as live, contextlib.ExitStack() as stack:
        _, told, dropped = (stack.enter_context(live.connect()) for _ in range(3))
        assert read_all(dropped) == b""
        told.sendall(request_bytes())
        assert read_until(told, b"}}").startswith(b"HTTP/1.1 503")


def test_a_server_that_stops_does_not_wait_for_half_a_body() -> None:
    """It waited fifteen seconds for every client that had sent a part and no more."""
    with live_server(settings=Settings(shutdown_grace_s=60)) as live, live.connect() as connection:
        connection.sendall(request_bytes()[:-1])
        _wait_for_a_request(live)
        live.stop()
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: " in answer
    assert "stopping" in _error(answer)


def test_a_head_that_stops_coming_is_given_up() -> None:
    with live_server(settings=SMALL) as live:
        for begun in (b"", b"POST /chat/comp", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: "):
            answer = live.raw(begun)
            assert answer.startswith(b"HTTP/1.1 408")
            assert "did not arrive in time" in _error(answer)


def test_a_head_begun_during_an_answer_does_not_cut_it_short() -> None:
    gate = Gate()
    settings = Settings(keep_alive_s=0.02, limits=Limits(headers_timeout_s=0.1))
    with live_server(scripted(gate=gate, text="a", delay_s=1), settings) as live, live.connect() as connection:
        connection.sendall(request_bytes({**HELLO, "stream": True}) + b"GET /hea")
        for _ in range(10):
            read_until(connection, b": keep-alive\n\n")
        gate.open()
        read_until(connection, b"data: [DONE]\n\n")
        assert read_until(connection, b"}}").count(b"HTTP/1.1 408") == 1


def test_a_bad_second_request_puts_nothing_into_the_answer_to_the_first() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="a", delay_s=1)) as live, live.connect() as connection:
        connection.sendall(request_bytes({**HELLO, "stream": True}))
        begun = read_until(connection, b'"role":"assistant"')
        connection.sendall(b"nonsense\r\n\r\n")
        rest = read_all(connection)
        gate.open()
    assert b"HTTP/1.1 400" not in begun + rest


def test_an_idle_connection_between_requests_is_no_late_head() -> None:
    with live_server(settings=SMALL) as live, live.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        read_until(connection, b"ok")
        connection.settimeout(0.4)
        with pytest.raises(TimeoutError):
            connection.recv(1)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 101 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"b" * 33_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"b" * 60_000, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)
def test_heads_beyond_the_limits_and_bad_http_get_a_json_error(live: LiveServer, head: bytes, status: bytes) -> None:
    answer = live.raw(head)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"x-request-id: " in answer
    assert _error(answer)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/chat/completions", ["error"]),
        ("/anthropic/v1/messages", ["type", "error", "request_id"]),
        ("/api/v1/chat/completions", ["error"]),
        ("/v1", ["errors", "error"]),
    ],
)
@pytest.mark.parametrize("rest", ["?" + "a" * 9000 + " HTTP/1.1\r\n", " HTTP/1.1\r\na: " + "b" * 33_000])
def test_a_head_beyond_the_limits_is_refused_in_the_form_of_its_address(
    live: LiveServer, path: str, form: list[str], rest: str
) -> None:
    """Every dialect's client got the error of the vendor's Chat API, which Anthropic's SDK cannot read."""
    answer = live.raw(f"POST {path}{rest}\r\n\r\n".encode())
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert list(body) == form
    if "api/v1" in path:
        assert "metadata" in body["error"]


def test_a_fault_in_a_chunk_ends_the_request_only(live: LiveServer) -> None:
    answer = live.raw(b"POST /chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert live.post().status_code == 200


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b'{"model":3}', b"\xff", b'{"model":"deepseek-v4-pro","messages":{}}', b"[" * 10_000]
)
def test_bodies_that_make_no_sense_are_the_clients_fault(live: LiveServer, value: bytes) -> None:
    answer = live.raw(request_bytes(value, headers="connection: close\r\n"))
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_large_body_is_not_counted_to_the_head_behind_it(live: LiveServer) -> None:
    """The piece that ended a body and began the next request was counted as head, and both requests were lost."""
    large = request_bytes({**HELLO, "max_tokens": 1, "x": "x" * 100_000})
    with live.connect() as connection:
        connection.sendall(large + b"GET /health HTTP/1.1\r\nhost: local")
        read_until(connection, b"HTTP/1.1 200")
        connection.sendall(b"host\r\nconnection: close\r\n\r\n")
        assert read_until(connection, b'{"status":"ok"}')


def test_a_pipelined_second_request_is_answered_too(live: LiveServer) -> None:
    answer = live.raw(request_bytes() + request_bytes(headers="connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 200") == 2
