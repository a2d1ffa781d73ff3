"""Answers as server-sent events: `core` events to chunks."""

from __future__ import annotations

from typing import assert_never

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    Started,
    TextBlock,
    UsageReported,
)
from deepserve.core.provider import ServedBy
from deepserve.core.request import Infill, Request
from deepserve.core.usage import Usage
from deepserve.dialects.completions.response import FAILED_WORD, FINISH_WORDS, VENDOR, LogprobColumns, Service
from deepserve.dialects.completions.wire import WireChoice, WireCompletion
from deepserve.dialects.exchange import AnswerHead

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class _Result(msgspec.Struct):
    columns: LogprobColumns
    is_open: bool = True
    block: Block | None = None


class StreamEncoder:
    """Turns the events of one answer into frames. `encode` for each event, then `finish` once.

    As in Chat, the usage rides on the last chunk, a failed result ends with `insufficient_system_resource`, and the
    error objects come after all chunks, before the terminator.
    """

    def __init__(
        self, request: Request, infill: Infill, head: AnswerHead, *, include_usage: bool, service: Service = VENDOR
    ) -> None:
        self._request = request
        self._infill = infill
        self._head = head
        self._include_usage = include_usage
        self._service = service
        self._model = head.model
        self._served_by: ServedBy | None = None
        self._results = [_Result(LogprobColumns()) for _ in range(request.num_results)]
        self._usage: Usage | None = None
        self._cost: Cost | None = None
        self._errors: list[DeepserveError] = []

    def encode(self, event: Event) -> bytes:
        """Frames for one event; often none."""
        match event:
            case Started():
                self._served_by = event.served_by
                self._model = self._service.model(self._head.model, event.model)
                self._usage = event.prompt_usage
                if not self._infill.echo:
                    return b""
                return b"".join(
                    self._frame(WireChoice(index=index, text=self._infill.prompt))
                    for index in range(len(self._results))
                )
            case BlockOpened():
                self._results[event.result].block = event.block
                return b""
            case BlockDelta():
                return self._delta(event)
            case BlockClosed():
                self._results[event.result].block = None
                return b""
            case UsageReported():
                self._usage, self._cost = event.usage, event.cost
                return b""
            case Finished():
                return self._end(event.result, FINISH_WORDS[event.reason])
            case Failed():
                self._errors.append(event.error)
                return self._end(event.result, FAILED_WORD)
            case _:
                assert_never(event)

    def finish(self, error: DeepserveError | None = None) -> bytes:
        """The end of the stream; error: what was raised instead of a terminal event."""
        frames = b""
        if error is not None:
            self._errors.append(error)
            open_results = [index for index, result in enumerate(self._results) if result.is_open]
            frames = b"".join(self._end(index, FAILED_WORD) for index in open_results)
        seen: set[int] = set()
        for one in self._errors:
            if id(one) not in seen:
                seen.add(id(one))
                frames += b"data: " + self._service.encode_error(one, self._request.is_strict) + b"\n\n"
        return frames + DONE

    def _delta(self, delta: BlockDelta) -> bytes:
        result = self._results[delta.result]
        if not isinstance(result.block, TextBlock):
            return b""
        return self._frame(
            WireChoice(index=delta.result, text=delta.text, logprobs=result.columns.encode(delta.logprobs))
        )

    def _end(self, index: int, word: str) -> bytes:
        """The last chunk of a result; the last of all carries the usage."""
        self._results[index].is_open = False
        if self._served_by is None:
            return b""  # nothing has begun: the error object alone tells it
        is_last = not any(result.is_open for result in self._results)
        return self._frame(WireChoice(index=index, text="", finish_reason=word), is_last=is_last)

    def _frame(self, choice: WireChoice, *, is_last: bool = False) -> bytes:
        assert self._served_by is not None
        chunk = WireCompletion(
            id=self._head.id,
            created=self._head.created,
            model=self._model,
            system_fingerprint=self._served_by.fingerprint,
            choices=[choice],
            provider=self._service.provider(self._served_by),
        )
        if is_last and self._usage is not None:
            chunk.usage = self._service.encode_usage(self._usage, self._cost)
        elif self._include_usage:
            chunk.usage = None
        return b"data: " + _encode(chunk) + b"\n\n"
