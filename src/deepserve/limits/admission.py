"""Whether an answer may begin now: the decision itself, about numbers somebody else has read. Knows no database."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Literal

import msgspec

from deepserve.core.allowance import Allowance
from deepserve.core.cost import pico_usd, usd_of
from deepserve.core.errors import BudgetExhausted, RateLimited
from deepserve.core.tenant import Grant
from deepserve.limits.rate import Rate
from deepserve.store.reservations import Change, KeyState

LimitName = Literal["max_concurrent", "requests_per_minute", "tokens_per_minute", "budget"]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is expected to take at most. day: whose budget pays, in UTC."""

    day: date
    cost_pico: int
    tokens: int


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    allowance: Allowance


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Not now. after_s: earliest when; None: when an answer of the key ends, which nobody knows."""

    limit: LimitName
    after_s: float | None
    allowance: Allowance


def decide(state: KeyState, grant: Grant, asked: Asked, *, now: datetime) -> tuple[Admitted | Waiting, Change | None]:
    """Raises BudgetExhausted when the day's or the month's money does not suffice, whatever else ends meanwhile, and
    RateLimited for what is larger than a minute's tokens and so can never come.
    """
    _check_budgets(state, grant, asked)
    limits, now_us = grant.limits, to_us(now)
    requests = None if limits.requests_per_minute is None else Rate(limits.requests_per_minute)
    tokens = None if limits.tokens_per_minute is None else Rate(limits.tokens_per_minute)
    allowance = allowance_of(state.requests_until_us, state.tokens_until_us, grant, now_us)
    if tokens is not None and asked.tokens > tokens.limit:
        raise RateLimited(
            f"The request may take {asked.tokens:,} tokens, more than the {tokens.limit:,} that this key may use in a "
            "minute. Shorten the prompt, or ask for less output.",
            retry_after_s=60.0,
            allowance=allowance,
        )
    waits: list[tuple[LimitName, float | None]] = []
    if limits.max_concurrent is not None and state.num_running >= limits.max_concurrent:
        waits.append(("max_concurrent", None))
    if not _fits_now(state, grant, asked):
        waits.append(("budget", None))
    if requests is not None and (wait_us := requests.wait_us(state.requests_until_us, now_us, 1)):
        waits.append(("requests_per_minute", wait_us / 1_000_000))
    if tokens is not None and (wait_us := tokens.wait_us(state.tokens_until_us, now_us, asked.tokens)):
        waits.append(("tokens_per_minute", wait_us / 1_000_000))
    if waits:
        # The longest that is known decides; what has no known end may as well end meanwhile.
        limit, after_s = max(waits, key=lambda wait: wait[1] or 0.0)
        return Waiting(limit=limit, after_s=after_s, allowance=allowance), None
    requests_until_us, tokens_until_us = state.requests_until_us, state.tokens_until_us
    if requests is not None:
        requests_until_us = requests.after(requests_until_us, now_us, 1)
    if tokens is not None:
        tokens_until_us = tokens.after(tokens_until_us, now_us, asked.tokens)
    change = Change(amount_pico=asked.cost_pico, requests_until_us=requests_until_us, tokens_until_us=tokens_until_us)
    return Admitted(allowance=allowance_of(requests_until_us, tokens_until_us, grant, now_us)), change


def left_pico(state: KeyState, grant: Grant) -> int | None:
    """What the budgets leave beyond everything spent and reserved by others; None: no bound."""
    left: list[int] = []
    if grant.budgets.usd_per_day is not None:
        left.append(pico_usd(grant.budgets.usd_per_day) - state.spent_day_pico - state.reserved_day_pico)
    if grant.budgets.usd_per_month is not None:
        left.append(pico_usd(grant.budgets.usd_per_month) - state.spent_month_pico - state.reserved_month_pico)
    return min(left, default=None)


def allowance_of(requests_until_us: int, tokens_until_us: int, grant: Grant, now_us: int) -> Allowance:
    per_minute = grant.limits.requests_per_minute, grant.limits.tokens_per_minute
    requests, tokens = (None if limit is None else Rate(limit) for limit in per_minute)
    return Allowance(
        requests=None if requests is None else requests.quota(requests_until_us, now_us),
        tokens=None if tokens is None else tokens.quota(tokens_until_us, now_us),
    )


def exhausted(
    grant: Grant, state: KeyState, period: Literal["day", "month"], day: date, *, asked_pico: int | None = None
) -> BudgetExhausted:
    """The vendor's own words come first, for clients that look for them. asked_pico: of a request not begun."""
    if period == "day":
        budget_usd, spent_pico, first = grant.budgets.usd_per_day, state.spent_day_pico, day + timedelta(days=1)
    else:
        budget_usd, spent_pico = grant.budgets.usd_per_month, state.spent_month_pico
        first = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    again = datetime.combine(first, time(), UTC)
    asked = f", and this request may cost {shown_usd(usd_of(asked_pico))}" if asked_pico else ""
    return BudgetExhausted(
        f"Insufficient Balance: this key may spend {shown_usd(budget_usd or Decimal(0))} a {period}. It has spent "
        f"{shown_usd(usd_of(spent_pico))}{asked}. The next {period} begins at {again:%Y-%m-%dT%H:%MZ}."
    )


def tightest(state: KeyState, grant: Grant) -> Literal["day", "month"]:
    """Whose budget leaves less."""
    budgets = grant.budgets
    if budgets.usd_per_day is None or budgets.usd_per_month is None:
        return "month" if budgets.usd_per_day is None else "day"
    day = pico_usd(budgets.usd_per_day) - state.spent_day_pico - state.reserved_day_pico
    month = pico_usd(budgets.usd_per_month) - state.spent_month_pico - state.reserved_month_pico
    return "day" if day <= month else "month"


def shown_usd(amount_usd: Decimal) -> str:
    """`$5.00`, `$0.0123`: cents at least, and as many digits as the amount has."""
    is_cents = amount_usd == amount_usd.quantize(Decimal("0.01"))
    return f"${amount_usd:,.2f}" if is_cents else f"${amount_usd.normalize():,f}"


def to_us(at: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _check_budgets(state: KeyState, grant: Grant, asked: Asked) -> None:
    """Against what is spent. What others have reserved may turn out cheaper, and is waited for."""
    budgets = grant.budgets
    if budgets.usd_per_day is not None and state.spent_day_pico + asked.cost_pico > pico_usd(budgets.usd_per_day):
        raise exhausted(grant, state, "day", asked.day, asked_pico=asked.cost_pico)
    if budgets.usd_per_month is not None and state.spent_month_pico + asked.cost_pico > pico_usd(budgets.usd_per_month):
        raise exhausted(grant, state, "month", asked.day, asked_pico=asked.cost_pico)


def _fits_now(state: KeyState, grant: Grant, asked: Asked) -> bool:
    left = left_pico(state, grant)
    return left is None or asked.cost_pico <= left
