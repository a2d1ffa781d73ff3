"""Answers of other services as events of the core, whole or event by event.

However a service tells its answer, what comes out keeps the order that `core.events` promises: blocks one after
another, usage before the end, one terminal event. A service that does not keep to the dialect ends in a BackendFailure
that says how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    Started,
    TextBlock,
    ToolCallBlock,
)
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.messages.content import INVALID_JSON
from deepserve.dialects.messages.response import STOP_REASONS
from deepserve.dialects.messages.upstream_wire import (
    ReadBlock,
    ReadCostDetails,
    ReadDelta,
    ReadEvent,
    ReadMessage,
    ReadOutputDetails,
    ReadUsage,
)
from deepserve.dialects.upstream_cost import stated_cost
from deepserve.dialects.upstream_result import ResultDecoder

_REASONS: Final[Mapping[str, FinishReason]] = {
    **{word: reason for reason, word in STOP_REASONS.items()},
    "model_context_window_exceeded": "length",
}

_read_event = msgspec.json.Decoder(ReadEvent).decode
_read_message = msgspec.json.Decoder(ReadMessage).decode
_read_usage = msgspec.json.Decoder(ReadUsage | None).decode


class _Open(msgspec.Struct):
    """The block that is being told.

    index  the service's number of it
    block  as it was opened; None while there was nothing to tell of it
    input  a call's arguments, where they stood in its first event
    """

    index: int
    kind: str
    block: Block | None = None
    signature: str = ""
    sealed: str | None = None
    input: str = ""
    has_arguments: bool = False


class AnswerDecoder(ResultDecoder):
    """As `ResultDecoder`."""

    def __init__(
        self, *, provider: str, title: str, call_id: Callable[[int], str], served_by: ServedBy | None = None
    ) -> None:
        super().__init__(provider=provider, title=title, call_id=call_id, served_by=served_by)
        self._open: _Open | None = None
        self._told = ReadUsage()

    @override
    def _hear(self, value: bytes) -> list[Event]:
        read = self._decoded(value, _read_event)
        if read.error is not None:
            return self._fail(read.error)
        events = self._tell(read)
        return self._begun(events) if events or self._finished is not None else []

    @override
    def whole(self, body: bytes) -> list[Event]:
        read = self._decoded(body, _read_message)
        if read.error is not None:
            return self._fail(read.error)
        if read.content is None:
            raise BackendFailure(f"{self._title} sent an answer without content.")
        events: list[Event] = []
        self._hear_message(read)
        for index, block in enumerate(read.content):
            events += self._enter(index, block)
        events += self._end(read.stop_reason or "end_turn", read.stop_sequence)
        self._count()
        self._has_ended = True
        return self._begun(events)

    @override
    def _started(self) -> Started:
        prompt = self._usage_of(self._told)
        return msgspec.structs.replace(super()._started(), prompt_usage=prompt if prompt.prompt_tokens else None)

    @override
    def _unsaid_end(self) -> list[Event]:
        # A stream with its terminator is whole, though some services name no reason.
        return self._end("end_turn", None)

    def _tell(self, read: ReadEvent) -> list[Event]:
        if self._finished is not None and read.type.startswith("content_block"):
            return []
        match read.type:
            case "message_start":
                self._hear_message(read.message or ReadMessage())
                return []
            case "content_block_start":
                return self._enter(read.index, read.content_block or ReadBlock())
            case "content_block_delta":
                return self._add(read.index, read.delta or ReadDelta())
            case "content_block_stop":
                return self._leave() if self._open is not None and self._open.index == read.index else []
            case "message_delta":
                return self._hear_end(read)
            case "message_stop":
                self._has_ended = True
                return []
            case _:
                return []  # a ping, or an event that came into the dialect later

    def _hear_message(self, read: ReadMessage) -> None:
        self._model = read.model or ""
        self._hear_usage(read.usage)

    def _hear_end(self, read: ReadEvent) -> list[Event]:
        self._hear_usage(read.usage)
        self._count()
        delta = read.delta
        if delta is None or delta.stop_reason is None or self._finished is not None:
            return []
        return self._end(delta.stop_reason, delta.stop_sequence)

    # Blocks

    def _enter(self, index: int, read: ReadBlock) -> list[Event]:
        events = self._leave()
        self._open = current = _Open(index=index, kind=read.type, signature=read.signature or "")
        match read.type:
            case "thinking":
                events += self._say(current, read.thinking or "")
            case "text":
                events += self._say(current, read.text or "")
            case "redacted_thinking":
                current.sealed = read.data
            case "tool_use":
                events.append(self._call(current, read))
            case _:
                pass  # what was not asked for, such as a tool of the service's own
        return events

    def _call(self, current: _Open, read: ReadBlock) -> BlockOpened:
        if not read.name:
            raise BackendFailure(f"{self._title} sent a tool call without a name.")
        current.input = _arguments(bytes(read.input))
        return self._begin(current, ToolCallBlock(id=self._new_call_id(read.id), name=read.name))

    def _add(self, index: int, read: ReadDelta) -> list[Event]:
        events: list[Event] = []
        current = self._open
        if current is None or current.index != index:
            if current is not None:
                raise BackendFailure(f"{self._title} tells two blocks in turns, which cannot be read.")
            kind = {"thinking_delta": "thinking", "text_delta": "text"}.get(read.type)
            if kind is None:
                raise BackendFailure(f"{self._title} sent a piece of a block that it did not begin.")
            events += self._enter(index, ReadBlock(type=kind))
            assert self._open is not None
            current = self._open
        match current.kind, read.type:
            case "thinking", "thinking_delta":
                events += self._say(current, read.thinking or "")
            case "thinking", "signature_delta":
                current.signature += read.signature or ""
            case "text", "text_delta":
                events += self._say(current, read.text or "")
            case "tool_use", "input_json_delta" if read.partial_json:
                current.has_arguments = True
                events.append(BlockDelta(index=self._num_blocks - 1, text=read.partial_json))
            case _:
                pass  # citations, and pieces of blocks that are not read
        return events

    def _say(self, current: _Open, text: str) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        if current.block is None:
            events.append(self._begin(current, ReasoningBlock() if current.kind == "thinking" else TextBlock()))
        events.append(BlockDelta(index=self._num_blocks - 1, text=text))
        return events

    def _begin(self, current: _Open, block: Block) -> BlockOpened:
        current.block = block
        return self._opened(block)

    def _leave(self) -> list[Event]:
        current, self._open = self._open, None
        if current is None:
            return []
        events: list[Event] = []
        if current.block is None:
            if not current.signature and current.sealed is None:
                return []
            # What was thought is not shown, but goes back with the next question.
            events.append(self._begin(current, ReasoningBlock()))
        index = self._num_blocks - 1
        if current.kind == "tool_use" and not current.has_arguments:
            events.append(BlockDelta(index=index, text=current.input or "{}"))
        return [*events, BlockClosed(index=index, signature=current.signature or None, sealed=current.sealed)]

    # Ends

    def _end(self, word: str, stop_string: str | None) -> list[Event]:
        events = self._leave()
        reason = _REASONS.get(word, "stop")
        if reason == "stop" and self._call_ids:
            reason = "tool_calls"
        self._finished = Finished(
            reason=reason,
            stop_string=stop_string if reason == "stop_string" else None,
            native_reason=None if word == STOP_REASONS[reason] else word,
        )
        return events

    def _hear_usage(self, raw: msgspec.Raw) -> None:
        """A wrong one is as good as none: it is no reason to lose the answer."""
        try:
            read = _read_usage(raw)
        except msgspec.MsgspecError:
            return
        if read is not None:
            given = {name: value for name in read.__struct_fields__ if (value := getattr(read, name)) is not None}
            self._told = msgspec.structs.replace(self._told, **given)

    def _count(self) -> None:
        """Settle what was told so far. The first event of a stream tells of the prompt alone."""
        if self._told.output_tokens is None:
            return
        self.usage = self._usage_of(self._told)
        details = self._told.cost_details or ReadCostDetails()
        self._cost = stated_cost(self._told.cost, details.upstream_inference_prompt_cost)

    def _usage_of(self, told: ReadUsage) -> Usage:
        fresh, written = told.input_tokens or 0, told.cache_creation_input_tokens or 0
        hit, output = told.cache_read_input_tokens or 0, told.output_tokens or 0
        reasoning = (told.output_tokens_details or ReadOutputDetails()).thinking_tokens or 0
        is_sound = min(fresh, written, hit, output) >= 0 and 0 <= reasoning <= output
        if not is_sound:
            self.doubt = f"{fresh} new, {written} stored and {hit} cached tokens, {reasoning} thought of {output}"
        fresh, written, hit, output = (max(tokens, 0) for tokens in (fresh, written, hit, output))
        reasoning = min(max(reasoning, 0), output)
        return Usage(
            hit_tokens=hit,
            miss_tokens=fresh + written,
            reasoning_tokens=reasoning,
            answer_tokens=output - reasoning,
            cache_write_tokens=written,
            is_estimated=not is_sound,
        )


def _arguments(raw: bytes) -> str:
    """A call's input as the model's text. In a stream it begins as an empty object, which says nothing yet."""
    value = msgspec.json.decode(raw)
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not value:
        return ""
    only = value.get(INVALID_JSON) if len(value) == 1 else None
    return only if isinstance(only, str) else raw.decode()
