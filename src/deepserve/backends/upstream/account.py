"""What an upstream leaves out of its answers, made good."""

from __future__ import annotations

import math

import msgspec

from deepserve.backends.upstream.estimate import estimate_prompt_tokens, estimate_tokens
from deepserve.backends.upstream.wire import AnswerDecoder
from deepserve.core.events import BlockDelta, BlockOpened, Event, ReasoningBlock, Started, UsageReported
from deepserve.core.request import Request
from deepserve.core.usage import Usage


class Account:
    """Keeps count of one answer. left_out: what the request asked for and the upstream does not know."""

    def __init__(self, request: Request, decoder: AnswerDecoder, left_out: tuple[str, ...]) -> None:
        self._request = request
        self._decoder = decoder
        self._left_out = left_out
        self._thinking: set[int] = set()
        self._reasoning_tokens = self._answer_tokens = 0.0

    def note(self, event: Event) -> Event:
        match event:
            case Started() if self._left_out:
                return msgspec.structs.replace(event, relaxed=(*event.relaxed, *self._left_out))
            case BlockOpened():
                is_trace = isinstance(event.block, ReasoningBlock)
                (self._thinking.add if is_trace else self._thinking.discard)(event.result)
            case BlockDelta() if event.result in self._thinking:
                self._reasoning_tokens += estimate_tokens(event.text)
            case BlockDelta():
                self._answer_tokens += estimate_tokens(event.text)
            case _:
                pass
        return event

    def settle(self, events: list[Event]) -> list[Event]:
        """The terminal events, with an estimate of the usage where the upstream told none."""
        if self._decoder.usage is not None:
            return events
        usage = Usage(
            miss_tokens=estimate_prompt_tokens(self._request),
            reasoning_tokens=math.ceil(self._reasoning_tokens),
            answer_tokens=math.ceil(self._answer_tokens),
            is_estimated=True,
        )
        return [UsageReported(usage=usage), *events]
