"""Short ways to write requests and answers in the prompt tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from deepserve.core.events import BlockClosed, BlockDelta, BlockOpened, ReasoningBlock, TextBlock, ToolCallBlock
from deepserve.core.messages import Message, Part, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Request, RequestId, Thinking, Tool
from deepserve.prompt.decoder import Decoder, Marks, Piece
from deepserve.prompt.segments import Stage, Start

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
WEATHER = Tool(
    name="weather",
    description="Weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
)


def request(*messages: Message, **fields: Any) -> Request:
    """fields: whatever `Request` takes, hence Any."""
    return Request(id=RequestId("r1"), model="mini-flash", arrived_at=NOON, messages=messages, **fields)


def system(text: str) -> Message:
    return Message(role="system", parts=(Text(text),))


def user(text: str) -> Message:
    return Message(role="user", parts=(Text(text),))


def reminder(text: str) -> Message:
    return Message(role="latest_reminder", parts=(Text(text),))


def assistant(
    text: str = "", *, reasoning: str | None = None, calls: Sequence[ToolCall] = (), prefix: bool = False
) -> Message:
    parts: list[Part] = []
    if reasoning is not None:
        parts.append(Reasoning(text=reasoning))
    if text:
        parts.append(Text(text))
    return Message(role="assistant", parts=(*parts, *calls), prefix=prefix)


def result(call_id: str, text: str) -> Message:
    return Message(role="tool", parts=(ToolResult(call_id=call_id, content=(Text(text),)),))


QUICK = Thinking(effort="low")
OFF = Thinking(enabled=False)


class Answer(msgspec.Struct):
    """Events put together again; None: the channel never opened. calls: [name, arguments]."""

    reasoning: str | None
    text: str | None
    calls: list[list[str]]
    damage: str | None = None
    num_blocks: int = 0
    has_failed: bool = False


def collect(events: Sequence[BlockOpened | BlockDelta | BlockClosed], damage: str | None = None) -> Answer:
    """Put events together, and check that blocks open, grow and close one after another."""
    answer = Answer(None, None, [], damage)
    block: object = None
    for event in events:
        match event:
            case BlockOpened():
                assert block is None, "a block opens inside another"
                assert event.index == answer.num_blocks
                block, answer.num_blocks = event.block, answer.num_blocks + 1
                if isinstance(block, ToolCallBlock):
                    answer.calls.append([block.name, ""])
            case BlockDelta():
                assert event.index == answer.num_blocks - 1
                match block:
                    case ReasoningBlock():
                        answer.reasoning = (answer.reasoning or "") + event.text
                    case TextBlock():
                        answer.text = (answer.text or "") + event.text
                    case ToolCallBlock():
                        answer.calls[-1][1] += event.text
                    case _:
                        raise AssertionError("text outside a block")
            case BlockClosed():
                assert block is not None
                assert event.index == answer.num_blocks - 1
                block = None
    assert block is None, "the last block is not closed"
    return answer


def decode(
    text: str,
    *,
    stage: Stage = "text",
    offers_tools: bool = True,
    size: int | None = None,
    marks: Marks = "spelled",
    tools: Sequence[Tool] = (),
    is_cut: bool = False,
) -> Answer:
    """Decode a whole answer, fed in pieces of `size` characters or at once."""
    start = Start(stage=stage, offers_tools=offers_tools)
    decoder = Decoder(start, marks=marks, call_id=lambda index: f"call_{index}", tools=tools)
    pieces = [text] if size is None else [text[start : start + size] for start in range(0, len(text), size)]
    events = [event for piece in pieces for event in decoder.feed(Piece(piece))]
    answer = collect([*events, *decoder.finish(is_cut=is_cut)], decoder.damage)
    answer.has_failed = decoder.failure is not None
    return answer
