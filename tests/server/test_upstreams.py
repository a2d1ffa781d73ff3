"""Upstreams that misbehave over real sockets, the whole server in front: clients get an answer or a clear error."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from deepserve.backends.selection import select_backend
from deepserve.catalog.price_table import load_prices
from deepserve.catalog.prices import cost_usd
from deepserve.config import FleetSettings, Settings, UpstreamSettings
from deepserve.core.tenant import Grant, KeyId, Tenant, TenantId
from deepserve.core.usage import Usage
from deepserve.store.database import Database, open_database
from deepserve.store.ledger_record import LedgerRecord
from tests.backends.upstream.setup import DONE, END, GOOD, HELLO, USAGE, delta, frame, head
from tests.outgoing.receiver import Received, Receiver, Respond, answer
from tests.server.live import HELLO as QUESTION
from tests.server.live import LiveServer, live_server, read_until, request_bytes

BLANK = b": keep-alive\n\n"


@contextmanager
def misbehaving(*answers: bytes | Respond) -> Iterator[Receiver]:
    """An upstream in a thread of its own."""
    receiver = Receiver(*answers)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(receiver.__aenter__(), loop).result(5)
        yield receiver
    finally:
        asyncio.run_coroutine_threadsafe(receiver.__aexit__(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def _upstream(id_: str, address: str, **fields: Any) -> UpstreamSettings:  # Any: fields of UpstreamSettings
    # Of a kind that is not asked for its models at start, so that the first call is a question.
    return UpstreamSettings(
        **{"id": id_, "kind": "oxen", "address": f"http://{address}/v1", "num_retries": 0, "idle_s": 0.3, **fields}
    )


@contextmanager
def served(
    *upstreams: UpstreamSettings,
    fleet: FleetSettings | None = None,
    database: Database | None = None,
    **fields: Any,  # Any: fields of Settings
) -> Iterator[LiveServer]:
    settings = Settings(backend="upstream", upstreams=upstreams, fleet=fleet or FleetSettings(), **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OXEN_API_KEY", "sk-test")
        backend = select_backend(settings)
    with live_server(backend, settings, database=database) as live:
        yield live


@contextmanager
def behind(
    *members: Sequence[bytes | Respond], options: Sequence[dict[str, Any]] = (), **fields: Any
) -> Iterator[tuple[LiveServer, list[Receiver]]]:  # Any: fields of UpstreamSettings and of Settings
    """A server in front of upstreams `one`, `two`, …, each with its answers."""
    with ExitStack() as stack:
        receivers = [stack.enter_context(misbehaving(*answers)) for answers in members]
        upstreams = [
            _upstream(name, receiver.host, **(options[number] if number < len(options) else {}))
            for number, (name, receiver) in enumerate(zip(("one", "two", "three"), receivers, strict=False))
        ]
        yield stack.enter_context(served(*upstreams, **fields)), receivers


def _streamed(live: LiveServer, **fields: Any) -> tuple[str, list[dict[str, Any]]]:  # Any: JSON
    """The text, and the error objects. The stream has its terminator."""
    with httpx.stream(
        "POST", f"{live.address}/v1/chat/completions", json={**QUESTION, "stream": True, **fields}
    ) as got:
        assert got.status_code == 200
        frames = [line.removeprefix("data: ") for line in got.iter_lines() if line.startswith("data: ")]
    assert frames[-1] == "[DONE]"
    chunks = [json.loads(one) for one in frames[:-1]]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))
    return text, [chunk["error"] for chunk in chunks if "error" in chunk]


def _then(*pieces: bytes, stays: bool = False, repeats: bytes | None = None) -> Respond:
    """Writes the pieces one by one, then closes, stays silent, or repeats one for ever."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        while repeats is not None:
            writer.write(repeats)
            await writer.drain()
            await asyncio.sleep(0)
        if stays:
            await asyncio.Event().wait()

    return respond


WHOLE = {"model": "m", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE}
NO_ANSWERS: list[tuple[bytes, int, str]] = [
    (answer(502, "Content-Type: text/html", body=b"<html>nginx</html>"), 502, "a page instead"),
    (head("text/html") + b"<html>Welcome</html>", 502, "web page"),
    (head("application/json") + b'{"choices":[{"mess', 502, "cannot be read"),
    (head("application/json") + b'{"error":{"message":"inside"}}', 502, "inside"),
    (head() + frame({"error": {"code": 429, "message": "slow down"}}), 429, "slow down"),
    (head(), 502, "before it began"),
    (head() + b"data: {oops\n\n", 502, "cannot be read"),
    (answer(401, body=b"{}"), 502, "does not accept the key"),
    (answer(500, body=b'{"error":{"message":"oh"}}'), 502, "oh"),
    (b"", 502, "failed"),
]


@pytest.mark.parametrize(("said", "status", "words"), NO_ANSWERS)
def test_what_is_no_answer_is_a_clear_error(said: bytes, status: int, words: str) -> None:
    with behind([said]) as (live, _):
        whole = live.post("/v1/chat/completions")
        assert whole.status_code == status, whole.text
        assert words in whole.json()["error"]["message"]
        streamed = live.post("/v1/chat/completions", stream=True)
        assert streamed.status_code == status, streamed.text
        assert streamed.json()["error"]["message"]


@pytest.mark.parametrize("said", [said for said, _, _ in NO_ANSWERS])
def test_a_client_never_notices_that_one_of_two_is_broken(said: bytes) -> None:
    with behind([said], [GOOD]) as (live, (one, two)):
        response = live.post("/v1/chat/completions")
        assert response.status_code == 200, response.text
        assert response.json()["choices"][0]["message"]["content"] == "Hello there"
        assert response.headers["x-deepserve-served-by"].startswith("two/")
        assert _streamed(live) == ("Hello there", [])
        assert len(one.received) >= 1
        assert len(two.received) == 2


def test_a_client_never_notices_that_one_of_two_is_gone() -> None:
    with misbehaving() as gone:
        pass
    with misbehaving(GOOD) as two, served(_upstream("one", gone.host), _upstream("two", two.host)) as live:
        for _ in range(7):
            assert live.post("/v1/chat/completions").status_code == 200
        states = {one["id"]: one for one in live.get("/v1/upstreams").json()["data"] if one["attempts"]}
        assert states["one"]["state"] == "failing"
        assert states["one"]["attempts"] == 5
        assert states["two"]["state"] == "ready"


def test_where_all_are_gone_the_error_says_so_and_when_to_come_back() -> None:
    with misbehaving() as gone:
        pass
    with served(_upstream("one", gone.host)) as live:
        told = [live.post("/v1/chat/completions") for _ in range(6)]
        assert {one.status_code for one in told[:5]} == {502}
        assert "cannot be reached" in told[0].json()["error"]["message"]
        assert told[5].status_code == 503
        assert int(told[5].headers["retry-after"]) >= 1


def test_a_wait_that_an_upstream_asks_for_reaches_the_client_where_nobody_else_can_answer() -> None:
    limited = answer(429, "Retry-After: 30", body=b'{"error":{"message":"slow down"}}')
    with behind([limited]) as (live, (one,)):
        for status in (429, 503):
            response = live.post("/v1/chat/completions")
            assert response.status_code == status
            assert 25 <= int(response.headers["retry-after"]) <= 30
        assert len(one.received) == 1
    with behind([limited], [GOOD]) as (live, (one, two)):
        for _ in range(3):
            assert live.post("/v1/chat/completions").status_code == 200
        assert (len(one.received), len(two.received)) == (1, 3)


def test_a_slow_first_token_is_given_up_and_the_next_is_asked() -> None:
    slow = _then(head(), repeats=None, stays=True)
    with behind([slow], [GOOD], options=[{"first_event_s": 0.1}]) as (live, _):
        assert _streamed(live) == ("Hello there", [])
    with behind([slow], options=[{"first_event_s": 0.1}]) as (live, _):
        response = live.post("/v1/chat/completions")
        assert response.status_code == 504
        assert "did not begin to answer" in response.json()["error"]["message"]


def test_a_second_one_is_asked_beside_a_slow_first_where_the_operator_wants_it() -> None:
    slow = _then(head(), stays=True)
    with behind([slow], [GOOD], options=[{"first_event_s": 30}], fleet=FleetSettings(hedge_s=0.05)) as (live, _):
        assert _streamed(live) == ("Hello there", [])


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (_then(head() + HELLO), "closed the stream"),
        (_then(head() + HELLO, b"data: {oops\n\n"), "cannot be read"),
        (_then(head() + HELLO, frame({"error": {"message": "died"}})), "died"),
        (_then(head() + HELLO, stays=True), "stopped in the middle"),
        (_then(head() + HELLO, repeats=BLANK), "stopped in the middle"),
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error_and_its_terminator(rest: Respond, words: str) -> None:
    with behind([rest], [GOOD]) as (live, (_, two)):
        text, errors = _streamed(live)
        assert text == "Hello there"
        assert words in errors[0]["message"]
        assert two.received == []


def test_a_stream_that_repeats_itself_for_ever_is_ended() -> None:
    endless = _then(head() + HELLO, repeats=frame(delta(content="again and " * 50)))
    fleet = FleetSettings(max_repeated_characters=20_000)
    with behind([endless], fleet=fleet) as (live, _):
        text, errors = _streamed(live)
        assert "repeated the same text" in errors[0]["message"]
        assert 20_000 < len(text) < 40_000
        assert live.get("/v1/upstreams").json()["data"][1]["bad_answers"] == 1


def test_an_answer_one_byte_at_a_time_is_an_answer() -> None:
    slow = _then(head(), *(bytes([byte]) for byte in BLANK + HELLO + END + DONE))
    with behind([slow]) as (live, _):
        assert _streamed(live) == ("Hello there", [])


def test_a_stream_that_never_ends_after_its_end_is_over() -> None:
    with behind([_then(head(), HELLO, END, repeats=BLANK)]) as (live, _):
        assert _streamed(live) == ("Hello there", [])


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 2},
        {"prompt_tokens": 5, "completion_tokens": 2, "prompt_cache_hit_tokens": 500},
        {"prompt_tokens": "many"},
        {"prompt_tokens": 1.5, "completion_tokens": []},
        "none",
        [],
        None,
    ],
)
def test_a_wrong_usage_costs_nobody_the_answer(usage: object) -> None:
    """It came with the last chunk, when everything else had long been told."""
    end = frame({**delta(finish="stop"), "usage": usage})
    with behind([head() + HELLO + end + DONE]) as (live, _):
        assert _streamed(live) == ("Hello there", [])
        found = live.post("/v1/chat/completions").json()["usage"]
        assert found["prompt_tokens"] >= 0
        assert found["prompt_cache_hit_tokens"] + found["prompt_cache_miss_tokens"] == found["prompt_tokens"]


def test_keep_alives_stop_when_the_upstream_is_given_up() -> None:
    """The client hears comments while it waits, then the error, and then nothing more."""
    with (
        behind([_then(head(), stays=True)], options=[{"first_event_s": 0.5}], keep_alive_s=0.05) as (live, _),
        live.connect() as connection,
    ):
        connection.sendall(request_bytes({**QUESTION, "stream": True}, headers="connection: close\r\n"))
        raw = read_until(connection, b"[DONE]")
        while piece := connection.recv(65536):
            raw += piece
    before, _, after = raw.partition(b'"error"')
    assert before.count(b": keep-alive") >= 3
    assert b": keep-alive" not in after
    assert b"did not begin to answer" in after


# The operator's page


def test_the_page_and_the_metrics_say_how_each_does() -> None:
    with behind([answer(500)], [GOOD]) as (live, _):
        for _ in range(6):
            assert live.post("/v1/chat/completions").status_code == 200
        page = live.get("/v1/upstreams").json()
        assert [(one["id"], one["model"]) for one in page["data"]][:2] == [
            ("one", "deepseek-v4-pro"),
            ("one", "deepseek-v4-flash"),
        ]
        one = page["data"][1]
        assert (one["state"], one["failures"], one["attempts"]) == ("failing", 5, 5)
        assert "status 500" in one["problem"]
        assert 0 < one["retry_s"] <= 2


def test_an_operator_can_drain_an_upstream_and_take_it_back() -> None:
    with behind([GOOD], [GOOD]) as (live, (one, two)):
        assert httpx.post(f"{live.address}/v1/upstreams/one/drain").status_code == 200
        live.post("/v1/chat/completions")
        assert (len(one.received), len(two.received)) == (0, 1)
        page = httpx.post(f"{live.address}/v1/upstreams/one/resume").json()
        assert page["data"][0]["state"] == "ready"
        live.post("/v1/chat/completions")
        assert (len(one.received), len(two.received)) == (1, 1)
        assert httpx.post(f"{live.address}/v1/upstreams/nobody/drain").status_code == 404


def test_only_administrators_see_the_page() -> None:
    class Keys:
        def find(self, key: str) -> Tenant | None:
            grant = Grant(is_admin=key == "admin")
            return Tenant(id=TenantId("t"), name="t", key=KeyId(key), grant=grant)

    settings = Settings(backend="upstream", upstreams=(_upstream("one", "127.0.0.1:9"),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OXEN_API_KEY", "sk-test")
        backend = select_backend(settings)
    with live_server(backend, settings, lookups=(Keys(),)) as live:
        assert live.get("/v1/upstreams", authorization="Bearer admin").status_code == 200
        response = live.get("/v1/upstreams", authorization="Bearer user")
        assert response.status_code == 403
        assert "--admin" in response.json()["error"]["message"]
        drain = httpx.post(f"{live.address}/v1/upstreams/one/drain", headers={"authorization": "Bearer user"})
        assert drain.status_code == 403


def test_a_server_with_one_back_end_of_its_own_has_no_upstreams() -> None:
    with live_server() as live:
        assert live.get("/v1/upstreams").json() == {"object": "list", "data": []}


# Where a prompt may go


def test_a_client_may_keep_its_prompt_on_the_operators_machines_or_in_a_region() -> None:
    options: list[dict[str, Any]] = [{"region": "us"}, {"region": "eu"}, {"is_self_hosted": True}]  # Any: as above
    with behind([GOOD], [GOOD], [GOOD], options=options) as (live, receivers):
        for headers, who in (
            ({"x-deepserve-self-host": "1"}, "three"),
            ({"x-deepserve-residency": "eu"}, "two"),
            ({}, "one"),
        ):
            response = httpx.post(f"{live.address}/v1/chat/completions", json=QUESTION, headers=headers)
            assert response.headers["x-deepserve-served-by"].startswith(f"{who}/")
        assert [len(one.received) for one in receivers] == [1, 1, 1]
    with behind([GOOD], options=options) as (live, (one,)):
        response = httpx.post(
            f"{live.address}/v1/chat/completions", json=QUESTION, headers={"x-deepserve-self-host": "1"}
        )
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "x-deepserve-self-host"
        assert one.received == []


def test_openrouters_fallbacks_and_providers_work_through_the_server() -> None:
    """The first model is down at both; the second is only at one of them."""

    async def by_model(received: Received, writer: asyncio.StreamWriter) -> None:
        is_pro = json.loads(received.body)["model"] == "deepseek-v4-pro"
        writer.write(answer(500) if is_pro else GOOD)

    with behind([by_model], [by_model], options=[{"models": {"deepseek-v4-pro": "deepseek-v4-pro"}}]) as (live, _):
        body = {**QUESTION, "model": "deepseek/deepseek-v4-pro", "models": ["deepseek/deepseek-v4-flash"]}
        response = httpx.post(f"{live.address}/api/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["model"] == "deepseek/deepseek-v4-flash-20260423"
        assert response.json()["provider"] == "two"
        price = load_prices().price_at("deepseek-v4-flash", datetime.fromtimestamp(response.json()["created"], UTC))
        assert price is not None
        cost = cost_usd(Usage(miss_tokens=USAGE["prompt_tokens"], answer_tokens=USAGE["completion_tokens"]), price)
        assert Decimal(str(response.json()["usage"]["cost"])) == cost.total_usd
        assert response.headers["x-deepserve-route"].startswith("model=deepseek-v4-flash; rule=fallback")
        refused = httpx.post(f"{live.address}/api/v1/chat/completions", json={**body, "provider": {"only": ["nobody"]}})
        assert refused.status_code == 404
        assert refused.json()["error"]["availability"]["excluded_by"] == ["allowed_providers"]


_SKINS: list[tuple[str, dict[str, Any]]] = [  # Any: JSON
    (
        "/api/v1/messages",
        {"messages": QUESTION["messages"], "max_tokens": 50, "fallbacks": [{"model": "deepseek/deepseek-v4-flash"}]},
    ),
    ("/api/v1/messages", {"messages": QUESTION["messages"], "max_tokens": 50, "models": ["deepseek-v4-flash"]}),
    ("/api/v1/responses", {"input": "hello", "models": ["deepseek/deepseek-v4-flash"]}),
]


@pytest.mark.parametrize(("path", "fields"), _SKINS)
@pytest.mark.parametrize("stream", [False, True])
def test_openrouters_other_dialects_fall_back_and_name_who_answered(
    path: str,
    fields: dict[str, Any],
    stream: bool,  # Any: JSON
) -> None:
    async def by_model(received: Received, writer: asyncio.StreamWriter) -> None:
        is_pro = json.loads(received.body)["model"] == "deepseek-v4-pro"
        writer.write(answer(500) if is_pro else GOOD)

    body = {"model": "deepseek/deepseek-v4-pro", **fields, "stream": stream, "provider": {"order": ["one"]}}
    with behind([by_model]) as (live, _):
        response = httpx.post(f"{live.address}{path}", json=body)
        assert response.status_code == 200, response.text
        assert '"model":"deepseek-v4-flash"' in response.text
        assert '"model":"deepseek-v4-pro"' not in response.text
        assert "Hello" in response.text
        assert "x-deepserve-ignored" not in response.headers
        refused = httpx.post(f"{live.address}{path}", json={**body, "provider": {"only": ["nobody"]}})
        assert refused.status_code == 400
        assert "No allowed providers" in refused.text


def test_fallbacks_are_said_once() -> None:
    with behind([GOOD]) as (live, _):
        many = [{"model": "deepseek-v4-flash"}] * 4
        for fields, words in (
            ({"fallbacks": many}, "At most 3"),
            ({"fallbacks": many[:1], "models": ["deepseek-v4-flash"]}, "the same"),
            ({"fallbacks": [{}]}, "model"),
        ):
            body = {"model": "deepseek-v4-pro", "max_tokens": 5, "messages": QUESTION["messages"], **fields}
            response = httpx.post(f"{live.address}/api/v1/messages", json=body)
            assert response.status_code == 400
            assert words in response.json()["error"]["message"]


def test_the_catalogue_lists_who_answers_behind_the_server() -> None:
    options: list[dict[str, Any]] = [  # Any: as above
        {"kind": "fireworks", "key_variable": "OXEN_API_KEY"},
        {"models": {"deepseek-v4-pro": "x"}},
    ]
    with behind([answer(500)], [GOOD], options=options) as (live, _):
        for _ in range(5):
            live.post("/v1/chat/completions", model="deepseek-v4-pro")
        page = live.get("/api/v1/models/deepseek/deepseek-v4-pro/endpoints").json()["data"]["endpoints"]
        assert [(one["tag"], one["provider_name"], one["status"]) for one in page] == [
            ("one", "one", -1),
            ("two", "two", 0),
        ]
        assert page[0]["pricing"] != page[1]["pricing"]
        flash = live.get("/api/v1/models/deepseek/deepseek-v4-flash/endpoints").json()["data"]["endpoints"]
        assert [one["tag"] for one in flash] == ["one"]
        assert [one["slug"] for one in live.get("/api/v1/providers").json()["data"]] == ["one", "two"]
        private = live.get("/api/v1/endpoints/zdr").json()["data"]
        assert {one["tag"] for one in private} == {"one"}


def test_usage_of_a_fallback_is_that_of_the_answer() -> None:
    with behind([answer(503)], [GOOD]) as (live, _):
        usage = live.post("/v1/chat/completions").json()["usage"]
        assert usage["prompt_tokens"] == Usage(miss_tokens=USAGE["prompt_tokens"]).prompt_tokens
        assert usage["completion_tokens"] == USAGE["completion_tokens"]


# The ledger


def _rows_of(
    tmp_path: Path, *members: Sequence[bytes | Respond], statuses: Sequence[int], **options: Any
) -> list[tuple[Any, ...]]:  # Any: columns of the ledger
    """What stands in the ledger after one question, an attempt in each row."""
    database = open_database(tmp_path)
    with behind(*members, database=database, **options) as (live, _):
        assert live.post("/v1/chat/completions").status_code in statuses
    rows = list(LedgerRecord(database).rows())
    assert len({row.request_id for row in rows}) == 1
    assert all(row.ended_at is not None and row.ended_at >= row.arrived_at for row in rows)
    return [(row.number, row.provider, row.outcome, row.miss_tokens, row.total_pico_usd > 0) for row in rows]


def test_the_ledger_has_every_attempt_and_the_answer_last(tmp_path: Path) -> None:
    limited, broken = answer(503, "Retry-After: 0"), head("text/html") + b"<html>"
    assert _rows_of(tmp_path, [limited], [broken], [GOOD], statuses=[200]) == [
        (1, "one", "overloaded", 0, False),
        (2, "two", "backend_failure", 0, False),
        (3, "three", "stop", USAGE["prompt_tokens"], True),
    ]


def test_the_ledger_has_every_attempt_where_all_failed(tmp_path: Path) -> None:
    options = [{"num_retries": 1}]
    refused = answer(429, "Retry-After: 0")
    assert _rows_of(tmp_path, [refused], [answer(500)], statuses=[429], options=options) == [
        (1, "one", "too_many_requests", 0, False),
        (2, "two", "backend_failure", 0, False),
        (3, "one", "too_many_requests", 0, False),
    ]


def test_the_ledger_has_what_was_told_of_an_answer_that_broke_off(tmp_path: Path) -> None:
    (row,) = _rows_of(tmp_path, [head() + HELLO], statuses=[502])
    assert row[:3] == (1, "one", "backend_failure")
