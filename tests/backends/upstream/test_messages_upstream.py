"""Upstreams that speak Messages, over real sockets: whatever they do, a client gets an answer or a clear error."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import msgspec
import pytest

from deepserve.backends.remembering import RememberingBackend
from deepserve.backends.tokens.turn_memory import TurnMemory
from deepserve.backends.upstream.estimate import estimate_prompt_tokens
from deepserve.core.errors import (
    BackendFailure,
    DeepserveError,
    Overloaded,
    RequestError,
    RequestTimedOut,
    TooManyRequests,
)
from deepserve.core.events import Finished, Started, UsageReported
from deepserve.core.messages import Message, Text, ToolCall, ToolResult
from deepserve.core.request import Tool
from deepserve.core.usage import Usage
from tests.backends.upstream import setup as any_upstream
from tests.backends.upstream.setup import (
    HASTY,
    KEY,
    Pauses,
    gauges_after_leaving,
    head,
    in_pieces,
    question_to,
    request,
    text_of,
    upstream,
)
from tests.outgoing.receiver import Receiver, answer

Json = Any
"""Events as services write them."""

told = partial(any_upstream.told, provider="anthropic")
error_of = partial(any_upstream.error_of, provider="anthropic")
failure_of = partial(any_upstream.failure_of, provider="anthropic")
counted = partial(any_upstream.counted, provider="anthropic")


def _frame(value: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), json.dumps(value).encode())


def _delta(index: int, **delta: Json) -> bytes:
    return _frame({"type": "content_block_delta", "index": index, "delta": delta})


def _block(index: int, *deltas: Json, **block: Json) -> bytes:
    return b"".join(
        (
            _frame({"type": "content_block_start", "index": index, "content_block": block}),
            *(_delta(index, **delta) for delta in deltas),
            _frame({"type": "content_block_stop", "index": index}),
        )
    )


PING = b'event: ping\ndata: {"type":"ping"}\n\n'
START = _frame({"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}}})
HELLO = _block(0, {"type": "text_delta", "text": "Hello"}, {"type": "text_delta", "text": " there"}, type="text")
END = _frame({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}})
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
GOOD = head() + START + PING + HELLO + END + STOP
THOUGHT = _block(
    0, {"type": "thinking_delta", "thinking": "Hm."}, {"type": "signature_delta", "signature": "sig"}, type="thinking"
)
CALLED = _block(
    1, {"type": "input_json_delta", "partial_json": "{}"}, type="tool_use", id="toolu_0123456789abcdefghij", name="look"
)
BY_CALLS = _frame({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}})
ERROR = _frame({"type": "error", "error": {"type": "overloaded_error", "message": "full"}})


def test_an_answer_is_told_also_one_byte_at_a_time_and_whole() -> None:
    content = [{"type": "text", "text": "Hello there"}]
    whole = {"content": content, "stop_reason": "end_turn", "usage": {"input_tokens": 5, "output_tokens": 2}}
    raw = START + PING + HELLO + END + STOP
    for said in (
        GOOD,
        in_pieces(head(), *(bytes([byte]) for byte in raw)),
        head("application/json") + json.dumps(whole).encode(),
        in_pieces(head(), raw.removesuffix(STOP), repeats=PING),
    ):
        events = told(said)
        assert text_of(events) == "Hello there"
        assert events[-2:] == [UsageReported(usage=Usage(miss_tokens=5, answer_tokens=2)), Finished(reason="stop")]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("anthropic", {"x-api-key", "authorization"}),
        ("deepseek-anthropic", {"x-api-key"}),
        ("deepserve-anthropic", {"x-api-key"}),
    ],
)
def test_the_key_goes_where_the_service_looks_for_it(kind: str, names: set[str]) -> None:
    received = question_to(kind, GOOD)
    assert received.target == "/v1/v1/messages"  # the address of these tests ends in /v1
    assert {name for name, value in received.headers.items() if KEY in value} == names
    assert received.headers["anthropic-version"]


@pytest.mark.parametrize(
    ("answers", "cls", "said"),
    [
        (answer(400, body=b'{"type":"error","error":{"message":"bad top_p"}}'), RequestError, "bad top_p"),
        (answer(401, body=b'{"type":"error","error":{"message":"invalid x-api-key"}}'), BackendFailure, "the key"),
        (answer(404, body=b"not here"), BackendFailure, "not here"),
        (answer(502, body=b"<html>nginx</html>"), BackendFailure, "a page instead"),
        (head("application/json") + b'{"content":[{"ty', BackendFailure, "cannot be read"),
        (head("application/json") + b'{"type":"error","error":{"message":"inside"}}', BackendFailure, "inside"),
        (head() + ERROR, Overloaded, "full"),
        (head() + START + PING + ERROR, Overloaded, "full"),
        (head() + START, BackendFailure, "before it began"),
        (head() + b"data: {oops\n\n", BackendFailure, "cannot be read"),
        (answer(429, body=b'{"type":"error","error":{"message":"slow"}}'), TooManyRequests, "slow"),
    ],
)
def test_what_is_no_answer_is_a_plain_error(answers: bytes, cls: type[DeepserveError], said: str) -> None:
    error = error_of(answers)
    assert type(error) is cls
    assert said in error.message


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"", "closed the stream"),
        (b"data: {oops\n\n", "cannot be read"),
        (ERROR, "full"),
        (_delta(7, type="input_json_delta", partial_json="{"), "did not begin"),
    ],
)
def test_a_stream_that_goes_wrong_ends_in_a_failure_with_usage(rest: bytes, said: str) -> None:
    assert said in failure_of(head() + START + HELLO + rest).message


def test_pings_are_no_signs_of_life() -> None:
    assert isinstance(error_of(in_pieces(head() + START, repeats=PING), limits=HASTY), RequestTimedOut)
    assert isinstance(failure_of(in_pieces(head() + START + HELLO, repeats=PING), limits=HASTY), RequestTimedOut)


def test_what_cannot_have_cost_anything_is_asked_again() -> None:
    pauses = Pauses()
    events = told(answer(529), head() + START + ERROR, GOOD, sleep=pauses)
    assert isinstance(events[-1], Finished)
    assert len(pauses.seconds) == 2


# Counting


def test_the_service_counts_where_it_can_and_a_client_asks() -> None:
    count = answer(200, body=b'{"input_tokens":77}')
    assert counted(count, times=2) == ([77, 77], 2, False)
    estimate = estimate_prompt_tokens(request())
    assert counted(answer(404), times=2) == ([estimate, estimate], 1, True)
    # For limits and rules nobody is called: they count often, and before every answer.
    assert counted(count, is_count=False) == ([estimate], 0, False)


@pytest.mark.parametrize("said", [answer(500, body=b'{"error":{"message":"oh"}}'), answer(200, body=b"<html>"), b""])
def test_a_count_that_fails_says_why(said: bytes) -> None:
    with pytest.raises(BackendFailure):
        counted(said)


# Traces


@pytest.mark.parametrize("kind", ["anthropic", "deepseek-anthropic", "deepserve-anthropic"])
def test_a_trace_that_the_client_dropped_goes_back_as_a_thinking_block(kind: str) -> None:
    look = Tool(name="look")
    user = Message(role="user", parts=(Text("Hello"),))

    async def second_body() -> Json:
        called = head() + START + THOUGHT + CALLED + BY_CALLS + STOP
        async with Receiver(called, GOOD) as receiver, upstream(receiver.host, provider=kind) as fleet:
            backend = RememberingBackend(fleet, TurnMemory())
            asked = request(messages=(user,), tools=(look,))
            [event async for event in backend.answer(asked)]
            call = ToolCall(id="toolu_0123456789abcdefghij", name="look", arguments="{}")
            found = Message(role="tool", parts=(ToolResult(call_id=call.id, content=(Text("It."),)),))
            forgetful = (user, Message(role="assistant", parts=(call,)), found)
            events = [event async for event in backend.answer(msgspec.structs.replace(asked, messages=forgetful))]
            started = events[0]
            assert isinstance(started, Started)
            assert started.past_reasoning is not None
            assert started.past_reasoning.restored == 1
            return json.loads(receiver.received[1].body)

    assert asyncio.run(second_body())["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "tool_use", "id": "toolu_0123456789abcdefghij", "name": "look", "input": {}},
    ]


def test_a_client_that_leaves_ends_the_upstreams_work() -> None:
    assert gauges_after_leaving(head() + START + HELLO, PING, provider="anthropic")["upstream_running"] == 0
