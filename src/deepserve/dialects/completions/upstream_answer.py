"""Plain completions of other services as events of the core, whole or in chunks.

A service that does not keep to the dialect ends in a BackendFailure that says how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from typing_extensions import override

from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    FinishReason,
    Started,
    TextBlock,
    TokenLogprob,
    UsageReported,
)
from deepserve.core.provider import ServedBy
from deepserve.dialects.completions.response import FAILED_WORD, FINISH_WORDS
from deepserve.dialects.completions.upstream_wire import ReadAnswer, ReadChoice, ReadLogprobs
from deepserve.dialects.upstream_result import DONE, ResultDecoder
from deepserve.dialects.upstream_usage import CountedUsage, ReadUsage, count_usage

_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "aborted": "aborted",
    "abort": "aborted",
}
_FAILED_WORDS: Final = (FAILED_WORD, "error")
"""Ends that are none; an error object may tell more, before or after."""

_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")

_read = msgspec.json.Decoder(ReadAnswer).decode
_read_usage = msgspec.json.Decoder(ReadUsage | None).decode


class _Result(msgspec.Struct):
    is_open: bool = False
    finished: Finished | None = None
    has_failed: bool = False


class AnswerDecoder(ResultDecoder):
    """As `ResultDecoder`, for several results, besides:

    provider     id of the service, for `ServedBy`
    num_results  that were asked for
    stop         the client's stop strings, to know which was met where the service says so
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
        super().__init__(title=title, call_id=call_id)
        self._provider = provider
        self._stop = stop
        self._served_by = served_by
        self._model = self._fingerprint = ""
        self._results = [_Result() for _ in range(num_results)]

    @property
    @override
    def is_complete(self) -> bool:
        if self._has_ended or self._error is not None:
            return True
        return self.has_all_ends and self.usage is not None and not any(result.has_failed for result in self._results)

    @property
    @override
    def has_all_ends(self) -> bool:
        return all(result.finished is not None for result in self._results)

    @override
    def chunk(self, value: bytes) -> list[Event]:
        if value == DONE:
            self._has_ended = True
            return []
        return self._tell(self._decoded(value, _read), is_whole=False)

    @override
    def whole(self, body: bytes) -> list[Event]:
        read = self._decoded(body, _read)
        if read.error is None and not read.choices:
            raise BackendFailure(f"{self._title} sent an answer without choices.")
        events = self._tell(read, is_whole=True)
        self._has_ended = True
        return events

    @override
    def finish(self, error: DeepserveError | None = None) -> list[Event]:
        error = self._error or error
        if not self.has_begun:
            raise error or BackendFailure(f"{self._title} ended its answer before it began. Please retry.")
        events: list[Event] = []
        for index, result in enumerate(self._results):
            if result.is_open and self._has_ended and error is None:
                # A stream with its terminator is whole, though some services name no reason.
                events += self._end(index, result, ReadChoice(finish_reason="stop"))
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

    @override
    def _started(self) -> Started:
        served_by = self._served_by or ServedBy(provider=self._provider, model=self._model, fingerprint="")
        return Started(
            served_by=msgspec.structs.replace(served_by, fingerprint=served_by.fingerprint or self._fingerprint)
        )

    def _tell(self, read: ReadAnswer, *, is_whole: bool) -> list[Event]:
        self._model = read.model or self._model
        self._fingerprint = read.system_fingerprint or self._fingerprint
        events: list[Event] = []
        for choice in read.choices or ():
            if not 0 <= choice.index < len(self._results):
                raise BackendFailure(f"{self._title} sent result {choice.index}, which was not asked for.")
            result = self._results[choice.index]
            if result.finished is None:
                events += self._say(choice.index, result, choice)
                if choice.finish_reason is not None or is_whole:
                    events += self._end(choice.index, result, choice)
        self._settle(read.usage, _counted)
        has_something = bool(events) or any(result.finished is not None for result in self._results)
        told = self._begun(events) if has_something else []
        return told if read.error is None else [*told, *self._fail(read.error)]

    def _say(self, index: int, result: _Result, choice: ReadChoice) -> list[Event]:
        logprobs = tuple(_logprobs(choice.logprobs)) if choice.logprobs is not None else ()
        if not choice.text and not logprobs:
            return []
        events: list[Event] = [] if result.is_open else [BlockOpened(index=0, block=TextBlock(), result=index)]
        result.is_open = True
        return [*events, BlockDelta(index=0, text=choice.text or "", logprobs=logprobs, result=index)]

    def _end(self, index: int, result: _Result, choice: ReadChoice) -> list[Event]:
        events: list[Event] = [BlockClosed(index=0, result=index)] if result.is_open else []
        result.is_open = False
        word = choice.finish_reason or "stop"
        result.has_failed = word in _FAILED_WORDS
        reason = _REASONS.get(word, "stop")
        met = choice.stop_reason if isinstance(choice.stop_reason, str) and choice.stop_reason in self._stop else None
        native = choice.native_finish_reason or word
        result.finished = Finished(
            reason="stop_string" if met is not None and reason == "stop" else reason,
            stop_string=met,
            native_reason=None if native == FINISH_WORDS[reason] else native,
            result=index,
        )
        return events


def _counted(raw: msgspec.Raw) -> CountedUsage | None:
    read = _read_usage(raw)
    return None if read is None else count_usage(read)


def _logprobs(read: ReadLogprobs) -> Iterator[TokenLogprob]:
    tops = read.top_logprobs or [None] * len(read.tokens)
    for token, logprob, top in zip(read.tokens, read.token_logprobs, tops, strict=False):
        yield TokenLogprob(
            token=token,
            logprob=logprob or 0.0,
            bytes=_bytes_of(token),
            top=tuple(
                TokenLogprob(token=other, logprob=other_logprob, bytes=_bytes_of(other))
                for other, other_logprob in (top or {}).items()
            ),
        )


def _bytes_of(token: str) -> bytes:
    r"""`bytes:\xe2\x80` is how OpenAI's service spells a token that is not whole characters."""
    spelled = token.removeprefix("bytes:")
    found = _ESCAPED.findall(spelled)
    if token.startswith("bytes:") and found and len(spelled) == 4 * len(found):
        return bytes(int(digits, 16) for digits in found)
    return token.encode()
