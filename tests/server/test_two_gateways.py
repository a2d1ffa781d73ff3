"""Two gateways, real processes, on one PostgreSQL database: either may be asked, and either may be killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import select

from deepserve.core.tenant import Grant, RateLimits, TenantId
from deepserve.engine.native.shared_library import find_library
from deepserve.store.agreements import FINGERPRINT, agree
from deepserve.store.database import Database, open_database
from deepserve.store.keys import KeyStore
from deepserve.store.tables import ledger
from tests.conftest import running_server
from tests.databases import PostgresServer

CHAT: dict[str, Any] = {  # Any: JSON
    "model": "deepseek-v4-flash",
    "messages": [{"role": "user", "content": "hello"}],
}
_PATIENCE_S = 30.0
_LEASE_S = 1.0
"""A gateway that is too slow to renew it has its work taken over as if it had died, which harms no test here."""
_SCRIPT = '[[rules]]\nreply = { text = "one two three four five six", delay_s = 0.002 }\n'
_SLOW_SCRIPT = '[[rules]]\nreply = { text = "at last", first_delay_s = 3600 }\n'


class Gateways:
    """Any number on one database, each with a state directory of its own and the secret of all."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._script, self.slow_script = folder / "script.toml", folder / "slow.toml"
        self._script.write_text(_SCRIPT)
        self.slow_script.write_text(_SLOW_SCRIPT)
        config = folder / "deepserve.toml"
        config.write_text(f"[tasks]\nlease_s = {_LEASE_S}\n[waiting]\nwait_s = 0\n")
        secret = folder / "secret"
        secret.write_bytes(secrets.token_bytes(32))
        self._options = ("--config", str(config), "--database", address, "--secret-file", str(secret))

    def run(self, *options: str, is_killed: bool = False) -> contextlib.AbstractContextManager[str]:
        state_dir = self._folder / f"gateway-{next(self._numbers)}"
        state_dir.mkdir()
        options = options or ("--backend", "scripted", "--script", str(self._script))
        return running_server(*self._options, *options, state_dir=state_dir, is_killed=is_killed)


@pytest.fixture
def gateways(tmp_path: Path, postgres_place: str) -> Gateways:
    return Gateways(tmp_path, postgres_place)


@pytest.fixture
def database(postgres_place: str) -> Iterator[Database]:
    database = open_database(postgres_place)
    yield database
    database.dispose()


class Pair(NamedTuple):
    """Two gateways that many tests share because they disturb nothing. secret: of a key that both know."""

    one: str
    other: str
    secret: str
    database: Database

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


@pytest.fixture(scope="module")
def pair(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    address = postgres_server.create_database()
    database = open_database(address)
    gateways = Gateways(tmp_path_factory.mktemp("pair"), address)
    try:
        secret = keys_of(database).create(TenantId("alice")).secret
        with gateways.run() as one, gateways.run() as other:
            yield Pair(one, other, secret, database)
    finally:
        database.dispose()


def keys_of(database: Database) -> KeyStore:
    return KeyStore(database, random_hex=secrets.token_hex, now=lambda: datetime.now(UTC))


def ask(base: str, path: str, body: Any = None, **headers: str) -> Any:  # Any: JSON
    return ask_whole(base, path, body, **headers)[0]


def ask_whole(base: str, path: str, body: Any = None, **headers: str) -> tuple[Any, Any]:  # Any: JSON, and headers
    request = urllib.request.Request(
        f"{base}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answered:
        return json.load(answered), answered.headers


def until_ended(base: str, name: str) -> Any:  # Any: JSON
    while (answer := ask(base, f"/v1/responses/{name}"))["status"] in ("queued", "in_progress"):
        pass
    return answer


def test_a_response_is_continued_at_once_wherever_it_was_made(pair: Pair) -> None:
    answer = ask(pair.one, "/v1/responses", {"model": "deepseek-v4-flash", "input": "hello"}, **pair.headers)
    for number in range(5):
        body = {"model": "deepseek-v4-flash", "input": "go on", "previous_response_id": answer["id"]}
        answer = ask((pair.other, pair.one)[number % 2], "/v1/responses", body, **pair.headers)
        assert answer["status"] == "completed"
    here, there = (ask(base, f"/v1/responses/{answer['id']}", **pair.headers) for base in (pair.one, pair.other))
    assert here == there


def test_a_request_that_is_sent_again_to_the_other_is_answered_and_billed_once(pair: Pair) -> None:
    headers = {"Idempotency-Key": "retry", **pair.headers}
    before = num_rows(pair.database)
    answers = [ask_whole(base, "/v1/chat/completions", CHAT, **headers) for base in (pair.one, pair.other, pair.one)]
    assert len({answer["id"] for answer, _ in answers}) == 1
    assert [told.get("idempotent-replayed") for _, told in answers] == [None, "true", "true"]
    assert num_rows(pair.database) - before == 1


def num_rows(database: Database) -> int:
    with database.connect() as connection:
        return len(connection.execute(select(ledger.c.request_id)).all())


def test_a_key_made_while_both_run_is_known_to_both_and_revoked_at_both(pair: Pair) -> None:
    keys = keys_of(pair.database)
    made = keys.create(TenantId("bob"))
    headers = {"Authorization": f"Bearer {made.secret}"}
    for base in (pair.one, pair.other):
        assert status_of(base, "/v1/chat/completions", CHAT, **headers)[0] == 200
    keys.revoke(made.id)
    for base in (pair.one, pair.other):
        while status_of(base, "/v1/chat/completions", CHAT, **headers)[0] != 401:
            pass
        assert status_of(base, "/v1/chat/completions", CHAT, **pair.headers)[0] == 200


def test_what_a_key_may_do_in_a_minute_is_counted_by_both_together(pair: Pair) -> None:
    grant = Grant(limits=RateLimits(requests_per_minute=4))
    headers = {"Authorization": f"Bearer {keys_of(pair.database).create(TenantId('carol'), grant=grant).secret}"}
    statuses = []
    for number in range(8):
        statuses.append(status_of((pair.one, pair.other)[number % 2], "/v1/chat/completions", CHAT, **headers)[0])
    assert statuses == [200] * 4 + [429] * 4


def test_work_that_one_accepted_is_finished_by_the_other_when_it_is_killed(gateways: Gateways) -> None:
    body = {"model": "deepseek-v4-flash", "input": "slow", "background": True}
    patient = ("--backend", "scripted", "--script", str(gateways.slow_script))
    with gateways.run() as other:
        with gateways.run(*patient, is_killed=True) as one:
            names = [ask(one, "/v1/responses", body)["id"] for _ in range(6)]
            assert ask(other, f"/v1/responses/{names[0]}")["id"] == names[0]
        for name in names:
            answer = until_ended(other, name)
            assert (answer["status"], answer["id"]) == ("completed", name)
            assert answer["output"][-1]["content"][0]["text"] == "one two three four five six"


def test_whatever_was_answered_before_a_kill_stands_in_the_ledger(gateways: Gateways, database: Database) -> None:
    """Clients stream from both while one is killed at a moment of chance: who saw an end finds the row of it."""
    chance = random.Random(17)
    ended: list[str] = []
    body = {
        "model": "deepseek-v4-flash",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
    }

    def stream_until_refused(base: str, stop: threading.Event) -> None:
        request = urllib.request.Request(
            f"{base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        while not stop.is_set():
            try:
                with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answered:
                    text = answered.read().decode()
            except (OSError, ValueError):
                return
            except Exception:  # noqa: BLE001 - a stream that breaks off in the middle
                return
            if text.endswith("data: [DONE]\n\n"):
                ended.append(json.loads(text.splitlines()[0].removeprefix("data: "))["id"])

    with gateways.run() as survivor, ThreadPoolExecutor(6) as pool:
        stop = threading.Event()
        for _ in range(2):
            pool.submit(stream_until_refused, survivor, stop)
        for _ in range(2):
            with gateways.run(is_killed=True) as victim:
                before, wanted = len(ended), chance.randint(5, 40)
                for _ in range(3):
                    pool.submit(stream_until_refused, victim, threading.Event())
                while len(ended) < before + wanted:
                    pass
        stop.set()
    assert len(ended) >= 10
    with database.connect() as connection:
        known = set(connection.execute(select(ledger.c.request_id)).scalars())
    assert {name.replace("-", "") for name in ended} <= known


def test_a_turn_is_rendered_the_same_at_the_other_though_the_client_kept_no_trace(gateways: Gateways) -> None:
    if find_library() is None:
        pytest.importorskip("torch", reason="answering needs the native core or deepserve[reference]")
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    body: dict[str, Any] = {  # Any: JSON
        "model": "deepseek-v4-flash",
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [tool],
        "temperature": 0,
    }
    with gateways.run("--disk-cache", "0") as one, gateways.run("--disk-cache", "0") as other:
        message = ask(one, "/v1/chat/completions", body)["choices"][0]["message"]
        assert message.pop("reasoning_content")
        (call,) = message["tool_calls"]
        result = {"role": "tool", "tool_call_id": call["id"], "content": "Sunny"}
        body["messages"] = [*body["messages"], message, result]
        there, headers = ask_whole(other, "/v1/chat/completions", body)
        here, _ = ask_whole(one, "/v1/chat/completions", body)
    assert headers["x-deepserve-reasoning"] == "sent=0 restored=1 missing=0"
    assert there["usage"]["prompt_tokens"] == here["usage"]["prompt_tokens"]
    assert there["choices"][0]["message"]["content"] == here["choices"][0]["message"]["content"]


def test_a_gateway_with_another_secret_does_not_start(gateways: Gateways, database: Database) -> None:
    assert agree(database, FINGERPRINT, "another's")
    with pytest.raises(AssertionError, match="not that of the other servers"), gateways.run():
        pass


def status_of(base: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, str | None]:  # Any: JSON
    """The status, the error's code or type, and `retry-after`."""
    try:
        ask(base, path, body, **headers)
    except urllib.error.HTTPError as error:
        told = json.loads(error.read())
        return error.code, json.dumps(told.get("error", told)), error.headers.get("retry-after")
    return 200, "", None


_STRANGE = ("%00", "a%00b", "%ED%A0%80", "%F0%9F%90%B1", "'--", "x" * 3000)


def test_ids_that_no_database_can_hold_are_unknown_and_no_fault(pair: Pair) -> None:
    """NUL and halves of characters are no text to PostgreSQL: looking for them raised."""
    base = pair.one
    for strange in _STRANGE:
        for path in (
            f"/v1/responses/{strange}",
            f"/v1/responses/{strange}/input_items",
            f"/api/v1/generation?id={strange}",
            f"/v1/models/{strange}",
        ):
            assert status_of(base, path, **pair.headers)[0] in (400, 404), path
    for strange in ("\0", "a\0b", "\ud800", "resp_\0"):
        asked = {"model": "deepseek-v4-flash", "input": "hello", "previous_response_id": strange}
        assert status_of(base, "/v1/responses", asked, **pair.headers)[0] == 400
        assert status_of(base, "/v1/chat/completions", {**CHAT, "user_id": strange}, **pair.headers)[0] in (200, 400)
        runware = [{"taskType": "getResponse", "taskUUID": strange}]
        assert status_of(base, "/v1", runware, **pair.headers)[0] in (200, 400)


def test_while_the_database_is_away_requests_are_refused_in_time_and_then_answered_again(
    gateways: Gateways, database: Database, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    authorization = f"Bearer {keys_of(database).create(TenantId('alice')).secret}"
    with gateways.run() as base:

        def status(path: str, body: Any) -> tuple[int, str, str | None]:  # Any: JSON
            return status_of(base, path, body, Authorization=authorization)

        assert status("/v1/chat/completions", CHAT)[0] == 200
        try:
            postgres_server.stop(at_once=True)
            while (refused := status("/v1/chat/completions", CHAT))[0] == 200:
                pass
            assert refused[0] == 503
            assert refused[2] is not None
            messages = {"model": "deepseek-v4-flash", "max_tokens": 9, "messages": CHAT["messages"]}
            assert status("/anthropic/v1/messages", messages)[0] == 503
            assert status("/v1/responses/resp_1", None)[0] == 503
            assert ask(base, "/health") == {"status": "ok"}
        finally:
            postgres_server.start()
        while status("/v1/chat/completions", CHAT)[0] != 200:
            pass
    log = "".join(path.read_text() for path in tmp_path.glob("gateway-*/server.log"))
    assert postgres_server.password not in log
    assert "Traceback" not in log
