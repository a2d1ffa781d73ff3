"""What services that speak Responses tell becomes events in the core's order, or an error that says how they failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from deepserve.core.answer import Answer, collect
from deepserve.core.errors import BackendFailure, ContextOverflow, DeepserveError, Overloaded, TooManyRequests
from deepserve.core.events import BlockDelta, Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Reasoning, Text, ToolCall
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.responses.upstream_answer import AnswerDecoder

Json = Any
"""Events as services write them."""

USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 2},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 21,
}
COUNTED = Usage(hit_tokens=7, miss_tokens=5, cache_write_tokens=2, reasoning_tokens=3, answer_tokens=6)
CREATED = {"type": "response.created", "response": {"model": "m", "status": "in_progress", "output": []}}


def _decoder(**options: Any) -> AnswerDecoder:  # Any: options of the decoder
    return AnswerDecoder(provider="up", title="Upstream", call_id=lambda number: f"minted_{number}", **options)


def _item(index: int, item: Json, *pieces: Json, done: Json = None) -> list[Json]:
    return [
        {"type": "response.output_item.added", "output_index": index, "item": item},
        *({**piece, "output_index": index} for piece in pieces),
        {"type": "response.output_item.done", "output_index": index, "item": done or item},
    ]


def _deltas(kind: str, *pieces: str) -> list[Json]:
    return [{"type": f"response.{kind}.delta", "delta": piece} for piece in pieces]


def _text(index: int, *pieces: str) -> list[Json]:
    return _item(index, {"type": "message", "content": []}, *_deltas("output_text", *pieces))


def _end(status: str = "completed", **members: Json) -> Json:
    return {"type": f"response.{status}", "response": {"model": "m", "status": status, "usage": USAGE, **members}}


THOUGHT = _item(
    0,
    {"type": "reasoning", "summary": []},
    *_deltas("reasoning_text", "I ", "see."),
    done={"type": "reasoning", "summary": [], "encrypted_content": "seal"},
)
CALLED = _item(
    2,
    {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": ""},
    *_deltas("function_call_arguments", '{"at": ', '"it"}'),
)


def _read(*events: Json, decoder: AnswerDecoder | None = None) -> list[Event]:
    decoder = decoder or _decoder()
    told = [event for one in events for event in decoder.chunk(json.dumps(one).encode())]
    return told + decoder.finish()


def _whole(body: Json, decoder: AnswerDecoder | None = None) -> list[Event]:
    decoder = decoder or _decoder()
    return [*decoder.whole(json.dumps(body).encode()), *decoder.finish()]


def _collected(events: Sequence[Event]) -> Answer:
    async def each() -> AsyncIterator[Event]:
        for event in events:
            yield event

    return asyncio.run(collect(each()))


def _parts(*events: Json) -> tuple[object, ...]:
    return _collected(_read(*events)).results[0].parts


def _finished(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def test_a_stream_and_a_whole_answer_tell_the_same() -> None:
    text = [{"type": "output_text", "text": "So, look."}]
    output = [
        {
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "I see."}],
            "encrypted_content": "seal",
        },
        {"type": "message", "content": text},
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"at": "it"}'},
    ]
    body = {"model": "m", "status": "completed", "output": output, "usage": USAGE, "system_fingerprint": "fp"}
    ending = _end(output=output, system_fingerprint="fp")
    created = {**CREATED, "response": {"model": "m", "system_fingerprint": "fp"}}
    for events in (
        _whole(body),
        _read(created, *THOUGHT, *_text(1, "So", ", look."), *CALLED, ending),
        # A service may tell items at their end only, or nothing but the end.
        _read(created, *(event for number, item in enumerate(output) for event in _item(number, item)), ending),
        _read(ending),
    ):
        answer = _collected(events)
        assert answer.results[0].parts == (
            Reasoning(text="I see.", sealed="seal"),
            Text("So, look."),
            ToolCall(id="call_1", name="look", arguments='{"at": "it"}'),
        )
        assert events[-2:] == [UsageReported(usage=COUNTED), Finished(reason="tool_calls")]
        started = events[0]
        assert isinstance(started, Started)
        assert started.served_by == ServedBy(provider="up", model="m", fingerprint="fp")


@pytest.mark.parametrize(
    ("status", "reason", "wanted"),
    [
        ("completed", None, Finished(reason="stop")),
        ("incomplete", "max_output_tokens", Finished(reason="length")),
        ("incomplete", "content_filter", Finished(reason="content_filter")),
        ("incomplete", "whatever", Finished(reason="length", native_reason="whatever")),
    ],
)
def test_every_end_is_known_and_an_unknown_one_keeps_its_word(status: str, reason: str, wanted: Finished) -> None:
    told = _read(CREATED, *_text(0, "x"), _end(status, incomplete_details={"reason": reason}))
    assert _finished(told) == wanted
    body = {"status": status, "output": [], "incomplete_details": {"reason": reason}}
    assert _finished(_whole(body)) == wanted


def test_a_summary_stands_for_a_trace_that_is_not_told_and_is_not_told_beside_one() -> None:
    summary = [
        {"type": "response.reasoning_summary_text.delta", "summary_index": number, "delta": piece}
        for number, piece in ((0, "On"), (0, "e."), (1, "Two."))
    ]
    assert _parts(CREATED, *_item(0, {"type": "reasoning"}, *summary), _end()) == (Reasoning(text="One.\n\nTwo."),)
    both = _item(0, {"type": "reasoning"}, *_deltas("reasoning_text", "Hm."), *summary)
    assert _parts(CREATED, *both, _end()) == (Reasoning(text="Hm."),)
    whole = {"type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in ("One.", "Two.")]}
    assert _collected(_whole({"output": [whole]})).results[0].parts == (Reasoning(text="One.\n\nTwo."),)


def test_what_was_thought_but_is_not_shown_keeps_what_stands_for_it() -> None:
    sealed = _item(0, {"type": "reasoning", "summary": []}, done={"type": "reasoning", "encrypted_content": "seal"})
    assert _parts(CREATED, *sealed, *_text(1, "x"), _end()) == (Reasoning(sealed="seal"), Text("x"))
    nothing = _item(0, {"type": "reasoning", "summary": []})
    assert _parts(CREATED, *nothing, *_text(1, "x"), _end()) == (Text("x"),)


def test_calls_without_ids_or_with_the_same_one_get_names_of_their_own() -> None:
    calls = [
        *_item(0, {"type": "function_call", "call_id": "a", "name": "f"}),
        *_item(1, {"type": "function_call", "call_id": "a", "name": "g", "arguments": '{"x": 1}'}),
        *_item(2, {"type": "function_call", "name": "h", "arguments": ""}),
    ]
    assert _parts(CREATED, *calls, _end()) == (
        ToolCall(id="a", name="f", arguments="{}"),
        ToolCall(id="minted_1", name="g", arguments='{"x": 1}'),
        ToolCall(id="minted_2", name="h", arguments="{}"),
    )


def test_items_and_events_that_nobody_asked_for_are_skipped() -> None:
    own = _item(0, {"type": "web_search_call", "status": "completed"}, {"type": "response.later", "delta": {"x": 1}})
    refused = _item(1, {"type": "message"}, *_deltas("refusal", "No."))
    assert _parts(CREATED, {"type": "later"}, *own, *refused, _end()) == (Text("No."),)


def test_a_stream_may_leave_out_where_an_item_begins() -> None:
    pieces = [{**piece, "output_index": 0} for piece in _deltas("output_text", "a", "b")]
    assert _parts(CREATED, *pieces, _end()) == (Text("ab"),)


def test_log_probabilities_come_with_their_text() -> None:
    token = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": [{"token": "y", "logprob": -1.0}]}
    piece = {"type": "response.output_text.delta", "delta": "x", "logprobs": [token]}
    part = {"type": "output_text", "text": "x", "logprobs": [token]}
    streamed = _read(CREATED, *_item(0, {"type": "message"}, piece), _end())
    for events in (streamed, _whole({"output": [{"type": "message", "content": [part]}]})):
        (told,) = [event for event in events if isinstance(event, BlockDelta)]
        (found,) = told.logprobs
        assert (found.token, found.logprob, found.bytes) == ("x", -0.5, b"x")
        assert [(other.token, other.bytes) for other in found.top] == [("y", b"y")]


# Usage


def test_the_cost_that_a_service_states_is_told() -> None:
    usage = {**USAGE, "cost": 0.003, "cost_details": {"upstream_inference_input_cost": 0.001}}
    report = _whole({"output": [], "usage": usage})[-2]
    assert isinstance(report, UsageReported)
    assert report.cost is not None
    assert report.cost.stated_usd == Decimal("0.003")
    assert (report.cost.miss_usd, report.cost.output_usd) == (Decimal("0.001"), Decimal("0.002"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_tokens_details": {"cached_tokens": 13}},
        {"output_tokens": -1},
        {"output_tokens_details": {"reasoning_tokens": 10}},
    ],
)
def test_a_usage_that_cannot_be_is_an_estimate(wrong: Json) -> None:
    decoder = _decoder()
    _read(CREATED, *_text(0, "x"), _end(usage={**USAGE, **wrong}), decoder=decoder)
    assert decoder.usage is not None
    assert decoder.usage.is_estimated
    assert decoder.doubt
    assert min(decoder.usage.hit_tokens, decoder.usage.miss_tokens, decoder.usage.output_tokens) >= 0


@pytest.mark.parametrize("usage", [None, "many", {"output_tokens": "two"}, [1]])
def test_a_usage_that_cannot_be_read_is_no_reason_to_lose_the_answer(usage: Json) -> None:
    decoder = _decoder()
    events = _read(CREATED, *_text(0, "x"), _end(usage=usage), decoder=decoder)
    assert _finished(events).reason == "stop"
    assert decoder.usage is None
    assert decoder.is_complete


# Failures


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        ({"code": "server_is_overloaded", "message": "full"}, Overloaded),
        ({"code": "rate_limit_exceeded", "message": "slow"}, TooManyRequests),
        ({"code": "server_error", "message": "oh"}, BackendFailure),
        ({"message": "oh"}, BackendFailure),
        ("oh", BackendFailure),
        (
            {
                "code": "context_length_exceeded",
                "message": "This model's maximum context length is 10 tokens. However, you requested 12 tokens "
                "(8 in the messages, 4 in the completion).",
            },
            ContextOverflow,
        ),
    ],
)
def test_a_failure_is_raised_before_the_first_word_and_an_event_after_it(
    error: Json, cls: type[DeepserveError]
) -> None:
    flat = error if isinstance(error, dict) else {"message": error}
    for failed in ({"type": "error", **flat}, {"type": "error", "error": error}, _end("failed", error=error)):
        with pytest.raises(DeepserveError) as caught:
            _read(CREATED, failed)
        assert type(caught.value) is cls
        events = _read(CREATED, *_text(0, "x"), failed)
        assert isinstance(events[-1], Failed)
        assert type(events[-1].error) is cls
    assert UsageReported(usage=COUNTED) in events
    for body in ({"error": error}, {"status": "failed", "error": error, "output": []}):
        with pytest.raises(DeepserveError) as caught:
            _whole(body)
        assert type(caught.value) is cls


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "cannot be read"),
        (b'{"output": [{"ty', "cannot be read"),
        (b"{}", "without output"),
        (b'{"status": "queued", "output": []}', "queued"),
        (b'{"output": [{"type": "function_call", "call_id": "a"}]}', "without a name"),
    ],
)
def test_a_body_that_is_no_answer_says_what_it_is(body: bytes, said: str) -> None:
    with pytest.raises(BackendFailure, match=said):
        _decoder().whole(body)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"type": "response.function_call_arguments.delta", "output_index": 5, "delta": "{"}, "did not begin"),
        ({"type": "response.output_text.delta", "output_index": 0, "delta": "x"}, "in turns"),
        (
            {"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call"}},
            "without a name",
        ),
    ],
)
def test_a_stream_that_does_not_keep_to_the_dialect_says_how(event: Json, said: str) -> None:
    with pytest.raises(BackendFailure, match=said):
        _read(CREATED, *_text(0, "a"), event)


def test_a_stream_without_its_end_has_failed() -> None:
    decoder = _decoder()
    events = _read(CREATED, *_text(0, "x"), decoder=decoder)
    assert isinstance(events[-1], Failed)
    decoder = _decoder()
    decoder.chunk(json.dumps(CREATED).encode())
    assert decoder.chunk(b"[DONE]") == []
    with pytest.raises(BackendFailure, match="before it began"):
        decoder.finish()
