"""Lets requests of keys with limits in, one after another, and keeps account of those that are inside.

What a key uses is kept in the database, so that several gateways count together; who waits is kept here. A key without
limits does not come past here at all.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal, TypeVar

import msgspec

from deepserve.config import WaitLimits
from deepserve.core.errors import BudgetExhausted, RateLimited, StoreUnavailable
from deepserve.core.request import Request
from deepserve.core.tenant import Grant, KeyId, RateLimits
from deepserve.core.usage import Usage
from deepserve.limits.admission import Admitted, Asked, LimitName, Waiting, decide, exhausted, left_pico, tightest
from deepserve.limits.line import Line, LineFull, Place
from deepserve.limits.permit import Count, Permit, expected_output_tokens
from deepserve.limits.rate import Rate
from deepserve.limits.tariff import TariffOf
from deepserve.store.database import Database
from deepserve.store.reservations import Change, KeyState, Reservation, ReservationStore

_log = logging.getLogger(__name__)

_LEASE_S: Final = 30.0
"""A gateway that is killed gives back what its answers held after so long."""

_RENEW_S: Final = 10.0
"""A third of it, so that two rounds may fail."""

_POLL_S: Final = 0.25
"""How often the first in line looks whether an answer has ended in another gateway."""

Value = TypeVar("Value")


class Turnstile:
    """One for each server.

    tariff_of  what a request costs for a token
    now        the wall clock, in UTC, by which days and minutes go; clock: monotonic seconds
    new_hex    so many random bytes as hex digits
    """

    def __init__(
        self,
        database: Database,
        *,
        tariff_of: TariffOf,
        limits: WaitLimits,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        new_hex: Callable[[int], str] = secrets.token_hex,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = ReservationStore(database)
        self._tariff_of = tariff_of
        self._limits = limits
        self._now = now
        self._clock = clock
        self._new_hex = new_hex
        self._sleep = sleep
        self._line = Line(limits.places)
        # Counts wait for the rate alone, and so not behind answers that wait for others to end.
        self._counts = Line(limits.places)
        self._inside: dict[str, Permit] = {}
        self._renewing: asyncio.Task[None] | None = None
        # One thread: what is said about an answer is done in the order in which it was said.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="deepserve-limits")

    def gauges(self) -> dict[str, float]:
        """What monitoring may show."""
        return {
            "limited_running": len(self._inside),
            "limited_waiting": self._line.num_waiting + self._counts.num_waiting,
        }

    def take(self, limits: WaitLimits) -> None:
        """Other bounds for requests that come from now on."""
        self._limits = limits
        self._line.places = self._counts.places = limits.places

    def close(self) -> None:
        """Finish what is being written, in the event loop's thread. Nobody may be inside any more."""
        if self._renewing is not None:
            self._renewing.cancel()
        self._thread.shutdown()

    @asynccontextmanager
    async def admit(self, request: Request, count: Count) -> AsyncIterator[Permit]:
        """The leave to answer, once its turn has come. The request's key must have limits.

        Raises BudgetExhausted; RateLimited where the turn does not come in time; StoreUnavailable; what `count` does.
        """
        grant, key = request.tenant.grant, request.tenant.key
        assert grant is not None, "everything is allowed without asking"
        assert key is not None, "limits are those of a key"
        visit = await self._prepare(request, grant, key, count)
        admitted = await self._take_turn(visit, request, self._line)
        permit = Permit(
            visit.reservation,
            admitted.allowance,
            tariff_of=self._tariff_of,
            count=count,
            prompt_tokens=visit.prompt_tokens,
            extend=partial(self._extend, visit) if visit.has_budget else None,
            exhausted=partial(_exhausted, visit),
        )
        visit.permit = self._inside[permit.reservation_id] = permit
        self._keep_renewing()
        try:
            yield permit
        finally:
            await self._leave(visit, permit)

    async def admit_count(self, request: Request) -> None:
        """The leave to have tokens counted, which takes one of the minute's requests and nothing else.

        Raises RateLimited where the turn does not come in time; StoreUnavailable.
        """
        grant, key = request.tenant.grant, request.tenant.key
        if grant is None or key is None or grant.limits.requests_per_minute is None:
            return
        day = request.arrived_at.astimezone(UTC).date()
        visit = _Visit(
            grant=Grant(limits=RateLimits(requests_per_minute=grant.limits.requests_per_minute)),
            asked=Asked(day=day, cost_pico=0, tokens=0),
            reservation=Reservation(id=self._new_hex(16), key=key, day=day, amount_pico=0),
        )
        await self._take_turn(visit, request, self._counts)
        try:
            await _uncancelled(self._thread.submit(self._store.end, visit.reservation, tokens_us=0))
        except StoreUnavailable:
            _log.warning("The place that a count took comes free after %g s", _LEASE_S)
        finally:
            # It may have been taken for an answer that runs.
            self._line.stir(key)

    # In.

    async def _prepare(self, request: Request, grant: Grant, key: KeyId, count: Count) -> _Visit:
        day = request.arrived_at.astimezone(UTC).date()
        visit = _Visit(grant=grant, asked=Asked(day=day, cost_pico=0, tokens=0), reservation=_NOTHING)
        if visit.has_budget or grant.limits.tokens_per_minute is not None:
            prompt_tokens = await count(request)
            output_tokens = expected_output_tokens(request)
            cost_pico = 0
            if visit.has_budget:
                usage = Usage(miss_tokens=prompt_tokens, answer_tokens=output_tokens)
                cost_pico = self._tariff_of(request, prompt_tokens).cost_pico(usage)
            most = grant.limits.tokens_per_minute
            if most is not None:
                # The output is a guess, and no reason to refuse for ever what may well be shorter.
                output_tokens = min(output_tokens, max(0, most - prompt_tokens))
            visit.prompt_tokens = prompt_tokens
            visit.asked = Asked(day=day, cost_pico=cost_pico, tokens=prompt_tokens + output_tokens)
        visit.reservation = Reservation(id=self._new_hex(16), key=key, day=day, amount_pico=visit.asked.cost_pico)
        return visit

    async def _take_turn(self, visit: _Visit, request: Request, line: Line) -> Admitted:
        deadline = self._clock() + self._limits.wait_s
        waiting: Waiting | None = None
        try:
            with line.join(request.tenant.id, visit.reservation.key) as place:
                while True:
                    pause_s: float | None = None  # the one before says when it goes
                    if line.is_first(place):
                        found = await self._try(visit)
                        if isinstance(found, Admitted):
                            return found
                        waiting, left_s = found, deadline - self._clock()
                        if left_s <= 0 or (found.after_s is not None and found.after_s > left_s):
                            raise _refusal(visit.grant, found)
                        pause_s = min(left_s, _POLL_S if found.after_s is None else found.after_s)
                    await self._rest(place, pause_s)
                    if place.is_lost:
                        raise LineFull
        except LineFull:
            raise RateLimited(
                "So many requests wait for their turn that no more can. Please retry in a moment.",
                retry_after_s=max(1.0, self._limits.wait_s),
                allowance=None if waiting is None else waiting.allowance,
            ) from None

    async def _try(self, visit: _Visit) -> Admitted | Waiting:
        now = self._now()

        def look(state: KeyState) -> tuple[Admitted | Waiting, Change | None]:
            visit.state = state
            return decide(state, visit.grant, visit.asked, now=now)

        future = self._thread.submit(self._decide, visit, look, now)
        try:
            return await _uncancelled(future)
        except asyncio.CancelledError:
            # The client left in the moment in which it was let in, perhaps.
            future.add_done_callback(lambda done: self._undo(visit, done))
            raise

    def _decide(self, visit: _Visit, look: Callable[[KeyState], tuple[Value, Change | None]], now: datetime) -> Value:
        alive = [one for one, permit in list(self._inside.items()) if permit.reservation.key == visit.reservation.key]
        return self._store.decide(visit.reservation, look, alive=alive, now=now, lease_s=_LEASE_S)

    def _undo(self, visit: _Visit, done: Future[Admitted | Waiting]) -> None:
        """In the thread that has just decided."""
        if done.cancelled() or done.exception() is not None or not isinstance(done.result(), Admitted):
            return
        try:
            self._store.end(visit.reservation, tokens_us=-visit.charged_us)
        except StoreUnavailable:
            _log.warning("What a client that left had reserved comes free after %g s", _LEASE_S)

    async def _rest(self, place: Place, seconds: float | None) -> None:
        """Until something has changed, or so long."""
        waits = [asyncio.ensure_future(place.stirred.wait())]
        if seconds is not None:
            waits.append(asyncio.ensure_future(_true(self._sleep(seconds))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        place.stirred.clear()

    # Inside.

    async def _extend(self, visit: _Visit, target_pico: int) -> int:
        permit = visit.permit
        assert permit is not None, "only who is inside asks for more"
        reservation, now = permit.reservation, self._now()

        def look(state: KeyState) -> tuple[int, Change | None]:
            visit.state = state
            left = left_pico(state, visit.grant)
            amount = target_pico if left is None else min(target_pico, left)
            amount = max(amount, reservation.amount_pico)  # what it has nobody takes away
            change = Change(
                amount_pico=amount,
                requests_until_us=state.requests_until_us,
                tokens_until_us=state.tokens_until_us,
            )
            return amount, change

        return await _uncancelled(self._thread.submit(self._decide, visit, look, now))

    def _keep_renewing(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            await self._sleep(_RENEW_S)
            if not self._inside:
                return
            live = [permit.reservation for permit in self._inside.values()]
            renewing = self._thread.submit(self._store.renew, live, now=self._now(), lease_s=_LEASE_S)
            try:
                await asyncio.wrap_future(renewing)
            except StoreUnavailable:
                continue  # said in the log; the next round may find it well again

    # Out.

    async def _leave(self, visit: _Visit, permit: Permit) -> None:
        del self._inside[permit.reservation_id]
        rate = visit.rate
        tokens_us = 0 if rate is None else rate.cost_us(permit.tokens) - visit.charged_us
        if permit.settling is not None:
            # What a client that left has cost must be in the ledger before it is not reserved any more.
            await asyncio.wait((permit.settling,))
        ending = self._thread.submit(self._store.end, permit.reservation, tokens_us=tokens_us)
        try:
            await _uncancelled(ending)
        except StoreUnavailable:
            _log.warning("What an answer had reserved comes free after %g s", _LEASE_S)
        finally:
            self._line.stir(visit.reservation.key)


class _Visit(msgspec.Struct, kw_only=True):
    """One request on its way through. state: what was last seen of its key."""

    grant: Grant
    asked: Asked
    reservation: Reservation
    prompt_tokens: int | None = None
    state: KeyState | None = None
    permit: Permit | None = None

    @property
    def has_budget(self) -> bool:
        return self.grant.budgets.is_bound

    @property
    def rate(self) -> Rate | None:
        limit = self.grant.limits.tokens_per_minute
        return None if limit is None else Rate(limit)

    @property
    def charged_us(self) -> int:
        """What its tokens were counted as when it was let in."""
        return 0 if self.rate is None else self.rate.cost_us(self.asked.tokens)


_NOTHING = Reservation(id="", key=KeyId(""), day=datetime.min.replace(tzinfo=UTC).date(), amount_pico=0)


def _exhausted(visit: _Visit) -> BudgetExhausted:
    assert visit.state is not None, "it was let in"
    return exhausted(visit.grant, visit.state, tightest(visit.state, visit.grant), visit.asked.day)


def _refusal(grant: Grant, waiting: Waiting) -> RateLimited:
    retry_after_s = 1.0 if waiting.after_s is None else max(1.0, waiting.after_s)
    return RateLimited(
        f"Rate limit reached: {_words(grant, waiting.limit)}. Please retry in {retry_after_s:.3g} s.",
        retry_after_s=retry_after_s,
        allowance=waiting.allowance,
    )


async def _uncancelled(future: Future[Value]) -> Value:
    """What a thread brings. It is done even when nobody waits for it any more."""
    waiting = asyncio.wrap_future(future)
    # Looked at in any case: asyncio complains of failures nobody has seen.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(waiting)


async def _true(sleeping: Awaitable[None]) -> Literal[True]:
    """As an event's `wait` ends, so that both can be waited for alike."""
    await sleeping
    return True


def _words(grant: Grant, limit: LimitName) -> str:
    limits = grant.limits
    match limit:
        case "max_concurrent":
            return f"this key may have {limits.max_concurrent:,} answers at the same time"
        case "requests_per_minute":
            return f"this key may send {limits.requests_per_minute:,} requests a minute"
        case "tokens_per_minute":
            return f"this key may use {limits.tokens_per_minute:,} tokens a minute"
        case "budget":
            return "what is left of this key's budget is reserved for answers that run now"
