"""A request sent again under the same Idempotency-Key gets the first answer."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from deepserve.config import Settings
from deepserve.core.errors import InvalidField
from deepserve.core.events import BlockClosed, BlockDelta, BlockOpened, Event, Finished, Started, TextBlock
from deepserve.core.provider import ServedBy
from deepserve.core.tenant import TenantId
from deepserve.dialects.exchange import AnswerHead
from deepserve.server.replay import ReplayMemory
from tests.server.live import HELLO, PATIENCE_S, Gate, LiveServer, live_server, request_bytes, scripted

HEAD = AnswerHead(id="i", created_at=datetime(2026, 11, 20, tzinfo=UTC), model="m")
A, B = TenantId("a"), TenantId("b")


def _post(live: LiveServer, key: str, **fields: Any) -> httpx.Response:  # Any: JSON
    headers = {"idempotency-key": key}
    return httpx.post(live.address + "/chat/completions", json={**HELLO, **fields}, headers=headers, timeout=PATIENCE_S)


def _num_answered(live: LiveServer) -> float:
    lines = [line for line in live.get("/metrics").text.splitlines() if line.startswith("deepserve_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def _told(stream: httpx.Response) -> tuple[str, str]:
    """The trace and the text of a stream."""
    chunks = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    return "".join(d.get("reasoning_content") or "" for d in deltas), "".join(d["content"] or "" for d in deltas)


def test_a_whole_answer_is_given_again_without_being_computed_again() -> None:
    with live_server() as live:
        first, second, other = _post(live, "k"), _post(live, "k"), _post(live, "k2")
        assert first.content == second.content
        assert first.json()["id"] != other.json()["id"]
        assert [answer.headers.get("idempotent-replayed") for answer in (first, second, other)] == [None, "true", None]
        assert first.headers["x-request-id"] != second.headers["x-request-id"]
        assert _num_answered(live) == 2


def test_a_stream_is_given_again_with_its_end() -> None:
    with live_server(scripted(reasoning="a b", text="c d e")) as live:
        first, second = (_post(live, "k", stream=True, logprobs=True) for _ in range(2))
        assert _told(first) == _told(second) == ("a b", "c d e")
        assert first.text.split("\n\n")[-3:] == second.text.split("\n\n")[-3:]
        assert second.text.endswith("data: [DONE]\n\n")
        assert _num_answered(live) == 1


def test_a_key_belongs_to_one_request(live: LiveServer) -> None:
    assert _post(live, "mine").status_code == 200
    answer = _post(live, "mine", temperature=1)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")
    strict = {"idempotency-key": "mine", "x-deepserve-strict": "1"}
    assert httpx.post(live.address + "/chat/completions", json=HELLO, headers=strict).status_code == 400


def test_a_key_belongs_to_one_tenant() -> None:
    with live_server(settings=Settings(api_keys=("one", "two"))) as live:
        answers = [
            httpx.post(
                live.address + "/chat/completions",
                json={**HELLO, "user_id": key},
                headers={"idempotency-key": "k", "x-api-key": key},
            )
            for key in ("one", "two")
        ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "idempotent-replayed" not in answers[1].headers


@pytest.mark.parametrize("headers", ["idempotency-key:\r\n", f"idempotency-key: {'k' * 256}\r\n"])
def test_impossible_keys_are_refused(live: LiveServer, headers: str) -> None:
    for path in ("/chat/completions", "/v1"):
        answer = live.raw(request_bytes(path=path, headers=headers + "connection: close\r\n"))
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"Idempotency-Key stands once" in answer


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_repetition_waits_for_the_first(is_stream: bool) -> None:
    gate = Gate()
    with (
        live_server(scripted(gate=gate, text="a", delay_s=1), Settings(keep_alive_s=0.02)) as live,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(_post, live, "k", stream=is_stream)
        assert gate.is_reached.wait(PATIENCE_S)
        with httpx.stream(
            "POST",
            live.address + "/chat/completions",
            json={**HELLO, "stream": is_stream},
            headers={"idempotency-key": "k"},
            timeout=PATIENCE_S,
        ) as second:
            assert second.headers["idempotent-replayed"] == "true"
            gate.open()
            text = second.read().decode()
        whole = first.result(PATIENCE_S)
        assert text[-200:] == whole.text[-200:]
        assert _num_answered(live) == 1


def test_what_was_broken_off_is_answered_anew() -> None:
    gate = Gate()
    with live_server(scripted(gate=gate, text="a", delay_s=1)) as live:
        with live.connect() as connection:
            connection.sendall(request_bytes(headers="idempotency-key: k\r\n"))
            assert gate.is_reached.wait(PATIENCE_S)
        assert gate.was_cancelled.wait(PATIENCE_S)
        gate.open()
        statuses = []
        while 200 not in statuses:
            answer = _post(live, "k")
            statuses.append(answer.status_code)
        assert set(statuses) <= {200, 503}
        assert "idempotent-replayed" not in answer.headers


@pytest.mark.parametrize("fail_after_pieces", [None, 1])
def test_failures_are_not_kept(fail_after_pieces: int | None) -> None:
    with live_server(scripted(text="a b", failure="engine_failure", fail_after_pieces=fail_after_pieces)) as live:
        for _ in range(2):
            answer = _post(live, "k")
            assert (answer.status_code, "idempotent-replayed" in answer.headers) == (500, False)
        assert _num_answered(live) == 2


def _memory(now: list[float], **settings: Any) -> ReplayMemory:  # Any: fields of Settings
    return ReplayMemory(Settings(**settings), clock=lambda: now[0])


def _answering(text: str) -> Callable[[], AsyncGenerator[Event]]:
    async def start() -> AsyncGenerator[Event]:
        yield Started(served_by=ServedBy(provider="p", model="m", fingerprint="f"))
        yield BlockOpened(index=0, block=TextBlock())
        for letter in text:
            yield BlockDelta(index=0, text=letter)
        yield BlockClosed(index=0)
        yield Finished(reason="stop")

    return start


def _ask(memory: ReplayMemory, key: str, text: str, *, tenant: TenantId = A, digest: bytes = b"d") -> tuple[str, bool]:
    """The answer's text, and whether it was given before."""

    async def run() -> tuple[str, bool]:
        async with memory.claim(tenant, key, digest=digest, head=HEAD, start=_answering(text)) as claim:
            events = [event async for event in claim.events]
            assert isinstance(events[-1], Finished)
            return "".join(event.text for event in events if isinstance(event, BlockDelta)), claim.is_replay

    return asyncio.run(run())


def test_answers_are_kept_for_their_time() -> None:
    now = [0.0]
    memory = _memory(now, replay_s=10.0)
    assert _ask(memory, "k", "one") == ("one", False)
    now[0] = 9.9
    assert _ask(memory, "k", "two") == ("one", True)
    assert _ask(memory, "k", "two", tenant=B) == ("two", False)
    with pytest.raises(InvalidField):
        _ask(memory, "k", "two", digest=b"other")
    now[0] = 10.0
    assert _ask(memory, "k", "two", digest=b"other") == ("two", False)


def test_the_oldest_of_too_many_answers_is_given_up() -> None:
    memory = _memory([0.0], replay_answers=2)
    for key in ("a", "b", "c"):
        _ask(memory, key, key)
    assert _ask(memory, "b", "new") == ("b", True)
    assert _ask(memory, "c", "new") == ("c", True)
    assert _ask(memory, "a", "new") == ("new", False)


def test_one_tenant_does_not_push_out_what_another_keeps() -> None:
    """The oldest answer went, whoever it belonged to: who sent much emptied the memory of everybody."""
    memory = _memory([0.0], replay_answers=2, replay_bytes=10)
    _ask(memory, "k", "quiet", tenant=B)
    for key in ("a", "b", "c"):
        _ask(memory, key, key)
    _ask(memory, "large", "x" * 10)
    assert _ask(memory, "k", "new", tenant=B) == ("quiet", True)
    assert _ask(memory, "c", "new") == ("new", False)


def test_answers_are_kept_within_their_size_and_a_giant_pushes_nothing_out() -> None:
    memory = _memory([0.0], replay_bytes=10)
    _ask(memory, "a", "aaaa")
    _ask(memory, "giant", "x" * 11)
    assert _ask(memory, "giant", "new") == ("new", False)
    assert _ask(memory, "a", "new") == ("aaaa", True)
    _ask(memory, "c", "cccccc")
    assert _ask(memory, "a", "new") == ("new", False)
