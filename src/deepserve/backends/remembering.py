"""Thinking traces of earlier turns, kept for upstreams that want them back from clients that drop them.

DeepSeek and its resellers refuse a conversation with tools whose past turns come without their traces
(api-docs.deepseek.com/guides/thinking_mode). Many clients lose them. So what an upstream thought is remembered here, as
it is for our own engine, and put back before the next question is passed on: to whichever upstream it goes then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec

from deepserve.backends.backend import Backend
from deepserve.backends.tokens.turn_memory import RememberedTurn, TurnMemory
from deepserve.core.events import (
    BlockDelta,
    BlockOpened,
    Event,
    Finished,
    PastReasoning,
    ReasoningBlock,
    Started,
    TextBlock,
    ToolCallBlock,
)
from deepserve.core.provider import ServedModel
from deepserve.core.request import Request


class _Turn:
    """What one result says, as far as the memory cares."""

    def __init__(self) -> None:
        self.reasoning: list[str] = []
        self.text: list[str] = []
        self.call_ids: list[str] = []
        self._open: list[str] | None = None

    def hear(self, event: BlockOpened | BlockDelta) -> None:
        if isinstance(event, BlockDelta):
            if self._open is not None:
                self._open.append(event.text)
            return
        self._open = None
        match event.block:
            case ReasoningBlock():
                self._open = self.reasoning
            case TextBlock():
                self._open = self.text
            case ToolCallBlock(id=id_):
                self.call_ids.append(id_)
            case _:
                pass


class RememberingBackend:
    """Implements `backends.backend.Backend`, in front of one that knows of earlier turns what the client sends.

    memory: shared by all that may answer the same clients
    """

    def __init__(self, backend: Backend, memory: TurnMemory) -> None:
        self._backend = backend
        self._memory = memory

    def models(self) -> tuple[ServedModel, ...]:
        return self._backend.models()

    async def start(self) -> None:
        await self._backend.start()

    async def close(self) -> None:
        await self._backend.close()
        await asyncio.to_thread(self._memory.close)

    def is_ready(self) -> bool:
        return self._backend.is_ready()

    def enforces(self) -> bool:
        return self._backend.enforces()

    def gauges(self) -> Mapping[str, float]:
        return self._backend.gauges()

    async def count(self, request: Request) -> int:
        if not _concerns(request):
            return await self._backend.count(request)
        await self._memory.recall(request)
        restored, _, _ = self._memory.restore(request)
        return await self._backend.count(restored)

    def answer(self, request: Request) -> AsyncGenerator[Event]:
        # Most requests are none of its business, and pass without another generator around their answers.
        return self._remembered(request) if _concerns(request) else self._backend.answer(request)

    async def _remembered(self, request: Request) -> AsyncGenerator[Event]:
        await self._memory.recall(request)
        restored, past, _ = self._memory.restore(request)
        turns = [_Turn() for _ in range(request.num_results)]
        async with aclosing(self._backend.answer(restored)) as events:
            async for event in events:
                match event:
                    case BlockOpened() | BlockDelta():
                        turns[event.result].hear(event)
                    case Started():
                        event = _told(event, past)
                    case Finished(result=result, reason=reason) if reason not in ("length", "aborted"):
                        self._remember(request, turns[result])
                        await self._memory.settle()
                    case _:
                        pass
                yield event

    def _remember(self, request: Request, turn: _Turn) -> None:
        reasoning = "".join(turn.reasoning)
        if reasoning:
            self._memory.remember(
                request,
                RememberedTurn(reasoning=reasoning, sampled=None),
                call_ids=turn.call_ids,
                text="".join(turn.text),
            )


def _concerns(request: Request) -> bool:
    """Traces play a part only where tools do and the model thinks; an answer begun for the model is no whole turn."""
    if not request.thinking.enabled or request.infill is not None:
        return False
    if request.messages and request.messages[-1].prefix:
        return False
    return bool(request.tools) or any(message.tools or message.tool_calls for message in request.messages)


def _told(event: Started, past: PastReasoning) -> Started:
    """With what became of the past traces; whoever was asked takes restored ones for sent."""
    if past == PastReasoning():
        return event
    return msgspec.structs.replace(event, past_reasoning=past)
