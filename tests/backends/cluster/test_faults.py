"""Servers that refuse, babble, stall or go away: a clear error, before the first event where there was none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from deepserve.backends.cluster.asking import Ask, Refused
from deepserve.backends.cluster.backend import ClusterBackend
from deepserve.core.errors import BackendFailure, ContextOverflow, DeepserveError, Overloaded, RequestTimedOut
from deepserve.core.events import Failed, Started
from deepserve.engine.interface import Draw
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import FakeServer, Habits, until
from tests.backends.cluster.setup import LIMITS, answer, backend_at, events, with_cluster
from tests.backends.cluster.test_same_answers import REQUESTS
from tests.outgoing.receiver import Receiver, Respond
from tests.outgoing.receiver import answer as response

QUESTION = REQUESTS["a question"]
QUICK = msgspec.structs.replace(LIMITS, first_event_s=0.2, idle_s=0.2, learn_s=0.2, error_s=0.2)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNK = {"id": "1", "object": "text_completion", "created": 0, "model": "m"}


def frame(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(*ids: int, finish: str | None = None, **fields: Any) -> bytes:  # Any: JSON
    choice = {"index": 0, "text": "", "token_ids": list(ids), "finish_reason": finish, "stop_reason": None, **fields}
    return frame({**CHUNK, "choices": [choice]})


def error_from(pair: Pair, *answers: bytes | Respond, kind: str = "vllm", key: str | None = None) -> DeepserveError:
    """What the client learns when a server answers so, to whatever it is asked."""

    async def main() -> DeepserveError:
        async with (
            Receiver(*answers) as receiver,
            asyncio.timeout(20),
            backend_at(kind, [receiver.host], pair.model, limits=QUICK, key=key) as backend,
        ):
            with pytest.raises(DeepserveError) as raised:
                await answer(backend, QUESTION)
            return raised.value

    return asyncio.run(main())


def refusal(status: int, body: bytes) -> bytes:
    return response(status, "Content-Type: application/json", body=body)


VLLM_ERROR = b'{"error": {"message": "max_tokens is too large", "type": "BadRequestError", "code": 400}}'


@pytest.mark.parametrize(
    ("answered", "kind", "error", "words"),
    [
        (refusal(400, VLLM_ERROR), "vllm", BackendFailure, r"refused the request \(400\): max_tokens is too large"),
        (refusal(400, b'{"object": "error", "message": "old"}'), "vllm", BackendFailure, r"\(400\): old"),
        (refusal(422, b'{"detail": [{"msg": "field"}]}'), "sglang", BackendFailure, r"\(422\): .*field"),
        (refusal(404, b'{"error": "no model"}'), "vllm", BackendFailure, r"\(404\): no model"),
        (refusal(401, b"who are you"), "vllm", BackendFailure, r"\(401\): who are you"),
        (refusal(429, b"{}"), "vllm", Overloaded, "no room for more"),
        (refusal(503, b"{}"), "sglang", Overloaded, "SGLang has no room for more"),
        (refusal(500, b"{}"), "llamacpp", BackendFailure, r"llama.cpp failed \(500\)"),
        (HEAD, "vllm", BackendFailure, "broke off"),
        (HEAD + b"data: <html>\n\n", "vllm", BackendFailure, "cannot be read"),
        (HEAD + b"data: [1]\n\n", "sglang", BackendFailure, "cannot be read"),
        (HEAD + b"data: {}\n\n", "sglang", BackendFailure, "without its `meta_info`"),
        (HEAD + b"data: {}\n\ndata: [DONE]\n\n", "vllm", BackendFailure, "without a word"),
        (
            HEAD + frame({**CHUNK, "choices": [{"index": 0, "text": "hi", "finish_reason": None}]}),
            "vllm",
            BackendFailure,
            "without token ids",
        ),
        (HEAD + frame({"error": {"message": "boom", "code": 500}}), "vllm", BackendFailure, r"failed \(500\): boom"),
        (HEAD + frame({"error": {"message": "bad", "code": 400}}), "vllm", BackendFailure, r"\(400\): bad"),
        (
            HEAD + frame({"output_ids": [], "meta_info": {"finish_reason": {"type": "abort", "message": "no memory"}}}),
            "sglang",
            BackendFailure,
            r"failed \(500\): no memory",
        ),
        (HEAD + chunk(5, finish="abort"), "vllm", BackendFailure, r"broke an answer off \(abort\)"),
        (b"not even HTTP", "vllm", BackendFailure, "."),
    ],
    ids=str,
)
def test_a_server_that_does_not_answer_is_told_in_words(
    shipped: Pair, answered: bytes, kind: str, error: type[DeepserveError], words: str
) -> None:
    found = error_from(shipped, answered, kind=kind)
    assert type(found) is error
    with pytest.raises(error, match=words):
        raise found


def test_a_server_that_is_not_there_is_told_in_words(shipped: Pair) -> None:
    async def main() -> None:
        async with Receiver() as gone:
            host = gone.host
        async with backend_at("vllm", [host], shipped.model, limits=QUICK) as backend:
            assert not backend.is_ready()
            with pytest.raises(BackendFailure, match="vLLM cannot be reached"):
                await answer(backend, QUESTION)

    asyncio.run(main())


def stalled(*parts: bytes) -> Respond:
    """Sends so much, and then nothing more, keeping the connection."""

    async def respond(_: Any, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
        await writer.drain()
        await asyncio.Event().wait()

    return respond


def test_a_server_that_never_begins_is_given_up(shipped: Pair) -> None:
    assert isinstance(error_from(shipped, stalled()), RequestTimedOut)
    found = error_from(shipped, stalled(HEAD, b": ping\n\n"))
    assert isinstance(found, RequestTimedOut)
    assert "did not begin" in found.message


def events_from(pair: Pair, *answers: bytes | Respond) -> list[Any]:
    async def main() -> list[Any]:
        async with (
            Receiver(*answers) as receiver,
            asyncio.timeout(20),
            backend_at("vllm", [receiver.host], pair.model, limits=QUICK) as backend,
        ):
            return await events(backend, QUESTION)

    return asyncio.run(main())


def letter(pair: Pair) -> int:
    (token,) = pair.model.tokenizer.encode_text("a")
    return token


def test_a_server_that_stops_in_the_middle_again_and_again_ends_the_answer(shipped: Pair) -> None:
    """It is asked to go on from what it has said; when that brings nothing, the error is the stream's last event."""
    found = events_from(
        shipped,
        response(200),  # its health
        response(404),  # its models
        stalled(HEAD, chunk(letter(shipped))),
        stalled(HEAD),
        stalled(HEAD),
    )
    assert isinstance(found[0], Started)
    assert isinstance(found[-1], Failed)
    assert isinstance(found[-1].error, RequestTimedOut)


def test_a_key_is_shown_to_nobody_whatever_a_server_quotes(shipped: Pair) -> None:
    for status in (400, 500):
        body = b'{"error": {"message": "wrong key sk-secret-0123456789"}}'
        found = error_from(shipped, refusal(status, body), key="sk-secret-0123456789")
        assert "sk-secret" not in found.message
        assert "[key]" in found.message


def with_server(pair: Pair, work: Callable[[ClusterBackend, list[FakeServer]], Awaitable[Any]], **habits: Any) -> Any:
    return with_cluster(pair.source, pair.model, work, Habits(**habits))


def test_the_servers_context_is_the_limit(shipped: Pair) -> None:
    long = msgspec.structs.replace(QUESTION, max_output_tokens=5_000)

    async def main(backend: ClusterBackend, servers: list[FakeServer]) -> None:
        with pytest.raises(ContextOverflow):
            await answer(backend, long)
        assert servers[0].asked == []

    with_server(shipped, main, context_tokens=4_000)


def test_cached_tokens_are_billed_only_where_the_server_states_them(shipped: Pair) -> None:
    for tells in (True, False):

        async def twice(backend: ClusterBackend, servers: list[FakeServer]) -> Any:
            first = (await answer(backend, REQUESTS["a question"])).usage
            return first, (await answer(backend, REQUESTS["a question"])).usage, backend.gauges()

        for kind in ("vllm", "sglang"):
            habits = Habits(tells_hits=tells)
            first, second, gauges = with_cluster(shipped.source, shipped.model, twice, habits, kind=kind)
            assert (second.hit_tokens > 0) == tells
            assert second.prompt_tokens == first.prompt_tokens
            assert gauges["cluster_prompt_tokens"] == 2 * first.prompt_tokens
            assert gauges["cluster_prompt_tokens_restored"] == first.hit_tokens + second.hit_tokens


def test_tenants_and_users_share_no_cached_prefix(shipped: Pair) -> None:
    async def salts(backend: ClusterBackend, servers: list[FakeServer]) -> list[str]:
        for user in (None, "a", "b", "b"):
            await answer(backend, msgspec.structs.replace(QUESTION, user_id=user))
        return [body["cache_salt"] for body in servers[0].asked]

    none, one, other, again = with_server(shipped, salts)
    assert other == again
    assert len({none, one, other}) == 3


def test_a_long_prompt_goes_as_it_is(shipped: Pair) -> None:
    """It is written in a thread of its own."""
    ids = list(range(5, 2_000)) * 60
    ask = Ask(model="m", prompt=ids, max_tokens=1, stop_tokens=frozenset((1,)), draw=Draw(), salt="s")

    async def main() -> None:
        async with Receiver(response(200), response(404), response(400)) as receiver:
            async with backend_at("sglang", [receiver.host], shipped.model, limits=QUICK) as backend:
                with pytest.raises(Refused):
                    _ = [part async for part in backend._replicas.ask(ask, b"")]
            assert json.loads(receiver.received[-1].body)["input_ids"] == ids

    asyncio.run(main())


def test_a_machine_that_vanishes_is_not_waited_for(shipped: Pair) -> None:
    """Its connections stay open and silent; that it no longer says how it is tells."""
    patient = msgspec.structs.replace(QUICK, idle_s=1000.0, first_event_s=1000.0)

    async def vanished(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def main() -> list[Any]:
        answers = (response(200), response(404), stalled(HEAD, chunk(letter(shipped))), vanished)
        async with (
            Receiver(*answers) as receiver,
            asyncio.timeout(20),
            backend_at("vllm", [receiver.host], shipped.model, limits=patient) as backend,
        ):
            found: list[Any] = []

            async def read() -> None:
                async for event in backend.answer(QUESTION):
                    found.append(event)

            reading = asyncio.create_task(read())
            (replica,) = backend._replicas.order(b"")
            # It has begun, and the next piece is waited for.
            await until(lambda: bool(found) and any(one.patience is not None for one in replica._readings))
            for _ in range(3):
                assert not reading.done()
                await backend._replicas.look()
            await reading
            return found

    found = asyncio.run(main())
    assert isinstance(found[-1], Failed)
    assert isinstance(found[-1].error, BackendFailure)
