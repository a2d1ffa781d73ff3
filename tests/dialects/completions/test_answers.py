"""Answers on the wire: whole, streamed, and when they go wrong."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from deepserve.core.answer import Answer, Result
from deepserve.core.errors import EngineFailure, Overloaded
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningBlock,
    Started,
    TextBlock,
    TokenLogprob,
    UsageReported,
)
from deepserve.core.messages import Reasoning, Text
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.completions.response import FINISH_WORDS, LogprobColumns, encode_answer
from deepserve.dialects.completions.stream import DONE, StreamEncoder
from deepserve.dialects.exchange import AnswerHead
from tests.dialects.chat.decoding import ARRIVED_AT
from tests.dialects.completions.test_request import decode

SERVED_BY = ServedBy(provider="p", model="m", fingerprint="f")
HEAD = AnswerHead(id="i", created_at=ARRIVED_AT, model="deepseek-v4-pro")
USAGE = Usage(hit_tokens=3, miss_tokens=4, answer_tokens=2)
WIRE_USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 3},
    "prompt_cache_hit_tokens": 3,
    "prompt_cache_miss_tokens": 4,
}


def logprob(token: bytes, value: float = -0.5, *top: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token=token.decode("utf-8", "replace"), logprob=value, bytes=token, top=top)


def chunks(frames: bytes) -> list[dict[str, Any]]:  # Any: JSON
    lines = [frame.removeprefix("data: ") for frame in frames.decode().split("\n\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


def stream(*events: Event, **fields: Any) -> bytes:  # Any: JSON
    completion = decode(stream=True, **fields)
    encoder = StreamEncoder(completion.request, completion.infill, HEAD, include_usage=completion.include_usage)
    return b"".join(map(encoder.encode, events)) + encoder.finish()


STARTED = Started(served_by=SERVED_BY)
TOLD: tuple[Event, ...] = (
    STARTED,
    BlockOpened(index=0, block=TextBlock()),
    BlockDelta(index=0, text="a"),
    BlockDelta(index=0, text="b"),
    BlockClosed(index=0),
    UsageReported(usage=USAGE),
    Finished(reason="stop_string", stop_string="#"),
)


def test_a_whole_answer_has_the_vendors_members() -> None:
    answer = Answer(
        served_by=SERVED_BY,
        usage=USAGE,
        results=(
            Result(
                parts=(Text("ab"),),
                finished=Finished(reason="length"),
                text_logprobs=(logprob(b"a", -0.5, logprob(b"a", -0.5), logprob(b"c", -1.5)), logprob(b"b")),
            ),
        ),
    )
    assert json.loads(encode_answer(answer, decode(logprobs=2).infill, HEAD)) == {
        "id": "i",
        "object": "text_completion",
        "created": HEAD.created,
        "model": "deepseek-v4-pro",
        "system_fingerprint": "f",
        "choices": [
            {
                "index": 0,
                "text": "ab",
                "finish_reason": "length",
                "logprobs": {
                    "text_offset": [0, 1],
                    "token_logprobs": [-0.5, -0.5],
                    "tokens": ["a", "b"],
                    "top_logprobs": [{"a": -0.5, "c": -1.5}, {"b": -0.5}],
                },
            }
        ],
        "usage": WIRE_USAGE,
    }


def test_a_stream_has_one_chunk_for_each_piece_and_the_usage_on_the_last() -> None:
    frames = stream(*TOLD)
    assert frames.endswith(DONE)
    told = chunks(frames)
    assert [chunk["choices"] for chunk in told] == [
        [{"index": 0, "text": "a", "finish_reason": None, "logprobs": None}],
        [{"index": 0, "text": "b", "finish_reason": None, "logprobs": None}],
        [{"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}],
    ]
    assert ["usage" in chunk for chunk in told] == [False, False, True]
    assert told[-1]["usage"] == WIRE_USAGE
    assert {chunk["object"] for chunk in told} == {"text_completion"}


def test_every_chunk_has_a_usage_when_it_is_asked_for() -> None:
    told = chunks(stream(*TOLD, stream_options={"include_usage": True}))
    assert [chunk["usage"] for chunk in told] == [None, None, WIRE_USAGE]


def test_echo_repeats_the_prompt_before_the_answer_whole_and_streamed() -> None:
    told = chunks(stream(*TOLD, echo=True, prompt="P"))
    assert "".join(chunk["choices"][0]["text"] for chunk in told) == "Pab"
    answer = Answer(
        served_by=SERVED_BY,
        usage=USAGE,
        results=(Result(parts=(Reasoning(text="never"), Text("ab")), finished=Finished(reason="stop")),),
    )
    whole = json.loads(encode_answer(answer, decode(echo=True, prompt="P").infill, HEAD))
    assert whole["choices"][0]["text"] == "Pab"


def test_only_text_is_told() -> None:
    trace = (BlockOpened(index=0, block=ReasoningBlock()), BlockDelta(index=0, text="t"), BlockClosed(index=0))
    told = chunks(stream(STARTED, *trace, *TOLD[1:]))
    assert "".join(chunk["choices"][0]["text"] for chunk in told) == "ab"


@pytest.mark.parametrize("reason", get_args(FinishReason))
def test_every_reason_has_one_of_the_vendors_words(reason: FinishReason) -> None:
    assert FINISH_WORDS[reason] in ("stop", "length", "content_filter", "insufficient_system_resource")
    assert chunks(stream(STARTED, Finished(reason=reason)))[-1]["choices"][0]["finish_reason"] == FINISH_WORDS[reason]


def test_a_failed_result_ends_and_the_error_follows_once() -> None:
    error = EngineFailure("It broke.")
    frames = stream(
        STARTED, Failed(error=error, result=0), UsageReported(usage=USAGE), Failed(error=error, result=1), n=2
    )
    told = chunks(frames)
    assert [chunk["choices"][0]["finish_reason"] for chunk in told[:-1]] == ["insufficient_system_resource"] * 2
    assert told[-1]["error"]["message"] == "It broke."
    assert frames.endswith(DONE)


def test_what_is_raised_in_the_middle_ends_every_open_result() -> None:
    completion = decode(stream=True)
    encoder = StreamEncoder(completion.request, completion.infill, HEAD, include_usage=False)
    begun = encoder.encode(STARTED)
    told = chunks(begun + encoder.finish(Overloaded("Full.")))
    assert [chunk["choices"][0]["finish_reason"] for chunk in told[:-1]] == ["insufficient_system_resource"]
    assert told[-1]["error"]["code"] == "overloaded"


def test_what_is_raised_before_the_beginning_is_the_error_alone() -> None:
    completion = decode(stream=True)
    encoder = StreamEncoder(completion.request, completion.infill, HEAD, include_usage=False)
    assert ["error" in chunk for chunk in chunks(encoder.finish(Overloaded("Full.")))] == [True]


def test_offsets_count_characters_over_all_chunks_and_broken_characters_are_spelled_as_bytes() -> None:
    euro = "€".encode()
    columns = LogprobColumns()
    first = columns.encode([logprob("é".encode()), logprob(euro[:1])])
    second = columns.encode([logprob(euro[1:]), logprob(b"!", float("-inf"))])
    assert first is not None
    assert second is not None
    assert (first.text_offset, second.text_offset) == ([0, 1], [1, 2])
    assert first.tokens == ["é", "bytes:\\xe2"]
    assert second.tokens == ["bytes:\\x82\\xac", "!"]
    assert second.token_logprobs == [-0.5, -9999.0]
    assert columns.encode([]) is None
