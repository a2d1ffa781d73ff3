"""What other services tell becomes events in the core's order, or an error that says how they failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from deepserve.core.answer import Answer, collect
from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded, TooManyRequests
from deepserve.core.events import BlockOpened, Event, Failed, Finished, Started, ToolCallBlock, UsageReported
from deepserve.core.messages import Reasoning, Text, ToolCall
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.chat.upstream_answer import AnswerDecoder

Json = Any
"""Frames as services write them."""


def _decoder(*, num_results: int = 1, **options: Any) -> AnswerDecoder:  # Any: options of the decoder
    return AnswerDecoder(
        provider="up",
        title="Upstream",
        call_id=lambda number: f"minted_{number}",
        num_results=num_results,
        **options,
    )


def _delta(*, finish: str | None = None, index: int = 0, **delta: Json) -> Json:
    return {"model": "m", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def _call(*, index: int | None = 0, id_: str | None = None, name: str | None = None, arguments: str = "") -> Json:
    return _delta(tool_calls=[{"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}])


def _read(*chunks: Json, is_done: bool = True, decoder: AnswerDecoder | None = None) -> list[Event]:
    decoder = decoder or _decoder()
    events = [event for chunk in chunks for event in decoder.chunk(json.dumps(chunk).encode())]
    if is_done:
        decoder.chunk(b"[DONE]")
    return events + decoder.finish()


def _collected(events: list[Event]) -> Answer:
    async def each() -> AsyncIterator[Event]:
        for event in events:
            yield event

    return asyncio.run(collect(each()))


def _parts(*chunks: Json) -> tuple[object, ...]:
    return _collected(_read(*chunks)).results[0].parts


STOP = _delta(finish="stop")


@pytest.mark.parametrize(
    "trace",
    [
        {"reasoning_content": "t"},
        {"reasoning": "t"},
        {"reasoning": "t", "reasoning_content": "t"},
        {"reasoning": "t", "reasoning_details": [{"type": "reasoning.text", "text": "t"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "t", "format": "unknown", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "t"}]},
    ],
)
def test_a_trace_is_read_once_under_every_name_that_services_give_it(trace: Json) -> None:
    assert _parts(_delta(content="", **trace), _delta(content="x"), STOP) == (Reasoning(text="t"), Text("x"))


def test_calls_without_ids_or_with_the_same_one_get_names_of_their_own() -> None:
    parts = _parts(
        _call(index=0, id_="a", name="f", arguments="{"),
        _call(index=0, arguments="}"),
        _call(index=1, id_="a", name="g", arguments='{"x":1}'),
        _call(index=2, name="h"),
        STOP,
    )
    assert parts == (
        ToolCall(id="a", name="f", arguments="{}"),
        ToolCall(id="minted_1", name="g", arguments='{"x":1}'),
        ToolCall(id="minted_2", name="h", arguments="{}"),
    )


def test_calls_that_all_have_the_first_number_or_none_are_told_apart_by_their_ids() -> None:
    for index in (0, None):
        parts = _parts(
            _call(index=index, id_="a", name="f", arguments="{}"),
            _call(index=index, id_="b", name="f", arguments='{"x":'),
            _call(index=index, id_="b", arguments="1}"),
            STOP,
        )
        assert parts == (
            ToolCall(id="a", name="f", arguments="{}"),
            ToolCall(id="b", name="f", arguments='{"x":1}'),
        )


def test_a_name_may_come_after_the_id_and_after_arguments() -> None:
    parts = _parts(_call(id_="a"), _call(arguments='{"x"'), _call(name="f"), _call(arguments=":1}"), STOP)
    assert parts == (ToolCall(id="a", name="f", arguments='{"x":1}'),)


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([_call(id_="a"), STOP], "without a name"),
        (
            [_call(index=0, id_="a", name="f"), _call(index=1, id_="b", name="g"), _call(index=0, arguments="x")],
            "turns",
        ),
        ([_delta(index=3, content="x")], "result 3"),
        ([{"choices": "none"}], "cannot be read"),
        ([{"choices": [{"delta": {"content": 7}}]}], "cannot be read"),
    ],
)
def test_a_service_that_breaks_its_own_dialect_is_told_how(chunks: list[Json], said: str) -> None:
    with pytest.raises(BackendFailure, match=said):
        _read(*chunks)


def test_a_call_makes_the_end_one_of_calls() -> None:
    finished = _read(_call(id_="a", name="f"), STOP)[-1]
    assert finished == Finished(reason="tool_calls", native_reason="stop")


@pytest.mark.parametrize(
    ("word", "reason", "native"),
    [
        ("stop", "stop", None),
        ("length", "length", None),
        ("function_call", "tool_calls", "function_call"),
        ("content_filter", "content_filter", None),
        ("eos", "stop", "eos"),
    ],
)
def test_reasons_keep_the_services_own_word(word: str, reason: str, native: str | None) -> None:
    finished = _read(_delta(content="x", finish=word))[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.native_reason) == (reason, native)


def test_a_stop_string_is_known_where_the_service_says_which() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop", "stop_reason": "END"}]}
    finished = _read(chunk, decoder=_decoder(stop=("END",)))[-1]
    assert finished == Finished(reason="stop_string", stop_string="END")
    unasked = _read(chunk)[-1]
    assert unasked == Finished(reason="stop")


def test_usage_may_come_with_the_last_chunk_after_it_or_in_every_one() -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    wanted = Usage(hit_tokens=2, miss_tokens=3, reasoning_tokens=1, answer_tokens=2)
    text = _delta(content="x")
    for chunks in (
        [text, {**STOP, "usage": usage}],
        [text, STOP, {"choices": [], "usage": usage}],
        [text, STOP, {**STOP, "usage": usage}],  # as OpenRouter was recorded
        [{**text, "usage": {"prompt_tokens": 5}}, {**STOP, "usage": usage}],
    ):
        events = _read(*chunks)
        assert [event.usage for event in events if isinstance(event, UsageReported)] == [wanted]
        assert [type(event) for event in events[-2:]] == [UsageReported, Finished]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5, "prompt_cache_hit_tokens": 9},
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": 5, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 4}},
    ],
)
def test_usage_that_cannot_be_right_is_bounded_and_said_to_be_an_estimate(usage: Json) -> None:
    decoder = _decoder()
    _read({**_delta(content="x", finish="stop"), "usage": usage}, decoder=decoder)
    assert decoder.usage is not None
    assert decoder.usage.is_estimated
    assert decoder.usage.hit_tokens <= decoder.usage.prompt_tokens
    assert decoder.usage.reasoning_tokens <= decoder.usage.output_tokens
    assert decoder.usage.miss_tokens >= 0


def test_the_cost_that_a_service_states_is_exact() -> None:
    raw = (
        b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":19,'
        b'"completion_tokens":800,"cost":0.00281706,"cost_details":{"upstream_inference_prompt_cost":0.00003306}}}'
    )
    decoder = _decoder()
    (reported, _) = (*decoder.chunk(raw), *decoder.finish())[-2:]
    assert isinstance(reported, UsageReported)
    assert reported.cost is not None
    assert reported.cost.total_usd == Decimal("0.00281706")
    assert reported.cost.miss_usd == Decimal("0.00003306")
    assert reported.cost.source == "provider"


def test_nothing_begins_before_there_is_something_to_tell() -> None:
    """So that a failure right after an empty first chunk is still a plain error, and can be tried again."""
    decoder = _decoder()
    assert decoder.chunk(json.dumps(_delta(role="assistant", content="")).encode()) == []
    assert decoder.chunk(b'{"choices":[],"debug":{}}') == []
    assert not decoder.has_begun
    with pytest.raises(TooManyRequests):
        decoder.chunk(b'{"error":{"code":429,"message":"slow down"}}')
    with pytest.raises(BackendFailure, match="before it began"):
        _decoder().finish()


def test_who_answers_is_what_the_answer_says_or_what_the_headers_said() -> None:
    started = _read({**_delta(content="x", finish="stop"), "system_fingerprint": "fp"})[0]
    assert started == Started(served_by=ServedBy(provider="up", model="m", fingerprint="fp"))
    told = ServedBy(provider="deepserve", model="mini-flash", fingerprint="")
    assert _read(_delta(content="x", finish="stop"), decoder=_decoder(served_by=told))[0] == Started(served_by=told)


def _failure(events: list[Event]) -> DeepserveError:
    failed = events[-1]
    assert isinstance(failed, Failed)
    return failed.error


def test_an_error_after_the_first_piece_is_a_terminal_event() -> None:
    for error in (
        {"error": {"code": 502, "message": "died"}, "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]},
        {"error": {"message": "died", "type": "server_error"}},
        {"error": "died"},
    ):
        failure = _failure(_read(_delta(content="x"), error, is_done=False))
        assert isinstance(failure, BackendFailure)
        assert "died" in failure.message


def test_a_lack_of_resources_is_never_a_success() -> None:
    failure = _failure(_read(_delta(content="x"), _delta(finish="insufficient_system_resource")))
    assert isinstance(failure, Overloaded)


def test_a_stream_that_stops_fails_and_one_with_its_terminator_does_not() -> None:
    assert "closed the stream" in _failure(_read(_delta(content="x"), is_done=False)).message
    assert isinstance(_read(_delta(content="x"), STOP, is_done=False)[-1], Finished)
    assert isinstance(_read(_delta(content="x"), is_done=True)[-1], Finished)


def test_results_that_never_came_fail_alone() -> None:
    events = _read(_delta(content="x", finish="stop"), decoder=_decoder(num_results=2))
    assert isinstance(events[-2], Finished)
    assert isinstance(events[-1], Failed)
    assert events[-1].result == 1


def _completeness(*chunks: Json) -> list[bool]:
    """After each chunk."""
    decoder = _decoder()
    found: list[bool] = []
    for chunk in chunks:
        decoder.chunk(json.dumps(chunk).encode())
        found.append(decoder.is_complete)
    return found


def test_it_is_complete_once_nothing_more_can_matter() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    end = _delta(content="x", finish="stop")
    assert _completeness(end, {"choices": [], "usage": usage}) == [False, True]
    # What failed may follow.
    failed = {**_delta(content="x", finish="error"), "usage": usage}
    assert _completeness(failed, {"error": {"message": "died"}}) == [False, True]


def test_a_whole_answer_is_read_like_a_stream() -> None:
    body = {
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "reasoning": "t",
                    "content": "x",
                    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    decoder = _decoder()
    answer = _collected([*decoder.whole(b"\n\n" + json.dumps(body).encode()), *decoder.finish()])
    assert answer.results[0].parts == (Reasoning(text="t"), Text("x"), ToolCall(id="a", name="f", arguments="{}"))
    assert answer.usage == Usage(miss_tokens=1, answer_tokens=2)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "cannot be read"),
        (b'{"choices":[{"mess', "cannot be read"),
        (b'{"choices":[]}', "without choices"),
        (b'{"error":{"message":"inside"}}', "inside"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_a_body_that_is_no_answer_is_a_failure_of_the_service(body: bytes, said: str) -> None:
    with pytest.raises(BackendFailure, match=said):
        _decoder().whole(body)


def test_a_second_call_in_one_chunk_opens_a_block_of_its_own() -> None:
    events = _read(
        _delta(
            tool_calls=[
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
                {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}},
            ]
        ),
        STOP,
    )
    opened = [event.block for event in events if isinstance(event, BlockOpened)]
    assert opened == [ToolCallBlock(id="a", name="f"), ToolCallBlock(id="b", name="g")]
