"""What reading another service's answer takes in the dialects whose answers may have several results."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import msgspec
from typing_extensions import override

from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded
from deepserve.core.events import Event, Failed, Finished, FinishReason
from deepserve.core.provider import ServedBy
from deepserve.dialects.upstream_decoder import UpstreamDecoder

_FAILED_WORDS: Final = ("insufficient_system_resource", "error")
"""Ends that are none, at DeepSeek and at OpenRouter; an error object may tell more, before or after."""


class ReadEnd(msgspec.Struct, frozen=True):
    """How a result ended. stop_reason: at vLLM and SGLang the stop string that was met, or a token's number."""

    finish_reason: str | None = None
    native_finish_reason: str | None = None
    stop_reason: str | int | None = None


class Result(msgspec.Struct):
    """As far as it was told."""

    num_blocks: int = 0
    finished: Finished | None = None
    has_failed: bool = False


Told = TypeVar("Told", bound=Result)


class ResultsDecoder(UpstreamDecoder, Generic[Told]):
    """As `UpstreamDecoder`, besides:

    num_results  that were asked for
    stop         the client's stop strings, to know which was met where the service says so
    """

    _new_result: type[Told]

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
        super().__init__(provider=provider, title=title, call_id=call_id, served_by=served_by)
        self._results = [self._new_result() for _ in range(num_results)]
        self._stop = stop

    @property
    @override
    def is_complete(self) -> bool:
        if self._has_ended or self._error is not None:
            return True
        return super().is_complete and not any(result.has_failed for result in self._results)

    @property
    @override
    def has_all_ends(self) -> bool:
        return all(result.finished is not None for result in self._results)

    def _result(self, index: int) -> Told:
        if not 0 <= index < len(self._results):
            raise BackendFailure(f"{self._title} sent result {index}, which was not asked for.")
        return self._results[index]

    @abstractmethod
    def _end(self, index: int, result: Told, read: ReadEnd) -> list[Event]:
        """Close what is open, and set the result's end by `_finish_as`."""

    def _finish_as(self, index: int, result: Told, read: ReadEnd, reason: FinishReason, usual_word: str) -> None:
        """usual_word: the dialect's own for this reason; any other of the service's is kept."""
        word = read.finish_reason or "stop"
        result.has_failed = word in _FAILED_WORDS
        met = read.stop_reason if isinstance(read.stop_reason, str) and read.stop_reason in self._stop else None
        native = read.native_finish_reason or word
        result.finished = Finished(
            reason="stop_string" if met is not None and reason == "stop" else reason,
            stop_string=met,
            native_reason=None if native == usual_word else native,
            result=index,
        )

    @override
    def _unsaid_ends(self) -> list[Event]:
        return [
            event
            for index, result in enumerate(self._results)
            if result.finished is None and result.num_blocks
            for event in self._end(index, result, ReadEnd())
        ]

    @override
    def _ends(self, error: DeepserveError | None) -> list[Event]:
        return [
            result.finished
            if result.finished is not None and not result.has_failed
            else Failed(error=error or self._failure(result), result=index)
            for index, result in enumerate(self._results)
        ]

    def _failure(self, result: Result) -> DeepserveError:
        if result.has_failed:
            return Overloaded(f"{self._title} broke the answer off before its end. Please retry.")
        return self._broken_off()
