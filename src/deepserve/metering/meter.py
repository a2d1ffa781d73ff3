"""Counts and prices what back ends do for each request, and hands it to the ledger.

    Meter    one for the server: prices, ledger, clock
    Bill     one for each request: all attempts at it, whose costs together are what the client is told
    Attempt  one call of a back end: a row of the ledger

The price is that of the provider that really answered, in force when the request arrived; the vendor's list price where
a provider has none. What a provider states itself is kept beside it, and stands for it where nobody has a price.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Protocol

import msgspec

from deepserve.backends.upstream.estimate import estimate_prompt_tokens, estimate_tokens
from deepserve.catalog.prices import VENDOR, PriceCatalog, Prices, pico_usd_of_tokens
from deepserve.core.attempt import FailedAttempt
from deepserve.core.cost import Cost, pico_usd, usd_of
from deepserve.core.errors import BudgetExhausted, Cancelled, DeepserveError, ServingError
from deepserve.core.events import (
    BlockDelta,
    Checked,
    Event,
    Failed,
    Finished,
    Started,
    UsageReported,
    worst_check,
)
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request, RequestId
from deepserve.core.usage import Usage
from deepserve.metering.plausible import implausible, repaired
from deepserve.store.ledger import Ledger, LedgerRow

_log = logging.getLogger(__name__)

_OWN: Final = "deepserve"
"""Who `ServedBy.provider` says runs inside a deepserve: an attempt that fails there has cost nobody anything."""

_TOKENS_PER_LETTER: Final = estimate_tokens("a")
_MOST_PRICES_KEPT: Final = 1_000
_MOST_CHARACTERS: Final = 200
_MOST_STATED_USD: Final = 1_000_000
"""For one answer."""

_NOBODY: Final = ServedBy(provider="", model="", fingerprint="")


class Permit(Protocol):
    """The leave to answer, under which money is reserved."""

    @property
    def reservation_id(self) -> str: ...

    def watch(self, answer: Callable[[Request], AsyncGenerator[Event]], request: Request) -> AsyncGenerator[Event]:
        """The answer as the money lasts. Raises BudgetExhausted."""
        ...

    @property
    def counted(self) -> Usage:
        """What the question that is being answered has taken so far."""
        ...

    def note_settled(self, cost_pico: int, settling: asyncio.Future[None]) -> None:
        """An attempt is on its way into the ledger, where its cost is taken from what was reserved."""
        ...


Amounts = tuple[int, int, int]
"""Pico-dollars of hit, miss and output tokens."""


class Charge(msgspec.Struct, frozen=True):
    """What one attempt costs. price: id of what was applied; None: `amounts` is what the provider states."""

    price: str | None
    amounts: Amounts
    stated: int | None


class Meter:
    """prices: what tokens cost. ledger: None where nothing is recorded; costs are told all the same.

    price_providers  upstream's name -> whose price rows are its own, where these are not called the same
    clock            monotonic seconds
    prefix           begins the ids of this process's attempts, and is no other's
    on_row           hears of every attempt when it is over
    """

    def __init__(
        self,
        prices: Prices,
        ledger: Ledger | None = None,
        *,
        price_providers: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        prefix: str | None = None,
        on_row: Callable[[LedgerRow], None] = lambda _: None,
    ) -> None:
        self._prices = prices
        self.ledger = ledger
        self._price_providers = price_providers or {}
        self.clock = clock
        self.abandoned: Callable[[RequestId], Sequence[FailedAttempt]] = lambda _: ()
        """Who was asked for a request whose client left before anything came."""
        self.on_row = on_row
        # In the order of time, for processes too.
        self._prefix = prefix or f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._points: dict[tuple[str, str, datetime, int], tuple[str, Amounts] | None] = {}
        self._catalog: PriceCatalog | None = None
        self._edges_within_minutes: Sequence[datetime] = ()
        self.num_repaired = 0

    def open(self, request: Request, permit: Permit | None = None) -> Bill:
        """Raises StoreUnavailable where nothing can be recorded at the moment."""
        if self.ledger is not None:
            self.ledger.check()
        return Bill(self, request, permit)

    def gauges(self) -> Mapping[str, float]:
        own = {"usage_repaired": float(self.num_repaired)}
        return own if self.ledger is None else {**own, **self.ledger.gauges()}

    def attempt_id(self) -> str:
        return f"{self._prefix}{next(self._numbers):08x}"

    def price(self, provider: str, model: str, at: datetime, prompt_tokens: int) -> tuple[str, Amounts] | None:
        """The id and the amounts for one token of the price in force."""
        catalog = self._prices.current()
        if catalog is not self._catalog:
            self._catalog = catalog
            self._edges_within_minutes = catalog.edges_within_minutes
            self._points.clear()
        # The next request of the same minute need not look again, unless a price begins or ends between the two.
        minute = at.replace(second=0, microsecond=0)
        key = provider, model, minute, bisect_right(self._edges_within_minutes, at)
        if key in self._points:
            return self._points[key]
        named = self._price_providers.get(provider, provider)
        row = catalog.row_at(model, at, provider=named)
        whose = VENDOR if row is None else named
        point = catalog.point_at(model, at, provider=whose, prompt_tokens=prompt_tokens)
        found = None if point is None else (point.id, pico_usd_of_tokens(point.price))
        if row is None or not row.tiers:
            if len(self._points) >= _MOST_PRICES_KEPT:
                self._points.clear()
            self._points[key] = found
        return found


class Bill:
    """What one request takes. Each attempt adds to it; `cost` is what the client is told.

    permit: under which it is answered; None: its key has no limits
    """

    __slots__ = ("_attempts", "_meter", "_pending", "began", "num_attempts", "permit", "request")

    def __init__(self, meter: Meter, request: Request, permit: Permit | None = None) -> None:
        self._meter = meter
        self.request = request
        self.began = meter.clock()
        self.num_attempts = 0
        self.permit = permit
        self._attempts: list[Attempt] = []
        self._pending: list[LedgerRow] = []

    def attempt(self, request: Request, route: str | None = None) -> Attempt:
        """One more call of a back end. request: as that one is asked; route: which rule chose its model."""
        attempt = Attempt(self._meter, self, request, route)
        self._attempts.append(attempt)
        return attempt

    def next_number(self) -> int:
        self.num_attempts += 1
        return self.num_attempts

    def cost(self) -> Cost | None:
        """Of everything so far; None where nothing has a price."""
        attempts = self._attempts
        if len(attempts) == 1 and not attempts[0].earlier:
            charges = [] if attempts[0].charge is None else [attempts[0].charge]
        else:
            of_each = [(*attempt.earlier, attempt.charge) for attempt in attempts]
            charges = [charge for some in of_each for charge in some if charge is not None]
        if not charges:
            return None
        hit, miss, output = (
            charges[0].amounts if len(charges) == 1 else map(sum, zip(*(one.amounts for one in charges), strict=True))
        )
        stated = [one.stated for one in charges if one.stated is not None]
        return Cost(
            hit_usd=usd_of(hit),
            miss_usd=usd_of(miss),
            output_usd=usd_of(output),
            source="provider" if all(one.price is None for one in charges) else "list",
            price=charges[0].price if len({one.price for one in charges}) == 1 else None,
            stated_usd=usd_of(sum(stated)) if len(stated) == len(charges) else None,
        )

    def add(self, row: LedgerRow) -> None:
        self._meter.on_row(row)
        self._pending.append(row)

    def note_tool_calls(self, num_calls: int) -> None:
        """Of the server's tools, over all rounds: told once, with the last of them."""
        if self._pending and num_calls:
            self._pending[-1] = msgspec.structs.replace(self._pending[-1], num_tool_calls=num_calls)

    def settle(self) -> asyncio.Future[None] | None:
        """Hand what has been added to the ledger; None where there is nothing to wait for."""
        rows, self._pending = self._pending, []
        if self._meter.ledger is None or not rows:
            return None
        if self.permit is None:
            return self._meter.ledger.settle(rows)
        settling = self._meter.ledger.settle(rows, release=self.permit.reservation_id)
        self.permit.note_settled(sum(row.total_pico_usd for row in rows), settling)
        return settling

    async def settled(self) -> None:
        """The same, until it is durable."""
        settling = self.settle()
        if settling is not None:
            await settling


class Attempt:
    """One call of a back end, heard event by event. `end` it once."""

    __slots__ = (
        *("_bill", "_checked", "_first_at", "_has_ended", "_letters", "_meter", "_noted", "_outcome", "_request"),
        *("_route", "_started", "_stated", "_tokens", "_usage", "charge", "earlier", "num_finished"),
    )

    def __init__(self, meter: Meter, bill: Bill, request: Request, route: str | None) -> None:
        self._meter = meter
        self._bill = bill
        self._request = request
        self._route = route
        self._started: Started | None = None
        self._first_at: float | None = None
        self._letters = 0
        self._tokens = 0.0
        self._usage: Usage | None = None
        self._stated: int | None = None
        self._outcome = "client_left"
        self._checked: Checked | None = None
        self._has_ended = False
        self._noted: DeepserveError | None = None
        self.num_finished = 0
        self.charge: Charge | None = None
        self.earlier: Sequence[Charge] = ()

    def hear_delta(self, event: BlockDelta) -> None:
        """The most frequent event: it only moves counters, for those who leave before the end."""
        if self._first_at is None:
            self._first_at = self._meter.clock()
        text = event.text
        if text.isascii():
            self._letters += len(text)
        else:
            self._tokens += estimate_tokens(text)

    def hear(self, event: Event) -> Event:
        """The event as it is to be told: consumption with its cost."""
        match event:
            case UsageReported():
                return self._priced(event)
            case Finished():
                self.num_finished += 1
                self._outcome = event.reason
                self._checked = worst_check((self._checked, event.checked))
            case Failed():
                self._note_error(event.error)
            case Started():
                self._started = event
                self._checked = event.checked
                self._note_earlier(event.earlier)
            case BlockDelta():
                self.hear_delta(event)
            case _:
                pass
        return event

    def end(self, error: DeepserveError | None) -> UsageReported | None:
        """Give the row to the bill. Returns what is to be told, where that is not what was told before.

        error: what ended the attempt; None where it was answered, or its client left.
        """
        if self._has_ended:
            return None
        self._has_ended = True
        started = self._started
        if error is not None:
            self._note_error(error)
        if started is None:
            self._note_unbegun(error)
            return None
        correction = None
        usage = self._usage
        # What was produced until its money was spent is paid for, as that of a client that leaves.
        is_cut = isinstance(error, BudgetExhausted)
        if error is not None and not self.num_finished and not is_cut:
            is_paid = usage is not None and not usage.is_estimated and started.served_by.provider != _OWN
            usage = usage or started.prompt_usage or Usage()
            if not is_paid and self.charge is not None:
                self.charge = None
                others = self._bill.cost()
                correction = UsageReported(usage=usage, cost=Cost() if others is None else others)
        elif usage is None or is_cut:
            usage = self._unreported()
            if is_cut and self._bill.permit is not None:
                usage = self._bill.permit.counted  # by which it was cut, and no other count
            self.charge = self._charge_of(started.served_by.provider, self._model, usage, None)
            correction = UsageReported(usage=usage, cost=self._bill.cost())
        self._bill.add(
            self._row(
                served_by=started.served_by,
                answered_model=self._model,
                usage=usage,
                charge=self.charge,
                outcome=self._outcome if error is None else error.code,
                ended_at=self._elapsed(),
            )
        )
        return correction

    # Consumption.

    def _priced(self, event: UsageReported) -> UsageReported:
        usage, request = event.usage, self._request
        problem = implausible(usage, request)
        if problem is not None:
            who = _NOBODY if self._started is None else self._started.served_by
            _log.warning("Request %s: the usage that %s reports is wrong: %s", request.id, who.label, problem)
            self._meter.num_repaired += 1
            usage = repaired(usage, request, output_tokens=self._our_count())
        self._usage = usage
        self._stated = None if event.cost is None else _stated_pico(event.cost.total_usd)
        provider = "" if self._started is None else self._started.served_by.provider
        self.charge = self._charge_of(provider, self._model, usage, event.cost)
        return UsageReported(usage=usage, cost=self._bill.cost())

    @property
    def _model(self) -> str:
        """Which answers."""
        started = self._started
        return self._request.model if started is None or started.model is None else started.model

    def _charge_of(self, provider: str, model: str, usage: Usage, stated: Cost | None) -> Charge | None:
        total = None if stated is None else _stated_pico(stated.total_usd)
        found = self._meter.price(provider, model, self._request.arrived_at, usage.prompt_tokens)
        if found is not None:
            price, (hit, miss, output) = found
            amounts = usage.hit_tokens * hit, usage.miss_tokens * miss, usage.output_tokens * output
            return Charge(price, amounts, total)
        if stated is None or total is None:
            return None
        prompt = min(total, _stated_pico(stated.hit_usd + stated.miss_usd) or 0)
        return Charge(None, (0, prompt, total - prompt), total)

    def _unreported(self) -> Usage:
        """What an answer took whose client left before anybody had said it."""
        started = self._started
        known = None if started is None else started.prompt_usage
        prompt = Usage(miss_tokens=estimate_prompt_tokens(self._request)) if known is None else known
        return msgspec.structs.replace(prompt, answer_tokens=self._our_count(), is_estimated=True)

    def _our_count(self) -> int:
        return math.ceil(self._tokens + self._letters * _TOKENS_PER_LETTER)

    # Rows.

    def _note_unbegun(self, error: DeepserveError | None) -> None:
        """An attempt of which no event came. Who refused a request as it is has done nothing for it.

        Who was asked when the client left has read the prompt: it is paid for, that nobody asks for free.
        """
        if error is None:
            prompt = Usage(miss_tokens=estimate_prompt_tokens(self._request), is_estimated=True)
            for one in self._meter.abandoned(self._request.id):
                is_left = one.code == Cancelled.code
                self._note_earlier((one,), prompt=prompt if is_left and one.usage is None else None)
        if isinstance(error, ServingError) and not error.earlier:
            self._bill.add(
                self._row(
                    served_by=_NOBODY,
                    answered_model=self._request.model,
                    usage=Usage(),
                    charge=None,
                    outcome=error.code,
                    ended_at=self._elapsed(),
                )
            )

    def _note_error(self, error: DeepserveError) -> None:
        """One error may end several results, and be raised besides."""
        if error is not self._noted:
            self._noted = error
            self._note_earlier(error.earlier)

    def _note_earlier(self, attempts: Sequence[FailedAttempt], *, prompt: Usage | None = None) -> None:
        """What others did before this one; it costs what they say they took, and nothing where they say nothing.

        prompt: what an attempt took whose client left before anybody said anything
        """
        for one in attempts:
            usage = prompt or one.usage or Usage()
            charge = None
            is_said = one.usage is not None and not usage.is_estimated and implausible(usage, self._request) is None
            if is_said or prompt is not None:
                charge = self._charge_of(one.provider, one.model, usage, None)
            if charge is not None:
                self.earlier = (*self.earlier, charge)
            self._bill.add(
                self._row(
                    served_by=ServedBy(provider=one.provider, model="", fingerprint=""),
                    answered_model=one.model,
                    usage=usage,
                    charge=charge,
                    outcome="client_left" if prompt is not None else one.code,
                    ended_at=max(one.ended_at, self._request.arrived_at),
                    is_earlier=True,
                )
            )

    def _elapsed(self) -> datetime:
        """The end, by the time that really passed: the clock may have been set meanwhile."""
        elapsed_s = max(0.0, self._meter.clock() - self._bill.began)
        return self._bill.request.arrived_at + timedelta(seconds=elapsed_s)

    def _row(
        self,
        *,
        served_by: ServedBy,
        answered_model: str,
        usage: Usage,
        charge: Charge | None,
        outcome: str,
        ended_at: datetime,
        is_earlier: bool = False,
    ) -> LedgerRow:
        root, request, checked = self._bill.request, self._request, self._checked
        hit, miss, output = (0, 0, 0) if charge is None else charge.amounts
        first_token_ms = (
            None if is_earlier or self._first_at is None else int((self._first_at - self._bill.began) * 1_000)
        )
        return LedgerRow(
            attempt_id=self._meter.attempt_id(),
            request_id=root.id,
            number=self._bill.next_number(),
            tenant_id=root.tenant.id,
            key_id=root.tenant.key,
            dialect=root.dialect,
            provider=_shown(served_by.provider),
            model=request.model,
            answered_model=answered_model,
            served_by=_shown(served_by.label) if served_by.model else _shown(served_by.provider),
            fingerprint=_shown(served_by.fingerprint),
            arrived_at=root.arrived_at,
            ended_at=ended_at,
            first_token_ms=first_token_ms,
            hit_tokens=usage.hit_tokens,
            miss_tokens=usage.miss_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            answer_tokens=usage.answer_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            num_tool_calls=sum(count for _, count in usage.server_tool_calls),
            num_results=request.num_results,
            is_estimated=usage.is_estimated,
            price=None if charge is None else charge.price,
            hit_pico_usd=hit,
            miss_pico_usd=miss,
            output_pico_usd=output,
            tools_pico_usd=0,
            stated_pico_usd=None if is_earlier else self._stated,
            outcome=outcome,
            checked=None if checked is None else checked.label,
            route=self._route,
        )


def _stated_pico(amount_usd: Decimal) -> int | None:
    """What a provider says, in whole pico-dollars; None where it cannot be meant."""
    if not amount_usd.is_finite() or not 0 <= amount_usd <= _MOST_STATED_USD:
        return None
    return pico_usd(amount_usd)


def _shown(name: str) -> str:
    """Other services' own words, made fit for any database."""
    if len(name) <= _MOST_CHARACTERS and name.isascii() and name.isprintable():
        return name
    return "".join(letter if " " <= letter <= "~" else "?" for letter in name[:_MOST_CHARACTERS])
