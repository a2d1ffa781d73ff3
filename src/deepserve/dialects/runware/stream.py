"""A streamed answer: `core` events to chunks.

The reasoning comes first, then the text; the reason of the end, usage and cost ride on one last chunk, for SDKs stop
reading there. An error after the first byte is an event with both `errors` and `error`, as half of the SDKs read only
one of them.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from deepserve.core.answer import Answer
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    PastReasoning,
    ReasoningBlock,
    ServerToolCallBlock,
    ServerToolResultBlock,
    Started,
    TextBlock,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.model import ModelName
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.joined_text import RoundGap
from deepserve.dialects.past_traces import count_traces
from deepserve.dialects.runware.errors import error_body, wire_error
from deepserve.dialects.runware.request import Inference
from deepserve.dialects.runware.response import FINISH_WORDS, TASK_TYPE, encode_bill, encode_call, encode_ended
from deepserve.dialects.runware.wire import WireChunk, WireDelta, WireToolCall, WireToolDelta, encode

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


class _OpenCall(msgspec.Struct):
    index: int
    block: ToolCallBlock
    arguments: list[str]


class StreamEncoder:
    """Turns the events of one answer into frames. `encode` for each event, then `finish` once."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._is_reasoning = False
        self._is_text = False
        self._gap = RoundGap()
        self._call: _OpenCall | None = None
        self._calls: list[WireToolCall] = []
        self._usage = Usage()
        self._cost: Cost | None = None
        self._error: DeepserveError | None = None

    def encode(self, event: Event) -> bytes:
        """Frames for one event; often none."""
        match event:
            case Started():
                self._usage = event.prompt_usage or self._usage
                return b""
            case BlockOpened():
                return self._open(event)
            case BlockDelta():
                return self._delta(event.text)
            case BlockClosed():
                self._close()
                return b""
            case UsageReported():
                self._usage, self._cost = event.usage, event.cost
                return b""
            case Finished():
                return self._end(event)
            case Failed():
                self._error = event.error
                return b""
            case _:
                assert_never(event)

    def finish(self, error: DeepserveError | None = None) -> bytes:
        """The end of the stream; error: what was raised instead of a terminal event."""
        error = error or self._error
        if error is None:
            return DONE
        told = wire_error(error, task_type=TASK_TYPE, task_uuid=self._inference.task_uuid)
        return b"data: " + error_body(told) + b"\n\n" + DONE

    def _open(self, event: BlockOpened) -> bytes:
        self._is_reasoning = isinstance(event.block, ReasoningBlock)
        self._is_text = isinstance(event.block, TextBlock)
        match event.block:
            case ToolCallBlock() as block:
                self._call = _OpenCall(index=len(self._calls), block=block, arguments=[])
                return self._frame(
                    WireDelta(tool_calls=[WireToolDelta(index=self._call.index, id=block.id, name=block.name)])
                )
            case ServerToolResultBlock():
                self._gap.pause()
                return b""
            case ReasoningBlock() | TextBlock() | ServerToolCallBlock():
                return b""
            case _:
                assert_never(event.block)

    def _delta(self, text: str) -> bytes:
        if not text:
            return b""
        if self._is_reasoning:
            return self._frame(WireDelta(reasoning_content=text))
        if self._is_text:
            return self._frame(WireDelta(text=self._gap.before(text) + text))
        if self._call is None:
            return b""
        self._call.arguments.append(text)
        return self._frame(WireDelta(tool_calls=[WireToolDelta(index=self._call.index, input_delta=text)]))

    def _close(self) -> None:
        self._is_reasoning = self._is_text = False
        if self._call is not None:
            block = self._call.block
            self._calls.append(encode_call(block.id, block.name, "".join(self._call.arguments)))
            self._call = None

    def _end(self, finished: Finished) -> bytes:
        cost, usage = encode_bill(self._inference, self._usage, self._cost)
        return self._frame(
            WireDelta(),
            finish_reason=FINISH_WORDS[finished.reason],
            tool_calls=self._calls or None,
            seed=self._inference.seed_of(0),
            usage=usage,
            cost=cost,
        )

    def _frame(self, delta: WireDelta, **end: object) -> bytes:
        chunk = WireChunk(task_type=TASK_TYPE, task_uuid=self._inference.task_uuid, delta=delta)
        return b"data: " + encode(msgspec.structs.replace(chunk, **end)) + b"\n\n"


class StreamedTask:
    """A task that is answered as it is drawn; see `dialects.exchange.Exchange`."""

    keep_alive = KEEP_ALIVE
    is_stream = True
    ignored: tuple[str, ...] = ()

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    @property
    def request(self) -> Request:
        return self._inference.request

    @property
    def model(self) -> ModelName:
        return self._inference.model

    @property
    def past_reasoning(self) -> PastReasoning:
        request = self.request
        return count_traces(
            request.messages, is_needed=request.thinking.enabled and bool(request.tools or request.server_tools)
        )

    def open_stream(self, head: AnswerHead) -> StreamEncoder:  # noqa: ARG002
        return StreamEncoder(self._inference)

    def encode_answer(self, answer: Answer, head: AnswerHead, *, validated: str | None = None) -> bytes:  # noqa: ARG002
        return encode(encode_ended(self._inference, answer.results, answer.usage, answer.cost))

    def encode_error(self, error: DeepserveError) -> bytes:
        return error_body(wire_error(error, task_type=TASK_TYPE, task_uuid=self._inference.task_uuid))
