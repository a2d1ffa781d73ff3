"""One round of an answer: what the model said and called, put together from its events."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core.events import (
    Block,
    Finished,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
)
from deepserve.core.messages import (
    Part,
    Reasoning,
    Text,
    ToolCall,
)
from deepserve.core.usage import Usage
from deepserve.tools.toolbox import OfferedTool


class RoundCall(msgspec.Struct, frozen=True):
    call: ToolCall
    tool: OfferedTool


class ToolRound:
    """What the model did in one round, as it is told."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.calls: list[RoundCall] = []
        self.client_calls: list[ToolCall] = []
        self.num_blocks = 0
        self.usage = Usage()
        self.finished: Finished | None = None
        self.has_begun = False
        self._open: Block | None = None
        self._text: list[str] = []

    def open(self, block: Block) -> None:
        self.num_blocks += 1
        self._open, self._text = block, []

    def hear(self, text: str) -> None:
        self._text.append(text)

    def close(self, offered: Mapping[str, OfferedTool]) -> Part | None:
        """The part that has ended."""
        text = "".join(self._text)
        part: Part | None = None
        match self._open:
            case ReasoningBlock():
                part = Reasoning(text=text)
            case TextBlock():
                part = Text(text)
            case ToolCallBlock(id=call_id, name=name):
                part = ToolCall(id=call_id, name=name, arguments=text)
                if name in offered:
                    self.calls.append(RoundCall(part, offered[name]))
                else:
                    self.client_calls.append(part)
        if part is not None:
            self.parts.append(part)
        self._open = None
        return part
