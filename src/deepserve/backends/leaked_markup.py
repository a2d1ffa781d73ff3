"""Tool calls that an upstream left in its text, as calls.

Engines without a parser of their own, or with one that gives up on damaged markup, send what the model wrote for a call
as text or as thinking. One result's events go in, the same events with those calls in their places come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from deepserve.core.errors import DamagedToolCall
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
)
from deepserve.core.tool import Tool
from deepserve.prompt.decoder import BlockEvent, Decoder, mint_call_id
from deepserve.prompt.pieces import Piece
from deepserve.prompt.segments import Stage, Start


class LeakedMarkup:
    """Reads one result.

    may_repair  calls are recovered; otherwise markup in a text ends the result with DamagedToolCall
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        *,
        result: int = 0,
        may_repair: bool = True,
        call_id: Callable[[int], str] = mint_call_id,
    ) -> None:
        self._tools = tools
        self._result = result
        self._may_repair = may_repair
        self._call_id = call_id
        self._decoder: Decoder | None = None
        self._closing: BlockClosed | None = None  # of the block that the decoder reads
        self._is_reasoning = False
        self._first = 0  # index of the decoder's first block among those sent
        self._num_sent = 0
        self._has_ended = False
        self.num_calls = 0
        """Calls that were sent, recovered or not."""
        self.num_recovered = 0
        """Calls that were found in texts."""

    def feed(self, event: Event) -> list[Event]:
        """What to send for one event of this result."""
        if self._has_ended:
            return []
        match event:
            case BlockOpened():
                return self._ended_with([*self._finish_text(is_cut=False), *self._open(event)])
            case BlockDelta():
                return self._ended_with(self._delta(event))
            case BlockClosed():
                if self._decoder is None:
                    return [msgspec.structs.replace(event, index=self._num_sent - 1)]
                self._closing = event  # whether the answer goes on decides how the text is read to its end
                return []
            case Finished():
                sent = self._finish_text(is_cut=event.reason != "stop")
                if event.reason == "stop" and self.num_recovered:
                    event = msgspec.structs.replace(event, reason="tool_calls")
                return self._ended_with([*sent, event])
            case Failed():
                return [*self._finish_text(is_cut=True), event]
            case _:
                return [event]

    def _open(self, event: BlockOpened) -> list[Event]:
        if self._has_ended:
            return []
        if isinstance(event.block, TextBlock | ReasoningBlock):
            self._is_reasoning = isinstance(event.block, ReasoningBlock)
            stage: Stage = "reasoning_continued" if self._is_reasoning else "text_continued"
            self._decoder = Decoder(
                Start(stage=stage, offers_tools=True),
                marks="spelled",
                result=self._result,
                tools=self._tools,
                call_id=lambda _: self._call_id(self.num_calls),
            )
            self._first = self._num_sent
            return []
        if isinstance(event.block, ToolCallBlock):
            self.num_calls += 1
        self._num_sent += 1
        return [msgspec.structs.replace(event, index=self._num_sent - 1)]

    def _delta(self, event: BlockDelta) -> list[Event]:
        if self._decoder is None:
            return [msgspec.structs.replace(event, index=self._num_sent - 1)]
        sent = self._numbered(self._decoder.feed(Piece(event.text, logprobs=event.logprobs)))
        if event.citations and self._num_sent > self._first:
            sent.append(BlockDelta(index=self._num_sent - 1, text="", citations=event.citations, result=self._result))
        return sent

    def _finish_text(self, *, is_cut: bool) -> list[Event]:
        if self._decoder is None:
            return []
        decoder = self._decoder
        sent = self._numbered(decoder.finish(is_cut=is_cut))
        self._decoder, closing, self._closing = None, self._closing, None
        if closing is not None and (closing.signature or closing.sealed):
            for index, event in enumerate(sent):
                if isinstance(event, BlockClosed):
                    sent[index] = msgspec.structs.replace(closing, index=event.index)
                    break
        return self._with_failure(decoder, sent)

    def _numbered(self, events: Sequence[BlockEvent]) -> list[Event]:
        """The decoder's events with the indices of what is sent."""
        sent: list[Event] = []
        for event in events:
            if isinstance(event, BlockOpened):
                if isinstance(event.block, ToolCallBlock):
                    self.num_calls += 1
                    self.num_recovered += 1
                self._num_sent += 1
            sent.append(msgspec.structs.replace(event, index=self._first + event.index))
        return sent if self._decoder is None else self._with_failure(self._decoder, sent)

    def _with_failure(self, decoder: Decoder, sent: list[Event]) -> list[Event]:
        error = decoder.failure
        if error is None and not self._may_repair and (decoder.num_calls or decoder.damage):
            error = DamagedToolCall("The model's answer holds tool markup in its text. Please retry.")
            sent = _without_calls(sent)
        if error is not None and not any(isinstance(event, Failed) for event in sent):
            sent.append(Failed(error=error, result=self._result))
        return sent

    def _ended_with(self, sent: list[Event]) -> list[Event]:
        """Nothing is sent behind the end."""
        for index, event in enumerate(sent):
            if isinstance(event, Finished | Failed):
                self._has_ended, self._decoder = True, None
                return sent[: index + 1]
        return sent


def _without_calls(events: Sequence[Event]) -> list[Event]:
    """The events without those of tool calls."""
    calls: set[int] = set()
    kept: list[Event] = []
    for event in events:
        if isinstance(event, BlockOpened) and isinstance(event.block, ToolCallBlock):
            calls.add(event.index)
        if not (isinstance(event, BlockOpened | BlockDelta | BlockClosed) and event.index in calls):
            kept.append(event)
    return kept
