"""What services that speak Messages tell becomes events in the core's order, or an error that says how they failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from deepserve.core.answer import Answer, collect
from deepserve.core.errors import BackendFailure, ContextOverflow, DeepserveError, Overloaded
from deepserve.core.events import BlockClosed, Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Reasoning, Text, ToolCall
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.messages.response import STOP_REASONS
from deepserve.dialects.messages.upstream_answer import AnswerDecoder
from deepserve.dialects.upstream_errors import decode_error

Json = Any
"""Events as services write them."""


def _decoder(**options: Any) -> AnswerDecoder:  # Any: options of the decoder
    return AnswerDecoder(provider="up", title="Upstream", call_id=lambda number: f"minted_{number}", **options)


def _start(**usage: Json) -> Json:
    return {"type": "message_start", "message": {"type": "message", "model": "m", "content": [], "usage": usage}}


def _block(index: int, block: Json, *deltas: Json) -> list[Json]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _text(index: int, *pieces: str) -> list[Json]:
    return _block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def _end(reason: str = "end_turn", *, sequence: str | None = None, **usage: Json) -> Json:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": sequence},
        "usage": {"output_tokens": 2, **usage},
    }


START = _start(input_tokens=5, output_tokens=1)
STOP = {"type": "message_stop"}
THOUGHT = _block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "I "},
    {"type": "thinking_delta", "thinking": "see."},
    {"type": "signature_delta", "signature": "sig"},
)
CALLED = _block(
    2,
    {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
    {"type": "input_json_delta", "partial_json": ""},
    {"type": "input_json_delta", "partial_json": '{"at": '},
    {"type": "input_json_delta", "partial_json": '"it"}'},
)


def _read(*events: Json, decoder: AnswerDecoder | None = None) -> list[Event]:
    decoder = decoder or _decoder()
    told = [event for one in events for event in decoder.chunk(json.dumps(one).encode())]
    return told + decoder.finish()


def _collected(events: Sequence[Event]) -> Answer:
    async def each() -> AsyncIterator[Event]:
        for event in events:
            yield event

    return asyncio.run(collect(each()))


def _parts(*events: Json) -> tuple[object, ...]:
    return _collected(_read(*events)).results[0].parts


def _failure(events: Sequence[Event]) -> DeepserveError:
    failed = events[-1]
    assert isinstance(failed, Failed)
    return failed.error


def test_a_stream_and_a_whole_answer_tell_the_same() -> None:
    details: Json = {"output_tokens_details": {"thinking_tokens": 3}}
    streamed = _read(
        _start(input_tokens=5, cache_read_input_tokens=7, cache_creation_input_tokens=2, output_tokens=1),
        {"type": "ping"},
        *THOUGHT,
        *_text(1, "So", ", look."),
        *CALLED,
        _end("tool_use", output_tokens=9, **details),
        STOP,
    )
    body = {
        "type": "message",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "I see.", "signature": "sig"},
            {"type": "text", "text": "So, look."},
            {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "it"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_read_input_tokens": 7,
            "cache_creation_input_tokens": 2,
            "output_tokens": 9,
            **details,
        },
    }
    decoder = _decoder()
    whole = [*decoder.whole(json.dumps(body).encode()), *decoder.finish()]
    usage = Usage(hit_tokens=7, miss_tokens=7, cache_write_tokens=2, reasoning_tokens=3, answer_tokens=6)
    for events in (streamed, whole):
        answer = _collected(events)
        assert answer.results[0].parts == (
            Reasoning(text="I see.", signature="sig"),
            Text("So, look."),
            ToolCall(id="toolu_1", name="look", arguments='{"at": "it"}'),
        )
        assert answer.usage == usage
        assert events[-2:] == [UsageReported(usage=usage), Finished(reason="tool_calls")]
        started = events[0]
        assert isinstance(started, Started)
        assert started.served_by == ServedBy(provider="up", model="m", fingerprint="")
        assert started.prompt_usage is not None
        assert started.prompt_usage.hit_tokens == 7


@pytest.mark.parametrize("word", [*STOP_REASONS.values(), "model_context_window_exceeded", "whatever"])
def test_every_end_is_known_and_an_unknown_one_keeps_its_word(word: str) -> None:
    finished = _read(START, *_text(0, "x"), _end(word, sequence="END"), STOP)[-1]
    assert isinstance(finished, Finished)
    known = {said: reason for reason, said in STOP_REASONS.items()}
    wanted = {"model_context_window_exceeded": "length", "whatever": "stop"}.get(word) or known[word]
    assert finished.reason == wanted
    assert finished.native_reason == (None if word in known else word)
    assert finished.stop_string == ("END" if word == "stop_sequence" else None)


def test_calls_without_ids_or_with_the_same_one_get_names_of_their_own() -> None:
    calls = [
        *_block(0, {"type": "tool_use", "id": "a", "name": "f", "input": {}}),
        *_block(1, {"type": "tool_use", "id": "a", "name": "g", "input": {"x": 1}}),
        *_block(2, {"type": "tool_use", "name": "h"}),
    ]
    assert _parts(START, *calls, _end(), STOP) == (
        ToolCall(id="a", name="f", arguments="{}"),
        ToolCall(id="minted_1", name="g", arguments='{"x": 1}'),
        ToolCall(id="minted_2", name="h", arguments="{}"),
    )


def test_arguments_that_are_no_object_are_read_as_the_model_wrote_them() -> None:
    """Whole answers have them wrapped: there a call's input is an object."""
    decoder = _decoder()
    block = {"type": "tool_use", "id": "a", "name": "f", "input": {"INVALID_JSON": '{"x": '}}
    events = decoder.whole(json.dumps({"content": [block], "stop_reason": "tool_use"}).encode())
    (call,) = _collected([*events, *decoder.finish()]).results[0].parts
    assert call == ToolCall(id="a", name="f", arguments='{"x": ')


def test_what_was_thought_but_is_not_shown_keeps_what_stands_for_it() -> None:
    signed = _block(0, {"type": "thinking", "thinking": ""}, {"type": "signature_delta", "signature": "sig"})
    sealed = _block(1, {"type": "redacted_thinking", "data": "seal"})
    events = _read(START, *signed, *sealed, *_text(2, "x"), _end(), STOP)
    closed = [event for event in events if isinstance(event, BlockClosed)]
    assert [(event.signature, event.sealed) for event in closed] == [("sig", None), (None, "seal"), (None, None)]


def test_blocks_and_events_that_nobody_asked_for_are_skipped() -> None:
    own = _block(0, {"type": "server_tool_use", "id": "a", "name": "web_search", "input": {}}, {"type": "later"})
    cited = _block(1, {"type": "text", "text": "x"}, {"type": "citations_delta", "citation": {}})
    assert _parts(START, {"type": "later"}, *own, *cited, _end(), STOP) == (Text("x"),)


def test_a_stream_may_leave_out_where_blocks_begin_and_end() -> None:
    pieces = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "t"}},
        {"type": "content_block_stop", "index": 0},
        *({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": x}} for x in "ab"),
    ]
    assert _parts(START, *pieces, _end()) == (Reasoning(text="t"), Text("ab"))
    assert _parts(START, *pieces, STOP) == (Reasoning(text="t"), Text("ab"))


def test_usage_of_the_end_replaces_what_it_tells_and_no_more() -> None:
    usage = _collected(_read(_start(input_tokens=5, cache_read_input_tokens=3), *_text(0, "x"), _end(), STOP)).usage
    assert usage == Usage(hit_tokens=3, miss_tokens=5, answer_tokens=2)


def test_usage_of_a_stream_that_breaks_off_is_not_taken_for_the_whole() -> None:
    """Its first event tells of one token of output, whatever came after."""
    decoder = _decoder()
    failure = _failure(_read(START, *_text(0, "x" * 1000), decoder=decoder))
    assert "closed the stream" in failure.message
    assert decoder.usage is None


@pytest.mark.parametrize("usage", ["none", [], 7, None, {"output_tokens": "many"}, {"output_tokens": 1.5}])
def test_unreadable_usage_costs_nobody_the_answer(usage: Json) -> None:
    decoder = _decoder()
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    events = _read({"type": "message_start", "message": {"model": "m"}}, *_text(0, "x"), end, STOP, decoder=decoder)
    assert isinstance(events[-1], Finished)
    assert decoder.usage is None


def test_usage_that_cannot_be_right_is_bounded_and_said_to_be_an_estimate() -> None:
    decoder = _decoder()
    details: Json = {"output_tokens_details": {"thinking_tokens": 9}, "cache_read_input_tokens": -4}
    _read(START, *_text(0, "x"), _end(**details), STOP, decoder=decoder)
    assert decoder.doubt is not None
    assert decoder.usage == Usage(miss_tokens=5, reasoning_tokens=2, is_estimated=True)


def test_the_cost_that_a_service_states_is_exact() -> None:
    raw = (
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":800,"cost":0.00281706,'
        b'"cost_details":{"upstream_inference_prompt_cost":0.00003306}}}'
    )
    decoder = _decoder()
    reported = [event for event in [*decoder.chunk(raw), *decoder.finish()] if isinstance(event, UsageReported)]
    assert reported[0].cost is not None
    assert reported[0].cost.stated_usd == Decimal("0.00281706")
    assert reported[0].cost.miss_usd == Decimal("0.00003306")


def test_nothing_begins_before_there_is_something_to_tell() -> None:
    """So that a failure right after the empty beginning is still a plain error, and can be tried again."""
    decoder = _decoder()
    empty = [START, {"type": "ping"}, {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}]
    assert [decoder.chunk(json.dumps(one).encode()) for one in empty] == [[], [], []]
    assert not decoder.has_begun
    with pytest.raises(Overloaded, match="full"):
        decoder.chunk(b'{"type":"error","error":{"type":"overloaded_error","message":"full"}}')
    with pytest.raises(BackendFailure, match="before it began"):
        _decoder().finish()


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([{"type": "error", "error": {"type": "api_error", "message": "died"}}], "died"),
        ([{"error": {"message": "died"}}], "died"),
        ([{"type": "error", "error": "died"}], "died"),
        ([], "closed the stream"),
    ],
)
def test_an_error_after_the_first_piece_is_a_terminal_event(events: list[Json], said: str) -> None:
    failure = _failure(_read(START, *_text(0, "x"), *events))
    assert isinstance(failure, BackendFailure)
    assert said in failure.message


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (_block(0, {"type": "tool_use", "id": "a"}), "without a name"),
        (
            [
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}},
                {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "b"}},
            ],
            "turns",
        ),
        (
            [{"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}}],
            "did not begin",
        ),
        ([{"type": "content_block_start", "content_block": 7}], "cannot be read"),
        ([[]], "cannot be read"),
    ],
)
def test_a_service_that_breaks_its_own_dialect_is_told_how(events: list[Json], said: str) -> None:
    with pytest.raises(BackendFailure, match=said):
        _read(START, *events)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "cannot be read"),
        (b'{"content":[{"ty', "cannot be read"),
        (b"{}", "without content"),
        (b'{"type":"error","error":{"type":"api_error","message":"inside"}}', "inside"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_a_body_that_is_no_answer_is_a_failure_of_the_service(body: bytes, said: str) -> None:
    with pytest.raises(BackendFailure, match=said):
        _decoder().whole(body)


def test_an_empty_answer_is_one() -> None:
    """Whether that is any good is for others to say."""
    answer = _collected(_read(START, _end("max_tokens"), STOP))
    assert answer.results[0].parts == ()
    assert answer.results[0].finished.reason == "length"


def test_it_is_complete_once_nothing_more_can_matter() -> None:
    decoder = _decoder()
    found = []
    for event in (START, *_text(0, "x"), _end(), STOP):
        decoder.chunk(json.dumps(event).encode())
        found.append((decoder.is_complete, decoder.has_all_ends))
    assert found == [(False, False)] * 4 + [(True, True)] * 2


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        ("prompt is too long: 208310 tokens > 200000 maximum", (200_000, 208_310, 0)),
        (
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or "
            "`max_tokens` and try again",
            (200_000, 190_000, 20_000),
        ),
    ],
)
def test_a_full_context_is_understood_in_anthropics_words(words: str, limits: tuple[int, int, int]) -> None:
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": words}}).encode()
    error = decode_error(400, body, title="Upstream")
    assert isinstance(error, ContextOverflow)
    assert (error.limit_tokens, error.prompt_tokens, error.requested_tokens) == limits
