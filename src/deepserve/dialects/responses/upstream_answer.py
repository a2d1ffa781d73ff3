"""Answers of other services as events of the core, whole or event by event.

However a service tells its answer, what comes out keeps the order that `core.events` promises: blocks one after
another, usage before the end, one terminal event. A service that does not keep to the dialect ends in a BackendFailure
that says how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

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
    TokenLogprob,
    ToolCallBlock,
)
from deepserve.core.messages import Json
from deepserve.core.provider import ServedBy
from deepserve.dialects.responses.upstream_wire import (
    ReadCostDetails,
    ReadEvent,
    ReadInputDetails,
    ReadItem,
    ReadLogprob,
    ReadOutputDetails,
    ReadPart,
    ReadResponse,
    ReadUsage,
)
from deepserve.dialects.upstream_cost import stated_cost
from deepserve.dialects.upstream_logprobs import decode_logprobs
from deepserve.dialects.upstream_result import ResultDecoder
from deepserve.dialects.upstream_usage import CountedUsage, judge_usage

_INCOMPLETE: Final[Mapping[str, FinishReason]] = {
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}

_TYPE_OF_CODE: Final[Mapping[str, str]] = {
    "rate_limit_exceeded": "rate_limit_error",
    "server_is_overloaded": "overloaded_error",
    "insufficient_quota": "billing_error",
    "invalid_api_key": "authentication_error",
    "permission_denied": "permission_error",
    "model_not_found": "not_found_error",
    "request_timeout": "timeout_error",
    "context_length_exceeded": "invalid_request_error",
    "invalid_prompt": "invalid_request_error",
    "invalid_value": "invalid_request_error",
    "unsupported_parameter": "invalid_request_error",
}
"""A response that failed has a code and no type: platform.openai.com/docs/api-reference/responses/object."""

_read_event = msgspec.json.Decoder(ReadEvent).decode
_read_response = msgspec.json.Decoder(ReadResponse).decode
_read_usage = msgspec.json.Decoder(ReadUsage | None).decode

_Kind = Literal["reasoning", "message", "function_call", "other"]


class _Open(msgspec.Struct):
    """The item that is being told.

    index  the service's number of it
    block  as it was opened; None while there was nothing to tell of it
    voice  of a trace: whether its text or its summary is being told; the other says the same again
    """

    index: int
    kind: _Kind
    block: Block | None = None
    has_text: bool = False
    voice: Literal["text", "summary"] | None = None
    summary_index: int = 0


class AnswerDecoder(ResultDecoder):
    """As `ResultDecoder`."""

    def __init__(
        self, *, provider: str, title: str, call_id: Callable[[int], str], served_by: ServedBy | None = None
    ) -> None:
        super().__init__(provider=provider, title=title, call_id=call_id, served_by=served_by)
        self._open: _Open | None = None
        self._left: set[int] = set()

    @override
    def _hear(self, value: bytes) -> list[Event]:
        read = self._decoded(value, _read_event)
        if read.type == "error" or read.error is not None:
            return self._fail(_error_of(read.error or {"code": read.code, "message": read.message}))
        events = self._tell(read)
        return self._begun(events) if events or self._finished is not None else []

    @override
    def whole(self, body: bytes) -> list[Event]:
        read = self._decoded(body, _read_response)
        if read.error is None and read.output is None:
            raise BackendFailure(f"{self._title} sent an answer without output.")
        return self._begun(self._end(read))

    def _tell(self, read: ReadEvent) -> list[Event]:
        if self._finished is not None:
            return []
        index = read.output_index
        match read.type:
            case "response.created" | "response.in_progress" | "response.queued":
                self._hear_server(read.response or ReadResponse())
                return []
            case "response.output_item.added":
                return self._enter(index, read.item or ReadItem())
            case "response.reasoning_text.delta":
                return self._think(self._item(index, "reasoning"), "text", read.text)
            case "response.reasoning_summary_text.delta":
                return self._think(self._item(index, "reasoning"), "summary", read.text, read.summary_index)
            case "response.output_text.delta" | "response.refusal.delta":
                return self._say(self._item(index, "message"), read.text, read.logprobs)
            case "response.function_call_arguments.delta":
                return self._argue(self._item(index, "function_call"), read.text)
            case "response.output_item.done":
                return self._leave_with(index, read.item or ReadItem())
            case "response.completed" | "response.incomplete" | "response.failed":
                return self._end(read.response or ReadResponse(), read.type.removeprefix("response."))
            case _:
                return []  # a repetition of what the pieces said, or an event of a tool of the service's own

    def _hear_server(self, read: ReadResponse) -> None:
        self._model = read.model or self._model
        self._fingerprint = read.system_fingerprint or self._fingerprint

    # Items

    def _enter(self, index: int, read: ReadItem) -> list[Event]:
        events = self._leave()
        kind: _Kind = "other"
        if read.type in ("reasoning", "message", "function_call"):
            kind = read.type  # type: ignore[assignment]  # one of the three
        self._open = current = _Open(index=index, kind=kind)
        if kind == "function_call":
            if not read.name:
                raise BackendFailure(f"{self._title} sent a tool call without a name.")
            events.append(self._begin(current, ToolCallBlock(id=self._new_call_id(read.call_id), name=read.name)))
        return events

    def _item(self, index: int, kind: _Kind) -> _Open:
        """The open item, to which a piece belongs. Some services do not say where items begin."""
        current = self._open
        if current is not None and current.index == index and current.kind == kind:
            return current
        if index in self._left or (current is not None and current.index == index):
            raise BackendFailure(f"{self._title} tells two items in turns, which cannot be read.")
        if current is not None or kind == "function_call":
            raise BackendFailure(f"{self._title} sent a piece of an item that it did not begin.")
        self._open = current = _Open(index=index, kind=kind)
        return current

    def _think(
        self, current: _Open, voice: Literal["text", "summary"], text: str, summary_index: int = 0
    ) -> list[Event]:
        current.voice = current.voice or voice
        if current.voice != voice or not text:
            return []
        gap = "\n\n" if summary_index > current.summary_index and current.has_text else ""
        current.summary_index = summary_index
        return self._add(current, ReasoningBlock(), gap + text)

    def _say(self, current: _Open, text: str, logprobs: Sequence[ReadLogprob] | None = None) -> list[Event]:
        return self._add(current, TextBlock(), text, decode_logprobs(logprobs)) if text or logprobs else []

    def _argue(self, current: _Open, text: str) -> list[Event]:
        assert current.block is not None
        return self._add(current, current.block, text) if text else []

    def _add(self, current: _Open, block: Block, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> list[Event]:
        events: list[Event] = [] if current.block is not None else [self._begin(current, block)]
        current.has_text = True
        return [*events, BlockDelta(index=self._num_blocks - 1, text=text, logprobs=logprobs)]

    def _begin(self, current: _Open, block: Block) -> BlockOpened:
        current.block = block
        return self._opened(block)

    def _leave_with(self, index: int, read: ReadItem) -> list[Event]:
        """The item as the service tells it at its end, which may be all that it tells of it."""
        events: list[Event] = []
        if self._open is None or self._open.index != index:
            if index in self._left:
                return []
            events += self._enter(index, read)
        current = self._open
        assert current is not None
        if not current.has_text:
            events += self._tell_all(current, read)
        return events + self._leave(read.encrypted_content if current.kind == "reasoning" else None)

    def _tell_all(self, current: _Open, read: ReadItem) -> list[Event]:
        match current.kind:
            case "reasoning":
                if any(part.text for part in read.content or ()):
                    return self._think(current, "text", "".join(part.text or "" for part in read.content or ()))
                summary = [part.text for part in read.summary or () if part.text]
                return self._think(current, "summary", "\n\n".join(summary))
            case "message":
                parts: Sequence[ReadPart] = read.content or ()
                return [
                    event
                    for part in parts
                    for event in self._say(current, part.text or part.refusal or "", part.logprobs)
                ]
            case "function_call":
                return self._argue(current, read.arguments or "")
            case "other":
                return []

    def _leave(self, sealed: str | None = None) -> list[Event]:
        current, self._open = self._open, None
        if current is None:
            return []
        self._left.add(current.index)
        events: list[Event] = []
        if current.block is None:
            if sealed is None:
                return []
            # What was thought is not shown, but goes back with the next question.
            events.append(self._begin(current, ReasoningBlock()))
        index = self._num_blocks - 1
        if current.kind == "function_call" and not current.has_text:
            # A function without arguments: nothing is no JSON.
            events.append(BlockDelta(index=index, text="{}"))
        return [*events, BlockClosed(index=index, sealed=sealed)]

    # Ends

    def _end(self, read: ReadResponse, word: str | None = None) -> list[Event]:
        """word: how the event says that it ended; a body says it by its status."""
        self._hear_server(read)
        self._settle(read.usage, _counted)
        self._has_ended = True
        status = word or read.status or "completed"
        if read.error is not None or status not in ("completed", "incomplete"):
            return self._fail(_error_of(read.error or {"message": f"The response is {status[:64]}."}))
        events = self._leave()
        if not self._num_blocks:
            # The events of a stream that told something are not told again.
            for index, item in enumerate(read.output or ()):
                events += self._leave_with(index, item)
        native = None
        reason: FinishReason = "tool_calls" if self._call_ids else "stop"
        if status == "incomplete":
            native = read.incomplete_details.reason if read.incomplete_details is not None else None
            reason = _INCOMPLETE.get(native or "", "length")
            native = None if native in _INCOMPLETE else native
        self._finished = Finished(reason=reason, native_reason=native)
        return events


def _counted(raw: msgspec.Raw) -> CountedUsage | None:
    read = _read_usage(raw)
    if read is None or read.output_tokens is None:
        return None
    input_details = read.input_tokens_details or ReadInputDetails()
    output_details = read.output_tokens_details or ReadOutputDetails()
    cost_details = read.cost_details or ReadCostDetails()
    return judge_usage(
        prompt=read.input_tokens or 0,
        output=read.output_tokens,
        hit=input_details.cached_tokens or 0,
        written=input_details.cache_write_tokens or 0,
        reasoning=output_details.reasoning_tokens or 0,
        cost=stated_cost(read.cost, cost_details.upstream_inference_input_cost),
    )


def _error_of(error: Json) -> Json:
    """With a type, by which other dialects tell errors apart."""
    if not isinstance(error, dict) or error.get("type") not in (None, "error"):
        return error
    return {**error, "type": _TYPE_OF_CODE.get(str(error.get("code")), "server_error")}
