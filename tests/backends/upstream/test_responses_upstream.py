"""Upstreams that speak Responses, over real sockets: whatever they do, a client gets an answer or a clear error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from deepserve.backends.upstream.estimate import estimate_prompt_tokens
from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded, RequestError, RequestTimedOut
from deepserve.core.events import BlockDelta, Event, Failed, Finished, UsageReported
from deepserve.core.usage import Usage
from tests.backends.upstream.setup import KEY, QUICK, Pauses, events_from, head, request, upstream
from tests.outgoing.receiver import Received, Receiver, Respond, answer

HASTY = msgspec.structs.replace(QUICK, first_event_s=0.1, idle_s=0.1)
Json = Any
"""Events as services write them."""


def _frame(kind: str, **members: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **members}).encode())


USAGE = {"input_tokens": 5, "output_tokens": 2}
START = _frame("response.created", response={"model": "m", "status": "in_progress"})
HELLO = (
    _frame("response.output_item.added", output_index=0, item={"type": "message", "content": []})
    + _frame("response.output_text.delta", output_index=0, delta="Hello")
    + _frame("response.output_text.delta", output_index=0, delta=" there")
)
END = _frame("response.completed", response={"model": "m", "status": "completed", "usage": USAGE})
ERROR = _frame("error", code="server_is_overloaded", message="full")
ALIVE = b": keep-alive\n\n"
GOOD = head() + START + ALIVE + HELLO + END


def told(*answers: bytes | Respond, **options: Any) -> list[Event]:  # Any: options of `upstream`
    return asyncio.run(events_from(*answers, **{"provider": "responses", **options}))


def _then(*pieces: bytes, repeats: bytes | None = None) -> Respond:
    """Writes the pieces one by one, then closes, or repeats one for ever."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        while repeats is not None:
            writer.write(repeats)
            await writer.drain()
            await asyncio.sleep(0.005)

    return respond


def test_an_answer_is_told_also_one_byte_at_a_time_and_whole() -> None:
    content = [{"type": "output_text", "text": "Hello there"}]
    whole = {"status": "completed", "output": [{"type": "message", "content": content}], "usage": USAGE}
    raw = START + ALIVE + HELLO + END
    for said in (
        GOOD,
        _then(head(), *(bytes([byte]) for byte in raw)),
        head("application/json") + json.dumps(whole).encode(),
        _then(head(), raw, repeats=ALIVE),
    ):
        events = told(said)
        assert "".join(event.text for event in events if isinstance(event, BlockDelta)) == "Hello there"
        assert events[-2:] == [UsageReported(usage=Usage(miss_tokens=5, answer_tokens=2)), Finished(reason="stop")]


@pytest.mark.parametrize("kind", ["responses", "deepserve-responses"])
def test_the_question_goes_to_the_address_of_the_dialect_with_the_key(kind: str) -> None:
    async def ask() -> Received:
        async with Receiver(GOOD) as receiver, upstream(receiver.host, provider=kind) as backend:
            [event async for event in backend.answer(request())]
            return receiver.received[0]

    received = asyncio.run(ask())
    assert received.target == "/v1/responses"
    assert {name for name, value in received.headers.items() if KEY in value} == {"authorization"}
    assert json.loads(received.body)["store"] is False


@pytest.mark.parametrize(
    ("answers", "cls", "said"),
    [
        (answer(400, body=b'{"error":{"message":"bad top_p"}}'), RequestError, "bad top_p"),
        (answer(401, body=b'{"error":{"message":"invalid key"}}'), BackendFailure, "the key"),
        (answer(404, body=b"not here"), BackendFailure, "not here"),
        (answer(502, body=b"<html>nginx</html>"), BackendFailure, "a page instead"),
        (head("text/html") + b"<html>hi</html>", BackendFailure, "web page"),
        (head("application/json") + b'{"output":[{"ty', BackendFailure, "cannot be read"),
        (head("application/json") + b'{"error":{"message":"inside"}}', BackendFailure, "inside"),
        (head("application/json") + b'{"choices":[]}', BackendFailure, "without output"),
        (head() + START + ERROR, Overloaded, "full"),
        (head() + START, BackendFailure, "before it began"),
        (head() + b"data: {oops\n\n", BackendFailure, "cannot be read"),
    ],
)
def test_what_is_no_answer_is_a_plain_error(answers: bytes, cls: type[DeepserveError], said: str) -> None:
    with pytest.raises(DeepserveError) as caught:
        told(answers)
    assert type(caught.value) is cls
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"", "closed the stream"),
        (b"data: [DONE]\n\n", "closed the stream"),
        (b"data: {oops\n\n", "cannot be read"),
        (ERROR, "full"),
        (_frame("response.failed", response={"status": "failed", "error": {"message": "gone"}}), "gone"),
        (_frame("response.function_call_arguments.delta", output_index=7, delta="{"), "did not begin"),
    ],
)
def test_a_stream_that_goes_wrong_ends_in_a_failure_with_usage(rest: bytes, said: str) -> None:
    events = told(head() + START + HELLO + rest)
    failed, usage = events[-1], events[-2]
    assert isinstance(failed, Failed)
    assert said in failed.error.message
    assert isinstance(usage, UsageReported)
    assert usage.usage.is_estimated
    assert usage.usage.answer_tokens > 1


def test_keep_alives_are_no_signs_of_life() -> None:
    with pytest.raises(RequestTimedOut):
        told(_then(head() + START, repeats=ALIVE), limits=HASTY)
    failed = told(_then(head() + START + HELLO, repeats=ALIVE), limits=HASTY)[-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RequestTimedOut)


def test_what_cannot_have_cost_anything_is_asked_again() -> None:
    pauses = Pauses()
    events = told(answer(529), head() + START + ERROR, GOOD, sleep=pauses)
    assert isinstance(events[-1], Finished)
    assert len(pauses.seconds) == 2


async def _counted(*answers: bytes, times: int = 1) -> tuple[list[int], int, bool]:
    """What was counted, how many calls that took, and whether it is called an estimate then."""
    async with Receiver(*answers) as receiver, upstream(receiver.host, provider="responses") as backend:
        counts = [await backend.count(request(is_count=True)) for _ in range(times)]
        return counts, len(receiver.received), backend.models()[0].counts_by_estimate


def test_the_service_counts_where_it_can() -> None:
    count = answer(200, body=b'{"input_tokens":77}')
    assert asyncio.run(_counted(count, times=2)) == ([77, 77], 2, False)
    estimate = estimate_prompt_tokens(request())
    assert asyncio.run(_counted(answer(404), times=2)) == ([estimate, estimate], 1, True)
