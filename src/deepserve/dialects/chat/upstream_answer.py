"""Answers of other services as events of the core, whole or in chunks.

However a service tells its answer, what comes out keeps the order that `core.events` promises: blocks one after
another, usage before the last end, a terminal event for every result. A service that does not keep to its own dialect
ends in a BackendFailure that says how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningBlock,
    Started,
    TextBlock,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.chat.response import FAILED_WORD, FINISH_WORDS
from deepserve.dialects.chat.upstream_wire import (
    ReadAnswer,
    ReadCall,
    ReadChoice,
    ReadFunction,
    ReadMessage,
    ReadWords,
)
from deepserve.dialects.chat.wire import WireLogprob, WireLogprobs
from deepserve.dialects.upstream_errors import decode_error_value
from deepserve.dialects.upstream_logprobs import decode_logprobs
from deepserve.dialects.upstream_usage import ReadUsage, count_usage

_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "aborted": "aborted",
    "abort": "aborted",
}
_FAILED_WORDS = (FAILED_WORD, "error")
"""Ends that are none; an error object may tell more, before or after."""

_DONE = b"[DONE]"

_read = msgspec.json.Decoder(ReadAnswer).decode
_read_words = msgspec.json.Decoder(ReadWords).decode


class _Call(msgspec.Struct):
    """The tool call that is being told. early: arguments that came before its name."""

    given_index: int | None
    given_id: str
    is_open: bool = False
    early: str = ""
    has_arguments: bool = False


class _Result(msgspec.Struct):
    block: Block | None = None
    num_blocks: int = 0
    call: _Call | None = None
    num_calls: int = 0
    given_indices: set[int] = msgspec.field(default_factory=set)
    call_ids: set[str] = msgspec.field(default_factory=set)
    finished: Finished | None = None
    has_failed: bool = False


class AnswerDecoder:
    """Reads one answer: `chunk` for each frame or `whole` once, then `finish` once.

    provider     id of the service, for `ServedBy`; title: its name, for messages
    num_results  that were asked for
    stop         the client's stop strings, to know which was met where the service says so
    call_id      names a call whose own id is missing or not the only one; gets the number of the call in its result
    served_by    what the service's headers say about who answers; None: what its answer says
    """

    def __init__(
        self,
        *,
        provider: str,
        title: str,
        call_id: Callable[[int], str],
        num_results: int = 1,
        stop: Sequence[str] = (),
        served_by: ServedBy | None = None,
    ) -> None:
        self._provider = provider
        self._title = title
        self._call_id = call_id
        self._stop = stop
        self._served_by = served_by
        self._results = [_Result() for _ in range(num_results)]
        self._error: DeepserveError | None = None
        self._has_ended = False
        self.has_begun = False
        self.usage: Usage | None = None
        self.doubt: str | None = None
        """What was wrong with the usage, which then is an estimate."""
        self._cost: Cost | None = None

    @property
    def is_complete(self) -> bool:
        """Nothing that is to come can matter."""
        if self._has_ended or self._error is not None:
            return True
        has_all = all(result.finished is not None for result in self._results)
        return has_all and self.usage is not None and not any(result.has_failed for result in self._results)

    @property
    def has_all_ends(self) -> bool:
        """What may still come is usage, or the reason of a failure."""
        return all(result.finished is not None for result in self._results)

    def chunk(self, value: bytes) -> list[Event]:
        """The events of one frame's data. Raises DeepserveError for a failure before anything was told."""
        if value == _DONE:
            self._has_ended = True
            return []
        return self._tell(self._decoded(value), is_whole=False)

    def whole(self, body: bytes) -> list[Event]:
        """The events of a body that is the whole answer, but for those of `finish`."""
        answer = self._decoded(body)
        if answer.error is None and not answer.choices:
            raise BackendFailure(f"{self._title} sent an answer without choices.")
        events = self._tell(answer, is_whole=True)
        self._has_ended = True
        return events

    def finish(self, error: DeepserveError | None = None) -> list[Event]:
        """The terminal events. error: why nothing more came, where it was not the service's own end.

        Raises the error instead where nothing was told.
        """
        error = self._error or error
        if not self.has_begun:
            raise error or BackendFailure(f"{self._title} ended its answer before it began. Please retry.")
        events: list[Event] = []
        for index, result in enumerate(self._results):
            if result.finished is None and self._has_ended and error is None and result.num_blocks:
                # A stream with its terminator is whole, though some services name no reason.
                events += self._end(index, result, "stop", ReadChoice())
        if self.usage is not None:
            events.append(UsageReported(usage=self.usage, cost=self._cost))
        for index, result in enumerate(self._results):
            if result.finished is not None and not result.has_failed:
                events.append(result.finished)
            else:
                events.append(Failed(error=error or self._failure(result), result=index))
        return events

    def _failure(self, result: _Result) -> DeepserveError:
        if result.has_failed:
            return Overloaded(f"{self._title} broke the answer off before its end. Please retry.")
        return BackendFailure(f"{self._title} closed the stream before the end of the answer. Please retry.")

    def _decoded(self, value: bytes) -> ReadAnswer:
        try:
            return _read(value)
        except msgspec.ValidationError as error:
            if "$.usage" in str(error):
                # What it says of its usage is no reason to lose what it said.
                with suppress(msgspec.ValidationError):
                    words = _read_words(value)
                    return ReadAnswer(words.model, words.system_fingerprint, words.choices, words.error)
            raise BackendFailure(f"{self._title} sent something that cannot be read: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BackendFailure(f"{self._title} sent something that cannot be read: {error}") from error

    def _tell(self, answer: ReadAnswer, *, is_whole: bool) -> list[Event]:
        events: list[Event] = []
        for choice in answer.choices or ():
            if not 0 <= choice.index < len(self._results):
                raise BackendFailure(f"{self._title} sent result {choice.index}, which was not asked for.")
            result = self._results[choice.index]
            if result.finished is None:
                message = (choice.message if is_whole else choice.delta) or ReadMessage()
                events += self._message(choice.index, result, message, choice.logprobs or WireLogprobs())
                if choice.finish_reason is not None or is_whole:
                    events += self._end(choice.index, result, choice.finish_reason or "stop", choice)
        if answer.usage is not None:
            self._count(answer.usage)
        if answer.error is not None:
            self._error = decode_error_value(answer.error, title=self._title)
            if not self.has_begun and not events:
                raise self._error
        has_something = bool(events) or any(result.finished is not None for result in self._results)
        if has_something and not self.has_begun:
            self.has_begun = True
            events.insert(0, Started(served_by=self._who_answers(answer)))
        return events

    def _who_answers(self, answer: ReadAnswer) -> ServedBy:
        fingerprint = answer.system_fingerprint or ""
        if self._served_by is not None:
            return msgspec.structs.replace(self._served_by, fingerprint=self._served_by.fingerprint or fingerprint)
        return ServedBy(provider=self._provider, model=answer.model or "", fingerprint=fingerprint)

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

    def _end(self, index: int, result: _Result, word: str, choice: ReadChoice) -> list[Event]:
        events = self._leave(index, result)
        result.has_failed = word in _FAILED_WORDS
        reason = _REASONS.get(word, "stop")
        if reason == "stop" and result.num_calls:
            reason = "tool_calls"
        met = choice.stop_reason if isinstance(choice.stop_reason, str) and choice.stop_reason in self._stop else None
        native = choice.native_finish_reason or word
        result.finished = Finished(
            reason="stop_string" if met is not None and reason == "stop" else reason,
            stop_string=met,
            native_reason=None if native == FINISH_WORDS[reason] else native,
            result=index,
        )
        return events

    def _count(self, read: ReadUsage) -> None:
        counted = count_usage(read)
        self.usage, self._cost = counted.usage, counted.cost
        self.doubt = counted.doubt or self.doubt


def _piece(index: int, result: _Result, text: str, logprobs: Sequence[WireLogprob] | None) -> BlockDelta:
    return BlockDelta(index=result.num_blocks - 1, text=text, logprobs=decode_logprobs(logprobs), result=index)
