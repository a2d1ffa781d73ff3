"""Whole answers, collected from the event stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import assert_never

import msgspec

from deepserve.core.attempt import FailedAttempt
from deepserve.core.cost import Cost
from deepserve.core.errors import BackendFailure
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    ReasoningBlock,
    ServerToolCallBlock,
    ServerToolResultBlock,
    Started,
    TextBlock,
    TokenLogprob,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.messages import (
    Citation,
    Part,
    Reasoning,
    ServerToolCall,
    ServerToolResult,
    Text,
    ToolCall,
)
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One finished result: its parts in order, and what the stream said about its tokens."""

    parts: tuple[Part, ...]
    finished: Finished
    text_logprobs: tuple[TokenLogprob, ...] = ()
    reasoning_logprobs: tuple[TokenLogprob, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """model and earlier: as in `Started`."""

    served_by: ServedBy
    results: tuple[Result, ...]
    usage: Usage
    cost: Cost | None = None
    model: str | None = None
    earlier: tuple[FailedAttempt, ...] = ()


class _Open(msgspec.Struct):
    block: Block
    text: list[str]
    citations: list[Citation]


class _Collecting(msgspec.Struct):
    parts: list[Part]
    text_logprobs: list[TokenLogprob]
    reasoning_logprobs: list[TokenLogprob]
    open: _Open | None = None
    finished: Finished | None = None


class Collector:
    """A whole answer in the making: `add` each event, then take the `answer`."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._usage = Usage()
        self._cost: Cost | None = None
        self._results: dict[int, _Collecting] = {}

    def add(self, event: Event) -> None:
        """Raises the error of a `Failed` event: a whole answer is given whole or not at all."""
        match event:
            case Started():
                self._started = event
            case BlockOpened():
                self._result(event.result).open = _Open(block=event.block, text=[], citations=[])
            case BlockDelta():
                result = self._result(event.result)
                assert result.open is not None
                result.open.text.append(event.text)
                result.open.citations.extend(event.citations)
                if isinstance(result.open.block, ReasoningBlock):
                    result.reasoning_logprobs.extend(event.logprobs)
                elif isinstance(result.open.block, TextBlock):
                    result.text_logprobs.extend(event.logprobs)
            case BlockClosed():
                result = self._result(event.result)
                assert result.open is not None
                result.parts.append(_close(result.open, event))
                result.open = None
            case UsageReported():
                self._usage, self._cost = event.usage, event.cost
            case Finished():
                self._result(event.result).finished = event
            case Failed():
                raise event.error
            case _:
                assert_never(event)

    def answer(self) -> Answer:
        """Raises BackendFailure where the events stopped too early."""
        results = self._results
        started = self._started
        if started is None or not results or any(result.finished is None for result in results.values()):
            raise BackendFailure("The answer ended without a finish. This is a fault of the server; please retry.")
        return Answer(
            served_by=started.served_by,
            model=started.model,
            earlier=started.earlier,
            usage=self._usage,
            cost=self._cost,
            results=tuple(
                Result(
                    parts=tuple(result.parts),
                    finished=result.finished,
                    text_logprobs=tuple(result.text_logprobs),
                    reasoning_logprobs=tuple(result.reasoning_logprobs),
                )
                for _, result in sorted(results.items())
                if result.finished is not None
            ),
        )

    def _result(self, index: int) -> _Collecting:
        result = self._results.get(index)
        if result is None:
            result = self._results[index] = _Collecting(parts=[], text_logprobs=[], reasoning_logprobs=[])
        return result


async def collect(events: AsyncIterator[Event]) -> Answer:
    """Consume a stream into an Answer. Raises what `Collector` does."""
    collector = Collector()
    async for event in events:
        collector.add(event)
    return collector.answer()


def collect_parts(events: Iterable[Event]) -> tuple[Part, ...]:
    """The parts of one result as far as it came; a block that was not closed counts as it is."""
    parts: list[Part] = []
    opened: _Open | None = None
    for event in events:
        match event:
            case BlockOpened():
                opened = _Open(block=event.block, text=[], citations=[])
            case BlockDelta() if opened is not None:
                opened.text.append(event.text)
                opened.citations.extend(event.citations)
            case BlockClosed() if opened is not None:
                parts.append(_close(opened, event))
                opened = None
            case _:
                pass
    if opened is not None:
        parts.append(_close(opened, BlockClosed(index=len(parts))))
    return tuple(parts)


def _close(opened: _Open, closed: BlockClosed) -> Part:
    text = "".join(opened.text)
    match opened.block:
        case ReasoningBlock():
            return Reasoning(text=text, signature=closed.signature, sealed=closed.sealed)
        case TextBlock():
            return Text(text, citations=tuple(opened.citations))
        case ToolCallBlock(id=id, name=name):
            return ToolCall(id=id, name=name, arguments=text)
        case ServerToolCallBlock(id=id, tool=tool, name=name):
            return ServerToolCall(id=id, tool=tool, name=name, arguments=text)
        case ServerToolResultBlock(call_id=call_id, tool=tool, output=output):
            return ServerToolResult(call_id=call_id, tool=tool, output=output)
        case _:
            assert_never(opened.block)
