"""One member asked once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from deepserve.backends.fleet.canary_question import expected_answer
from deepserve.backends.fleet.lane import Lane
from deepserve.backends.fleet.member import Member
from deepserve.backends.fleet.watch import AnswerWatch
from deepserve.core.attempt import FailedAttempt
from deepserve.core.errors import (
    BackendFailure,
    Cancelled,
    DamagedToolCall,
    DeepserveError,
    Overloaded,
    ServingError,
    TooManyRequests,
    UnfitAnswer,
)
from deepserve.core.events import Event, Started
from deepserve.core.request import Request


class AttemptObserver(Protocol):
    """Hears of attempts; must not raise and must not wait."""

    def on_settled(self, attempt: Attempt, error: DeepserveError | None) -> None:
        """It is over, with this error or none."""
        ...


class Attempt:
    """`begin`, then the rest of `events`; in the end `settle` and `close`. Its place in the lane is taken already.

    opening  what came up to the first content
    """

    def __init__(
        self,
        member: Member,
        lane: Lane,
        request: Request,
        *,
        max_repeated: int,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        observers: Sequence[AttemptObserver] = (),
    ) -> None:
        self.member = member
        self.lane = lane
        self.request = request if request.model == lane.model else msgspec.structs.replace(request, model=lane.model)
        trace = request.trace
        if trace is not None and trace.is_recorded:
            self.request = msgspec.structs.replace(self.request, trace=trace.child(secrets.token_hex(8)))
        self._observers = observers
        self.opening: list[Event] = []
        self.watch = AnswerWatch(
            request.num_results,
            max_repeated=max_repeated,
            max_tokens=request.max_output_tokens or lane.served.max_output_tokens,
            expected=expected_answer(request),
        )
        self._clock = clock
        self._now = now
        self._began_at = now()
        self._started_at = clock()
        self._content_at: float | None = None
        self.events = member.backend.answer(self.request)
        self._is_failing_probe = lane.failing.begin()
        self._is_degraded_probe = lane.degraded.begin()
        self._is_settled = False
        lane.counts.attempts += 1

    async def begin(self) -> None:
        """Raises DeepserveError where nothing of an answer came; afterwards a failure is an event."""
        watch = self.watch
        try:
            async for event in self.events:
                watch.hear(event)
                self.opening.append(event)
                if watch.has_content:
                    break
        except DeepserveError as error:
            watch.error = error
            raise
        if not watch.has_content and not watch.has_finished:
            raise watch.error or BackendFailure("The answer stopped before it began. Please retry.")
        self._content_at = self._clock()

    async def close(self) -> None:
        """Leaves the member, wherever it is. The lane's place is the caller's to give back."""
        if not self._is_settled:
            self.settle(None)
        await self.events.aclose()

    def settle(self, error: DeepserveError | None, *, is_over: bool = False) -> str | None:
        """What the lane learns of it, once. is_over: it came to its end. The word for a state that this began."""
        if self._is_settled:
            return None
        self._is_settled = True
        lane, watch = self.lane, self.watch
        error = error or watch.error
        is_bad = watch.is_empty or watch.is_endless or watch.is_wrong
        is_bad = is_bad or isinstance(error, DamagedToolCall | UnfitAnswer)
        # Our own engine says so when its queue is full, which is no illness.
        is_full = isinstance(error, Overloaded) and self.member.upstream is None
        is_sick = is_sickness(error) and not is_bad and not is_full
        if error is not None and not isinstance(error, Cancelled):
            lane.counts.failures += 1
            lane.last_problem = error.message
        if isinstance(error, TooManyRequests):
            lane.counts.rejected += 1
        if is_bad:
            lane.counts.bad_answers += 1
            what = "empty" if watch.is_empty else "wrong"
            lane.last_problem = error.message if error is not None else f"An answer was {what}."
        is_known = is_over or is_sick or is_bad
        began = None
        if lane.failing.settle(not is_sick if is_known else None, is_probe=self._is_failing_probe):
            began = "failing"
        # An answer that was never begun says nothing of how good answers are.
        is_judged = is_bad or (is_over and error is None)
        if lane.degraded.settle(not is_bad if is_judged else None, is_probe=self._is_degraded_probe):
            began = "degraded"
        if is_over and error is None and self._content_at is not None:
            usage = watch.usage
            output = 0 if usage is None else usage.output_tokens
            lane.time_answer(self._content_at - self._started_at, output, self._clock() - self._content_at)
        for observer in self._observers:
            observer.on_settled(self, error)
        return began

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._started_at

    @property
    def first_content_s(self) -> float | None:
        """From its beginning to its first content; None: there was none."""
        return None if self._content_at is None else self._content_at - self._started_at

    def failed(self, error: DeepserveError) -> FailedAttempt:
        """For the record."""
        return FailedAttempt(
            provider=self.member.provider,
            model=self.lane.model,
            code=error.code,
            began_at=self._began_at,
            ended_at=self._now(),
            usage=self.watch.usage,
        )

    def told(self, event: Event, *, asked_model: str, earlier: tuple[FailedAttempt, ...]) -> Event:
        """The event as the client gets it: the first says what went before this attempt."""
        if not isinstance(event, Started):
            return event
        model = None if self.lane.model == asked_model else self.lane.model
        if model is None and not earlier:
            return event
        return msgspec.structs.replace(event, model=model, earlier=(*earlier, *event.earlier))


def is_sickness(error: DeepserveError | None) -> bool:
    """Whether it tells that something is wrong with who was asked, rather than with what was asked or answered."""
    return isinstance(error, ServingError | Overloaded) and not isinstance(
        error, Cancelled | DamagedToolCall | UnfitAnswer
    )
