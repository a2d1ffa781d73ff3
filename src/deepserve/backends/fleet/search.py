"""The way of one request through a fleet: who is asked next, and what the client learns when nobody is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from deepserve.backends.fleet.attempt import Attempt
from deepserve.backends.fleet.lane import Lane
from deepserve.backends.fleet.line import WaitingLine
from deepserve.backends.fleet.roster import Offer
from deepserve.backends.upstream.retries import pause_s
from deepserve.core.attempt import FailedAttempt
from deepserve.core.errors import (
    AccessError,
    BodyTooLarge,
    Cancelled,
    CapacityError,
    ContextOverflow,
    DeepserveError,
    Overloaded,
    RequestError,
    ServingError,
    TooManyRequests,
    UnsupportedFeature,
)

_log = logging.getLogger(__name__)

_USUAL_REST_S = 1.0
"""For a member that takes no more requests and does not say until when."""


class _Choice:
    """One offer, as far as this request is concerned."""

    def __init__(self, offer: Offer) -> None:
        self.member, self.lane = offer
        self.num_tries = 0
        self.ready_at = 0.0


class Search:
    """`next` for an offer with its place taken; `failed` for each that came to nothing.

    clock   monotonic seconds
    wait_s  the longest that a request waits for a place
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        line: WaitingLine,
        *,
        wait_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        jitter: Callable[[], float],
    ) -> None:
        self._left = [_Choice(offer) for offer in offers]
        self._line = line
        self._wait_s = wait_s
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._tried: dict[Lane, _Choice] = {}
        self._errors: list[DeepserveError] = []
        self._num_waits = 0
        self.earlier: tuple[FailedAttempt, ...] = ()

    @property
    def has_others(self) -> bool:
        return bool(self._left)

    async def next(self) -> Offer:
        """Raises the error that tells the client most once nobody is left."""
        until: float | None = None
        while True:
            able = self._able()
            if able:
                lanes = [choice.lane for choice in able]
                lane = self._line.take(lanes)
                if lane is None:
                    until = until or asyncio.get_running_loop().time() + self._wait_s
                    lane = await self._wait(lanes, until)
                if lane is None:
                    continue
                return self._take(lane)
            wait_s = self._shortest_pause_s()
            if wait_s is None:
                raise self._final(None)
            self._num_waits += 1
            await self._sleep(wait_s)

    async def _wait(self, lanes: Sequence[Lane], until: float) -> Lane | None:
        if not self._line.is_full:
            try:
                return await self._line.wait(lanes, until)
            except TimeoutError:
                pass
        raise self._final(Overloaded("All places are taken, and many requests wait. Please retry."))

    def spare(self) -> Offer | None:
        """Another offer that has a place this very moment, for a second attempt beside the first."""
        able = self._able()
        lane = self._line.take([choice.lane for choice in able]) if able else None
        return None if lane is None else self._take(lane)

    def _able(self) -> list[_Choice]:
        """Who may be asked now; those whose answers are bad last."""
        now = self._clock()
        able = [choice for choice in self._left if choice.ready_at <= now and choice.lane.is_able()]
        if len(able) > 1:
            able.sort(key=lambda choice: not choice.lane.degraded.allows())
        return able

    def _take(self, lane: Lane) -> Offer:
        choice = next(one for one in self._left if one.lane is lane)
        self._left.remove(choice)
        self._tried[lane] = choice
        return choice.member, lane

    def _shortest_pause_s(self) -> float | None:
        """Until somebody may be asked again, where that is soon; a breaker that is open is not waited for."""
        now = self._clock()
        pauses = [
            max(choice.ready_at - now, choice.lane.pause_s)
            for choice in self._left
            if choice.lane.failing.allows() and not choice.lane.is_drained
        ]
        if not pauses:
            return None
        limits = self._left[0].member.limits
        shortest = min(pauses)
        return shortest if shortest <= limits.max_wait_s and self._num_waits <= limits.num_retries else None

    def note(self, attempt: Attempt, error: DeepserveError) -> None:
        """For the record: an attempt that is over while another goes on."""
        if not isinstance(error, UnsupportedFeature):  # refused before anybody was asked
            self.earlier = (*self.earlier, *error.earlier, attempt.failed(error))
        if not isinstance(error, Cancelled):
            self._errors.append(error)
        if error.repeat_after_s is not None:
            attempt.lane.rest(error.repeat_after_s)
        elif isinstance(error, TooManyRequests):
            attempt.lane.rest(_USUAL_REST_S)

    def note_left(self, attempt: Attempt) -> None:
        """For the record: the client has left before this attempt came to anything. Our own engine says at once where
        it has begun to work; others may have done so for long before they say anything.
        """
        if attempt.member.upstream is not None:
            self.note(attempt, Cancelled("The client left."))

    def failed(self, attempt: Attempt, error: DeepserveError) -> None:
        """Go on without it. Raises the error where nobody else may be asked."""
        choice = self._tried[attempt.lane]
        self.note(attempt, error)
        if not self._may_go_on(attempt, error):
            raise self._final(error)
        pause = None
        if error.may_repeat:
            pause = pause_s(choice.num_tries, error.repeat_after_s, choice.member.limits, jitter=self._jitter)
        if pause is not None:
            choice.num_tries += 1
            choice.ready_at = self._clock() + pause
            self._left.append(choice)
        _log.info("%s did not answer (%s); %d may still be asked", attempt.lane.label, error.code, len(self._left))

    def _may_go_on(self, attempt: Attempt, error: DeepserveError) -> bool:
        match error:
            case Cancelled():
                return False
            case ContextOverflow():
                # Somebody with more room may have enough.
                limit = error.limit_tokens
                self._left = [one for one in self._left if one.lane.served.context_tokens > limit]
            case UnsupportedFeature() | BodyTooLarge():
                pass
            case RequestError():
                # The client's fault, whoever of those with this model is asked; another model may take it.
                self._left = [one for one in self._left if one.lane.model != attempt.lane.model]
            case AccessError():
                return False
            case _:
                pass
        return True

    def _final(self, error: DeepserveError | None) -> DeepserveError:
        """What to tell the client: what passes with time before faults, and faults before refusals."""
        found = [*self._errors, *((error,) if error is not None and error not in self._errors else ())]
        passing = [one for one in found if isinstance(one, CapacityError)]
        faults = [one for one in found if isinstance(one, ServingError)]
        if passing:
            chosen: DeepserveError = min(passing, key=lambda one: one.retry_after_s)
        elif faults:
            chosen = faults[-1]
        elif self._left or not found:
            chosen = self._nobody()
        else:
            chosen = found[-1]
        chosen.earlier = self.earlier
        return chosen

    def _nobody(self) -> Overloaded:
        waits = [one.lane.retry_s for one in self._left if not one.lane.is_drained]
        names = ", ".join(dict.fromkeys(one.lane.member_id for one in self._left)) or "nobody"
        return Overloaded(
            f"Nobody who could answer is available now ({names}). Please retry.",
            retry_after_s=max(min(waits, default=30.0), 1.0),
        )
