"""Answers of other services as events of the core, whole or in chunks.

However a service tells its answer, what comes out keeps the order that `core.events` promises: blocks one after
another, usage before the last end, a terminal event for every result. A service that does not keep to its own dialect
ends in a BackendFailure that says how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec
from typing_extensions import override

from deepserve.core.errors import BackendFailure
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    FinishReason,
    ReasoningBlock,
    TextBlock,
    ToolCallBlock,
)
from deepserve.dialects.chat.response import FINISH_WORDS
from deepserve.dialects.chat.upstream_wire import (
    ReadAnswer,
    ReadCall,
    ReadFunction,
    ReadMessage,
    ReadWords,
)
from deepserve.dialects.chat.wire import WireLogprob, WireLogprobs
from deepserve.dialects.upstream_errors import decode_error_value
from deepserve.dialects.upstream_logprobs import decode_logprobs
from deepserve.dialects.upstream_results import ReadEnd, Result, ResultsDecoder
from deepserve.dialects.upstream_usage import count_usage

_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "aborted": "aborted",
    "abort": "aborted",
}

_read_answer = msgspec.json.Decoder(ReadAnswer).decode
_read_words = msgspec.json.Decoder(ReadWords).decode


class _Call(msgspec.Struct):
    """The tool call that is being told. early: arguments that came before its name."""

    given_index: int | None
    given_id: str
    is_open: bool = False
    early: str = ""
    has_arguments: bool = False


class _Result(Result):
    block: Block | None = None
    call: _Call | None = None
    num_calls: int = 0
    given_indices: set[int] = msgspec.field(default_factory=set)
    call_ids: set[str] = msgspec.field(default_factory=set)


class AnswerDecoder(ResultsDecoder[_Result]):
    """As `ResultsDecoder`."""

    _new_result = _Result

    @override
    def _hear(self, value: bytes) -> list[Event]:
        return self._tell(self._decoded(value, _read), is_whole=False)

    @override
    def whole(self, body: bytes) -> list[Event]:
        answer = self._decoded(body, _read)
        if answer.error is None and not answer.choices:
            raise BackendFailure(f"{self._title} sent an answer without choices.")
        events = self._tell(answer, is_whole=True)
        self._has_ended = True
        return events

    def _tell(self, answer: ReadAnswer, *, is_whole: bool) -> list[Event]:
        events: list[Event] = []
        for choice in answer.choices or ():
            result = self._result(choice.index)
            if result.finished is None:
                message = (choice.message if is_whole else choice.delta) or ReadMessage()
                events += self._message(choice.index, result, message, choice.logprobs or WireLogprobs())
                if choice.finish_reason is not None or is_whole:
                    events += self._end(choice.index, result, choice)
        if answer.usage is not None:
            self._take(count_usage(answer.usage))
        if answer.error is not None:
            self._error = decode_error_value(answer.error, title=self._title)
            if not self.has_begun and not events:
                raise self._error
        has_something = bool(events) or any(result.finished is not None for result in self._results)
        if not has_something or self.has_begun:
            return events
        self._model, self._fingerprint = answer.model or "", answer.system_fingerprint or ""
        return self._begun(events)

    # Blocks

    def _message(self, index: int, result: _Result, message: ReadMessage, logprobs: WireLogprobs) -> list[Event]:
        events: list[Event] = []
        trace = message.trace
        if trace or logprobs.reasoning_content:
            events += self._enter(index, result, ReasoningBlock())
            events.append(_piece(index, result, trace or "", logprobs.reasoning_content))
        text = message.content or message.refusal
        if text or logprobs.content:
            events += self._enter(index, result, TextBlock())
            events.append(_piece(index, result, text or "", logprobs.content))
        for call in message.tool_calls or ():
            events += self._call(index, result, call)
        return events

    def _call(self, index: int, result: _Result, read: ReadCall) -> list[Event]:
        function = read.function or ReadFunction()
        events: list[Event] = []
        current = result.call
        if current is None or self._is_another(current, read, function):
            events += self._leave(index, result)
            if read.index in result.given_indices and not (read.id and function.name):
                raise BackendFailure(f"{self._title} tells two tool calls in turns, which cannot be read.")
            if read.index is not None:
                result.given_indices.add(read.index)
            result.num_calls += 1
            current = result.call = _Call(given_index=read.index, given_id=read.id or "")
        current.given_id = current.given_id or read.id or ""
        if not current.is_open and function.name:
            current.is_open = True
            given = current.given_id
            block = ToolCallBlock(
                id=given if given and given not in result.call_ids else self._call_id(result.num_calls - 1),
                name=function.name,
            )
            result.call_ids.add(block.id)
            result.block = block
            events.append(BlockOpened(index=result.num_blocks, block=block, result=index))
            result.num_blocks += 1
        told = function.arguments or ""
        if not current.is_open:
            current.early += told
        elif current.early or told:
            current.has_arguments = True
            events.append(_piece(index, result, current.early + told, None))
            current.early = ""
        return events

    def _is_another(self, current: _Call, read: ReadCall, function: ReadFunction) -> bool:
        if read.index is not None and read.index != current.given_index:
            return True
        # Some services give every call the same index, or none.
        return bool(read.id and function.name and current.is_open and read.id != current.given_id)

    def _enter(self, index: int, result: _Result, block: Block) -> list[Event]:
        """Open a block unless one of its kind is open."""
        if type(result.block) is type(block):
            return []
        events = self._leave(index, result)
        result.block = block
        events.append(BlockOpened(index=result.num_blocks, block=block, result=index))
        result.num_blocks += 1
        return events

    def _leave(self, index: int, result: _Result) -> list[Event]:
        call, block = result.call, result.block
        result.block = result.call = None
        if call is not None and not call.is_open:
            raise BackendFailure(f"{self._title} sent a tool call without a name.")
        if block is None:
            return []
        events: list[Event] = []
        if call is not None and not call.has_arguments:
            # A function without arguments: nothing is no JSON.
            events.append(_piece(index, result, "{}", None))
        return [*events, BlockClosed(index=result.num_blocks - 1, result=index)]

    # Ends

    @override
    def _end(self, index: int, result: _Result, read: ReadEnd) -> list[Event]:
        events = self._leave(index, result)
        reason = _REASONS.get(read.finish_reason or "stop", "stop")
        if reason == "stop" and result.num_calls:
            reason = "tool_calls"
        self._finish_as(index, result, read, reason, FINISH_WORDS[reason])
        return events


def _read(value: bytes) -> ReadAnswer:
    """What it says of its usage is no reason to lose what it said."""
    try:
        return _read_answer(value)
    except msgspec.ValidationError as error:
        if "$.usage" in str(error):
            with suppress(msgspec.ValidationError):
                words = _read_words(value)
                return ReadAnswer(words.model, words.system_fingerprint, words.choices, words.error)
        raise


def _piece(index: int, result: _Result, text: str, logprobs: Sequence[WireLogprob] | None) -> BlockDelta:
    return BlockDelta(index=result.num_blocks - 1, text=text, logprobs=decode_logprobs(logprobs), result=index)
