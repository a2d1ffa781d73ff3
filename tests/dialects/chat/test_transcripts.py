"""Recorded exchanges, replayed in both directions."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepserve.backends.script import Script
from deepserve.core.answer import Answer, collect
from deepserve.core.errors import DeepserveError
from deepserve.core.events import BlockClosed, BlockDelta, Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Part, ToolCall
from deepserve.core.request import Request
from deepserve.dialects.chat.upstream_answer import AnswerDecoder
from deepserve.dialects.upstream_errors import decode_error
from deepserve.outgoing.event_stream import EventStreamReader
from tests.dialects.chat.decoding import decode
from tests.dialects.chat.exchange import answer_of, events_of, play

_RECORDED = {
    file.stem: json.loads(file.read_text())
    for file in sorted((Path(__file__).parents[2] / "transcripts" / "chat").glob("*.json"))
}
_STREAMS = {name: one for name, one in _RECORDED.items() if one["request"].get("stream")}
_WHOLE = {name: one for name, one in _RECORDED.items() if one["status"] == 200 and name not in _STREAMS}
_ERRORS = {name: one for name, one in _RECORDED.items() if one["status"] != 200}


def test_all_situations_are_recorded() -> None:
    assert {"plain", "streamed", "thinking", "tool_calls", "error", "error_mid_stream"} <= set(_RECORDED)


@pytest.mark.parametrize("name", _RECORDED)
def test_the_recorded_answer_is_still_given(name: str) -> None:
    """Byte for byte, so that the order of members and of chunks is held too."""
    recorded = _RECORDED[name]
    status, text = play(recorded)
    assert status == recorded["status"]
    if name in _STREAMS:
        assert text.split("\n\n") == [*recorded["response"], ""]
    else:
        assert text == json.dumps(recorded["response"], separators=(",", ":"), ensure_ascii=False)


def _script(recorded: dict[str, Any]) -> Script:
    return msgspec.convert(recorded.get("script", {}), Script)


def _carried(answer: Answer) -> Answer:
    """The answer without what the dialect cannot carry: provider and model, stop strings, usage by result."""
    served_by = msgspec.structs.replace(answer.served_by, provider="p", model="m")
    results = tuple(
        msgspec.structs.replace(
            result,
            finished=msgspec.structs.replace(
                result.finished, reason=_sayable(result.finished), stop_string=None, output=None
            ),
        )
        for result in answer.results
    )
    return msgspec.structs.replace(answer, served_by=served_by, results=results)


def _sayable(finished: Finished) -> Any:  # Any: the literal of finish reasons
    return "stop" if finished.reason == "stop_string" else finished.reason


@pytest.mark.parametrize("name", _WHOLE)
def test_a_whole_answer_survives_the_wire(name: str) -> None:
    recorded = _WHOLE[name]
    request = decode(recorded["request"]).request
    decoder = _decoder(request)
    events = decoder.whole(json.dumps(recorded["response"]).encode())
    wire = asyncio.run(collect(_each([*events, *decoder.finish()])))
    assert _carried(wire) == _carried(answer_of(request, _script(recorded)))


@pytest.mark.parametrize("name", _ERRORS)
def test_an_error_survives_the_wire(name: str) -> None:
    recorded = _ERRORS[name]
    error = decode_error(recorded["status"], json.dumps(recorded["response"]).encode(), title="Upstream")
    assert recorded["response"]["error"]["message"] in error.message
    assert error.field == recorded["response"]["error"]["param"]


def _decoder(request: Request) -> AnswerDecoder:
    return AnswerDecoder(provider="p", title="Upstream", call_id=str, num_results=request.num_results)


async def _each(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


def _decoded(request: Request, text: str, *, piece_bytes: int) -> list[Event]:
    reader, decoder = EventStreamReader(max_bytes=100_000), _decoder(request)
    raw = text.encode()
    pieces = [raw[at : at + piece_bytes] for at in range(0, len(raw), piece_bytes)]
    events = [event for piece in pieces for data in reader.feed(piece) for event in decoder.chunk(data)]
    return events + decoder.finish()


def _comparable(events: list[Event]) -> dict[int, list[object]]:
    """Result -> its events in order, without what the dialect cannot carry.

    Whether a failed result closes its open block is left open.
    """
    failed = {event.result for event in events if isinstance(event, Failed)}
    kept: dict[int, list[object]] = {}
    for event in events:
        match event:
            case Started() | UsageReported():
                continue
            case BlockClosed() if event.result in failed:
                continue
            case Finished():
                kept.setdefault(event.result, []).append(("finished", _sayable(event)))
            case Failed():
                kept.setdefault(event.result, []).append(
                    ("failed", event.error.message.removeprefix("Upstream failed: "))
                )
            case _:
                kept.setdefault(event.result, []).append(event)
    return kept


@pytest.mark.parametrize("name", _STREAMS)
def test_a_stream_survives_the_wire_however_it_is_cut(name: str) -> None:
    recorded = _STREAMS[name]
    text = "\n\n".join(recorded["response"]) + "\n\n"
    request = decode(recorded["request"]).request
    sent = _comparable(events_of(request, _script(recorded)))
    for piece_bytes in (1, 7, 100_000):
        decoded = _comparable(_decoded(request, text, piece_bytes=piece_bytes))
        assert decoded == sent


@pytest.mark.parametrize("name", _STREAMS)
def test_usage_survives_the_stream(name: str) -> None:
    recorded = _STREAMS[name]
    text = "\n\n".join(recorded["response"]) + "\n\n"

    def last_usage(events: list[Event]) -> object:
        return [event.usage for event in events if isinstance(event, UsageReported)][-1]

    request = decode(recorded["request"]).request
    sent = events_of(request, _script(recorded))
    assert last_usage(_decoded(request, text, piece_bytes=50)) == last_usage(sent)


def test_deltas_joined_are_the_whole_answer() -> None:
    """The streamed and the whole form of one exchange say the same."""
    recorded = _RECORDED["streamed_tool_calls"]
    request = decode(recorded["request"]).request
    whole = answer_of(request, _script(recorded))
    text = "\n\n".join(recorded["response"]) + "\n\n"
    deltas = [event for event in _decoded(request, text, piece_bytes=1000) if isinstance(event, BlockDelta)]
    joined: dict[int, str] = {}
    for delta in deltas:
        joined[delta.index] = joined.get(delta.index, "") + delta.text

    def said(part: Part) -> str:
        return part.arguments if isinstance(part, ToolCall) else getattr(part, "text", "")

    assert list(joined.values()) == [said(part) for part in whole.results[0].parts]


def test_a_refusal_is_an_error_of_the_core() -> None:
    with pytest.raises(DeepserveError):
        decode(_RECORDED["error"]["request"])
