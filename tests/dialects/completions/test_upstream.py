"""Plain completions of other services: what they are sent, and what becomes of what they tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming
from pydantic import TypeAdapter

from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded, UnsupportedFeature
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    Started,
    TextBlock,
    TokenLogprob,
    UsageReported,
)
from deepserve.core.provider import ServedBy
from deepserve.core.request import Infill
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.core.usage import Usage
from deepserve.dialects.completions.upstream_answer import AnswerDecoder
from deepserve.dialects.completions.upstream_request import CompletionsFlavour, encode_upstream_request
from tests.backends.upstream.setup import request, told
from tests.dialects.completions.test_request import decode
from tests.outgoing.receiver import answer

Json = Any
"""Bodies as they stand on the wire."""

FULL = CompletionsFlavour(
    path="/completions",
    has_suffix=True,
    needs_limit=True,
    knobs=frozenset(KNOBS) | {"seed", "logit_bias", "logprobs"},
    has_several_results=True,
    user_field="user",
)
BARE = CompletionsFlavour(
    path="/beta/completions",
    has_suffix=False,
    needs_limit=False,
    knobs=frozenset(("temperature",)),
    has_several_results=False,
    user_field="user_id",
)
HOLE = Infill(prompt="a", suffix="c", echo=True)
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_cache_hit_tokens": 1}
COUNTED = Usage(hit_tokens=1, miss_tokens=4, answer_tokens=2)


def _asked(flavour: CompletionsFlavour, infill: Infill = HOLE, **fields: Any) -> tuple[str, Json, tuple[str, ...]]:
    """The address, the body, and what is not said in it. Any: fields of Request."""
    asked = request(messages=(), infill=infill, default_output_tokens=4096, **fields)
    told = encode_upstream_request(asked, infill, flavour, model="m", user="u")
    return told.path, json.loads(told.body), told.left_out


def test_a_hole_is_a_body_of_the_dialect_and_our_own_server_reads_it() -> None:
    path, body, left_out = _asked(FULL, stop=("END",), num_results=2, sampling=Sampling(num_top_logprobs=0, seed=7))
    assert (path, left_out) == ("/completions", ())
    assert body == {
        "model": "m",
        "prompt": "a",
        "suffix": "c",
        "max_tokens": 4096,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 2,
        "user": "u",
        "logprobs": 0,
        "seed": 7,
    }
    read = decode(**{**body, "model": "deepseek-v4-flash"})
    assert not read.ignored
    assert read.infill == Infill(prompt="a", suffix="c")  # what is repeated is ours to repeat
    assert (read.request.num_results, read.request.sampling.num_top_logprobs) == (2, 0)


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_sdk_knows_the_body_by_its_types(is_stream: bool) -> None:
    sampling = Sampling(temperature=0.5, seed=7, logit_bias={7: 1.0}, num_top_logprobs=2)
    asked = request(messages=(), infill=HOLE, sampling=sampling, stop=("END",), max_output_tokens=9)
    body = json.loads(encode_upstream_request(asked, HOLE, FULL, model="m", user="u", is_stream=is_stream).body)
    params = CompletionCreateParamsStreaming if is_stream else CompletionCreateParamsNonStreaming
    adapter = TypeAdapter(params)
    adapter.validate_python(body)
    assert set(body) <= set(params.__annotations__)


def test_what_a_service_does_not_take_is_named_or_refused() -> None:
    sampling = Sampling(temperature=0.5, top_p=0.5, min_p=0.0, seed=7, logit_bias={7: 1.0}, num_top_logprobs=0)
    path, body, left_out = _asked(BARE, Infill(prompt="a"), sampling=sampling)
    assert path == "/beta/completions"
    assert set(body) == {"model", "prompt", "stream", "stream_options", "user_id", "temperature"}
    assert left_out == ("top_p", "seed", "logit_bias", "logprobs")
    for fields, field in (({"infill": HOLE}, "suffix"), ({"infill": Infill(prompt="a"), "num_results": 2}, "n")):
        with pytest.raises(UnsupportedFeature) as caught:
            _asked(BARE, **fields)
        assert caught.value.field == field


# Answers


def _decoder(**options: Any) -> AnswerDecoder:  # Any: options of the decoder
    return AnswerDecoder(provider="up", title="Upstream", call_id=str, **options)


def _choice(index: int, text: str = "", finish: str | None = None, **members: Json) -> Json:
    return {"index": index, "text": text, "finish_reason": finish, **members}


def _chunk(*choices: Json, **members: Json) -> Json:
    return {"model": "m", "system_fingerprint": "fp", "choices": list(choices), **members}


def _read(*chunks: Json, **options: Any) -> list[Event]:
    decoder = _decoder(**options)
    return [event for one in chunks for event in decoder.chunk(json.dumps(one).encode())] + decoder.finish()


def _whole(body: Json, **options: Any) -> list[Event]:
    decoder = _decoder(**options)
    return [*decoder.whole(json.dumps(body).encode()), *decoder.finish()]


def _joined(events: Sequence[Event]) -> list[Event]:
    """With the pieces of a text as one."""
    found: list[Event] = []
    for event in events:
        if isinstance(event, BlockDelta) and found and isinstance(found[-1], BlockDelta):
            found[-1] = msgspec.structs.replace(event, text=found[-1].text + event.text)
        else:
            found.append(event)
    return found


def test_a_stream_and_a_whole_answer_tell_the_same() -> None:
    streamed = _read(_chunk(_choice(0, "b")), _chunk(_choice(0, "b")), _chunk(_choice(0, "", "stop"), usage=USAGE))
    late = _read(_chunk(_choice(0, "bb", "stop")), _chunk(usage=USAGE))
    whole = _whole(_chunk(_choice(0, "bb", "stop"), usage=USAGE))
    for events in (streamed, late, whole):
        assert _joined(events) == [
            Started(served_by=ServedBy(provider="up", model="m", fingerprint="fp")),
            BlockOpened(index=0, block=TextBlock()),
            BlockDelta(index=0, text="bb"),
            BlockClosed(index=0),
            UsageReported(usage=COUNTED),
            Finished(reason="stop"),
        ]


def test_several_results_are_told_apart() -> None:
    events = _read(
        _chunk(_choice(1, "x")),
        _chunk(_choice(0, "y", "length"), _choice(1, "", "stop", stop_reason="END"), usage=USAGE),
        num_results=2,
        stop=("END",),
    )
    assert {(event.result, event.text) for event in events if isinstance(event, BlockDelta)} == {(0, "y"), (1, "x")}
    assert events[-2:] == [
        Finished(reason="length"),
        Finished(reason="stop_string", stop_string="END", result=1),
    ]
    with pytest.raises(BackendFailure, match="not asked for"):
        _read(_chunk(_choice(1, "x")))


@pytest.mark.parametrize("word", ["stop", "length", "content_filter", "whatever"])
def test_an_unknown_end_keeps_its_word(word: str) -> None:
    finished = _read(_chunk(_choice(0, "x", word), usage=USAGE))[-1]
    assert finished == Finished(
        reason="stop" if word == "whatever" else word,  # type: ignore[arg-type]  # the others are reasons
        native_reason=word if word == "whatever" else None,
    )


def test_log_probabilities_are_read_by_columns_also_of_parts_of_characters() -> None:
    columns = {
        "tokens": ["x", "bytes:\\xe2\\x80"],
        "token_logprobs": [-0.5, None],
        "top_logprobs": [{"y": -1.0}, None],
        "text_offset": [0, 1],
    }
    (piece,) = [
        event for event in _whole(_chunk(_choice(0, "x", "stop", logprobs=columns))) if isinstance(event, BlockDelta)
    ]
    other = TokenLogprob(token="y", logprob=-1.0, bytes=b"y")
    assert piece.logprobs == (
        TokenLogprob(token="x", logprob=-0.5, bytes=b"x", top=(other,)),
        TokenLogprob(token="bytes:\\xe2\\x80", logprob=0.0, bytes=b"\xe2\x80"),
    )


def test_a_cost_is_told_and_a_usage_that_cannot_be_is_an_estimate() -> None:
    report = _whole(_chunk(_choice(0, "x", "stop"), usage={**USAGE, "cost": 0.003}))[-2]
    assert isinstance(report, UsageReported)
    assert report.cost is not None
    assert report.cost.stated_usd == Decimal("0.003")
    for wrong in ({"prompt_cache_hit_tokens": 6}, {"completion_tokens": -1}):
        report = _whole(_chunk(_choice(0, "x", "stop"), usage={**USAGE, **wrong}))[-2]
        assert isinstance(report, UsageReported)
        assert report.usage.is_estimated
    assert _whole(_chunk(_choice(0, "x", "stop"), usage="many"))[-1] == Finished(reason="stop")


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"<html>", "cannot be read"), (b'{"choices":[{"te', "cannot be read"), (b'{"choices":[]}', "without choices")],
)
def test_a_body_that_is_no_answer_says_what_it_is(body: bytes, said: str) -> None:
    with pytest.raises(BackendFailure, match=said):
        _decoder().whole(body)


def test_a_failure_is_raised_before_the_first_word_and_an_event_after_it() -> None:
    error = {"error": {"type": "overloaded_error", "message": "full"}}
    for read in (_read, _whole):
        with pytest.raises(Overloaded, match="full"):
            read(error)
    begun = _chunk(_choice(0, "x"))
    broken = _chunk(_choice(0, "", "insufficient_system_resource"))
    for rest, cls in (
        ((error,), Overloaded),
        ((), BackendFailure),
        ((broken,), Overloaded),
        ((broken, error), Overloaded),
    ):
        failed = _read(begun, *rest)[-1]
        assert isinstance(failed, Failed)
        assert type(failed.error) is cls


def test_a_terminator_is_an_end_and_silence_is_none() -> None:
    decoder = _decoder()
    decoder.chunk(json.dumps(_chunk(_choice(0, "x"))).encode())
    assert decoder.chunk(b"[DONE]") == []
    assert decoder.is_complete
    assert decoder.finish() == [BlockClosed(index=0), Finished(reason="stop")]
    with pytest.raises(DeepserveError, match="before it began"):
        _read()


# Over real sockets


def test_an_upstream_that_does_not_say_what_a_completion_took_is_estimated() -> None:
    body = json.dumps(_chunk(_choice(0, "between", "stop"))).encode()
    asked = request(messages=(), infill=Infill(prompt="a"), is_whole=True, default_output_tokens=9)
    events = told(answer(200, "Content-Type: application/json", body=body), asked=asked)
    report = events[-2]
    assert isinstance(report, UsageReported)
    assert report.usage.is_estimated
    assert report.usage.answer_tokens > 0
    assert report.usage.prompt_tokens > 0
