"""Runware's answers as events of the core, whole or chunk by chunk.

What comes out keeps the order that `core.events` promises. A service that does not keep to the dialect ends in a
BackendFailure that says how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

import msgspec
from typing_extensions import override

from deepserve.core.errors import BackendFailure
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Finished,
    FinishReason,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
)
from deepserve.core.messages import Json
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.upstream_cost import stated_cost
from deepserve.dialects.upstream_result import ResultDecoder

_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "unknown": "aborted",
}
_TYPES: Final[Mapping[str, str]] = {
    "rateLimitExceeded": "rate_limit_error",
    "noAvailableServer": "overloaded_error",
    "requestTimeout": "timeout_error",
    "invalidApiKey": "authentication_error",
}
"""Codes by the words that `upstream_errors` knows; those of members at fault begin alike."""

_CLIENTS: Final = ("invalid", "missing", "unsupported", "max", "mismatch", "duplicate")


class ReadCall(msgspec.Struct, rename="camel"):
    id: str = ""
    name: str = ""
    input: Json = None


class ReadToolDelta(msgspec.Struct, rename="camel"):
    index: int = 0
    id: str | None = None
    name: str | None = None
    input_delta: str | None = None


class ReadDelta(msgspec.Struct, rename="camel"):
    text: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ReadToolDelta] | None = None


class ReadUsage(msgspec.Struct, rename="camel"):
    prompt_tokens: int
    completion_tokens: int
    thinking_tokens: int = 0
    cached_input_tokens: int = 0


class ReadItem(msgspec.Struct, rename="camel"):
    """A chunk of a stream, or a whole result."""

    delta: ReadDelta | None = None
    text: str | None = None
    reasoning_content: list[str] | str | None = None
    tool_calls: list[ReadCall] | None = None
    finish_reason: str | None = None
    seed: int | None = None
    usage: ReadUsage | None = None
    cost: Decimal | None = None
    errors: list[Json] | None = None
    error: Json = None


class ReadBody(msgspec.Struct):
    data: list[ReadItem] = []
    errors: list[Json] = []
    error: Json = None


_read_item = msgspec.json.Decoder(ReadItem).decode
_read_body = msgspec.json.Decoder(ReadBody).decode


class AnswerDecoder(ResultDecoder):
    """As `ResultDecoder`. model: the service's name for it, which its answers do not say."""

    def __init__(
        self,
        *,
        provider: str,
        title: str,
        model: str,
        call_id: Callable[[int], str],
        served_by: ServedBy | None = None,
    ) -> None:
        super().__init__(provider=provider, title=title, call_id=call_id, served_by=served_by)
        self._model = model
        self._block: Block | None = None
        self._call_index: int | None = None
        self._has_arguments = False

    @override
    def _hear(self, value: bytes) -> list[Event]:
        read = self._decoded(value, _read_item)
        if read.error is not None or read.errors:
            return self._fail((read.errors or [read.error])[0])
        events: list[Event] = []
        if read.delta is not None and self._finished is None:
            events += self._say(read.delta.reasoning_content, ReasoningBlock())
            events += self._say(read.delta.text, TextBlock())
            for call in read.delta.tool_calls or ():
                events += self._hear_call(call)
        if read.finish_reason is not None and self._finished is None:
            events += self._leave()
            if not self._call_ids:
                # Some say them with the end only.
                events += self._tell_calls(read.tool_calls or [])
            self._end(read)
        self._hear_bill(read)
        return self._begun(events) if events or self._finished is not None else []

    @override
    def whole(self, body: bytes) -> list[Event]:
        read = self._decoded(body, _read_body)
        if read.error is not None or read.errors:
            return self._fail((read.errors or [read.error])[0])
        if not read.data:
            raise BackendFailure(f"{self._title} sent an answer without a result.")
        item = read.data[0]
        traces = item.reasoning_content
        trace = traces if isinstance(traces, str) or traces is None else "".join(traces)
        events = [*self._say(trace, ReasoningBlock()), *self._say(item.text, TextBlock()), *self._leave()]
        events += self._tell_calls(item.tool_calls or [])
        self._end(item)
        self._hear_bill(item)
        self._has_ended = True
        return self._begun(events)

    @override
    def _fail(self, error: Json) -> list[Event]:
        if isinstance(error, dict):
            code = str(error.get("code"))
            kind = _TYPES.get(code) or ("invalid_request_error" if code.startswith(_CLIENTS) else "server_error")
            error = {"type": kind, "message": error.get("message", code), "param": error.get("parameter")}
        return super()._fail(error)

    # Blocks

    def _say(self, text: str | None, block: Block) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        if type(self._block) is not type(block):
            events += [*self._leave(), self._begin(block)]
        return [*events, BlockDelta(index=self._num_blocks - 1, text=text)]

    def _hear_call(self, call: ReadToolDelta) -> list[Event]:
        events: list[Event] = []
        if not isinstance(self._block, ToolCallBlock) or call.index != self._call_index:
            if not call.name:
                raise BackendFailure(f"{self._title} sent a piece of a call that it did not begin.")
            events += self._leave()
            self._call_index = call.index
            events.append(self._open_call(call.id, call.name))
        if call.input_delta:
            self._has_arguments = True
            events.append(BlockDelta(index=self._num_blocks - 1, text=call.input_delta))
        return events

    def _tell_calls(self, calls: list[ReadCall]) -> list[Event]:
        events: list[Event] = []
        for call in calls:
            if not call.name:
                raise BackendFailure(f"{self._title} sent a tool call without a name.")
            arguments = call.input if isinstance(call.input, str) else msgspec.json.encode(call.input or {}).decode()
            events.append(self._open_call(call.id, call.name))
            self._has_arguments = True
            events += [BlockDelta(index=self._num_blocks - 1, text=arguments), *self._leave()]
        return events

    def _open_call(self, given: str | None, name: str) -> BlockOpened:
        self._has_arguments = False
        return self._begin(ToolCallBlock(id=self._new_call_id(given), name=name))

    def _begin(self, block: Block) -> BlockOpened:
        self._block = block
        return self._opened(block)

    def _leave(self) -> list[Event]:
        block, self._block = self._block, None
        if block is None:
            return []
        index = self._num_blocks - 1
        empty = isinstance(block, ToolCallBlock) and not self._has_arguments
        return [*([BlockDelta(index=index, text="{}")] if empty else []), BlockClosed(index=index)]

    # Ends

    def _end(self, read: ReadItem) -> None:
        word = read.finish_reason or "stop"
        reason = _REASONS.get(word, "stop")
        if reason == "stop" and self._call_ids:
            reason = "tool_calls"
        self._finished = Finished(reason=reason, native_reason=None if word in _REASONS else word, seed=read.seed)

    def _hear_bill(self, read: ReadItem) -> None:
        self._cost = stated_cost(read.cost, None) or self._cost
        told = read.usage
        if told is None:
            return
        if not (
            0 <= told.cached_input_tokens <= told.prompt_tokens and 0 <= told.thinking_tokens <= told.completion_tokens
        ):
            self.doubt = f"{told}"
            return
        self.usage = Usage(
            hit_tokens=told.cached_input_tokens,
            miss_tokens=told.prompt_tokens - told.cached_input_tokens,
            reasoning_tokens=told.thinking_tokens,
            answer_tokens=told.completion_tokens - told.thinking_tokens,
        )
