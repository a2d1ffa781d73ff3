"""Plain completions of other services as events of the core, whole or in chunks.

A service that does not keep to the dialect ends in a BackendFailure that says how.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from typing_extensions import override

from deepserve.core.errors import BackendFailure
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    FinishReason,
    TextBlock,
    TokenLogprob,
)
from deepserve.dialects.completions.response import FINISH_WORDS
from deepserve.dialects.completions.upstream_wire import ReadAnswer, ReadChoice, ReadLogprobs
from deepserve.dialects.upstream_results import ReadEnd, Result, ResultsDecoder
from deepserve.dialects.upstream_usage import CountedUsage, ReadUsage, count_usage

_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "aborted": "aborted",
    "abort": "aborted",
}

_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")

_read = msgspec.json.Decoder(ReadAnswer).decode
_read_usage = msgspec.json.Decoder(ReadUsage | None).decode


class AnswerDecoder(ResultsDecoder[Result]):
    """As `ResultsDecoder`; each result is one block of text."""

    _new_result = Result

    @override
    def _hear(self, value: bytes) -> list[Event]:
        return self._tell(self._decoded(value, _read), is_whole=False)

    @override
    def whole(self, body: bytes) -> list[Event]:
        read = self._decoded(body, _read)
        if read.error is None and not read.choices:
            raise BackendFailure(f"{self._title} sent an answer without choices.")
        events = self._tell(read, is_whole=True)
        self._has_ended = True
        return events

    def _tell(self, read: ReadAnswer, *, is_whole: bool) -> list[Event]:
        self._model = read.model or self._model
        self._fingerprint = read.system_fingerprint or self._fingerprint
        events: list[Event] = []
        for choice in read.choices or ():
            result = self._result(choice.index)
            if result.finished is None:
                events += self._say(choice.index, result, choice)
                if choice.finish_reason is not None or is_whole:
                    events += self._end(choice.index, result, choice)
        self._settle(read.usage, _counted)
        has_something = bool(events) or any(result.finished is not None for result in self._results)
        told = self._begun(events) if has_something else []
        return told if read.error is None else [*told, *self._fail(read.error)]

    def _say(self, index: int, result: Result, choice: ReadChoice) -> list[Event]:
        logprobs = tuple(_logprobs(choice.logprobs)) if choice.logprobs is not None else ()
        if not choice.text and not logprobs:
            return []
        events: list[Event] = []
        if not result.num_blocks:
            result.num_blocks = 1
            events.append(BlockOpened(index=0, block=TextBlock(), result=index))
        return [*events, BlockDelta(index=0, text=choice.text or "", logprobs=logprobs, result=index)]

    @override
    def _end(self, index: int, result: Result, read: ReadEnd) -> list[Event]:
        reason = _REASONS.get(read.finish_reason or "stop", "stop")
        self._finish_as(index, result, read, reason, FINISH_WORDS[reason])
        return [BlockClosed(index=0, result=index)] if result.num_blocks else []


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
