"""What tokens cost: dated prices, which of them is in force, and the arithmetic. Exact decimals; nothing is rounded.

Where rows come from is `price_table`'s business; a table that follows an operator's file is a `price_book`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Protocol

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.usage import Usage

VENDOR = "deepseek"
"""Whose list prices are meant where nobody names a provider."""

_PER_TOKEN = Decimal("0.000001")


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars for a million tokens.

    has_hit: the provider names a price for cached tokens; where it names none, they cost what all others do
    """

    hit: Decimal
    miss: Decimal
    output: Decimal
    has_hit: bool = True


class PricePoint(msgspec.Struct, frozen=True):
    """A price that was in force, under the id by which it is found again.

    `deepseek/deepseek-v4-pro@2026-08-16T16:00Z`: provider, model and beginning of a shipped row, which never changes.
    `/deepseek-peak` is added in hours, and `/above-200000` in tiers with prices of their own. The id of an operator's
    row ends with its amounts, for nobody else keeps them: `=0.1/0.2/0.4`.
    """

    id: str
    price: Price


class WindowPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The price in certain hours of the day."""

    hours: str
    price: Price


class TierPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The price of the whole request once its prompt is longer than this."""

    above_tokens: int
    price: Price


class PriceRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider charges for a model from `since` on, and before `until` where that is known.

    windows  hours that have other prices; a row has either these or tiers
    tiers    lengths of the prompt from which other prices hold, rising
    """

    provider: str
    model: str
    since: datetime
    price: Price
    source: str
    until: datetime | None = None
    windows: tuple[WindowPrice, ...] = ()
    tiers: tuple[TierPrice, ...] = ()

    def holds(self, at: datetime) -> bool:
        return self.since <= at and (self.until is None or at < self.until)


class Hours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Windows of the day in UTC, each without its end; weekdays count from 0, Monday.

    except_days: days without these windows. `24:00` ends a window with the day.
    """

    name: str
    since: datetime
    source: str
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    windows_utc: tuple[tuple[str, str], ...] = ()
    except_days: tuple[date, ...] = ()

    def hold(self, at: datetime) -> bool:
        at = at.astimezone(UTC)
        if at.weekday() not in self.weekdays or at.date() in self.except_days:
            return False
        clock = at.time()
        return any(
            time.fromisoformat(begin) <= clock and (end == "24:00" or clock < time.fromisoformat(end))
            for begin, end in self.windows_utc
        )


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who charges."""

    id: str
    title: str
    source: str


class ComparedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that is only compared with. vendor: the id of its provider."""

    id: str
    title: str
    vendor: str
    source: str


class Score(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model did in the index of Artificial Analysis."""

    model: str
    index: Decimal
    source: str


class Prices(Protocol):
    """Whoever knows what models cost."""

    def current(self) -> PriceCatalog:
        """All of it, as it is now."""
        ...

    def row_at(self, model: str, at: datetime, *, provider: str = VENDOR) -> PriceRow | None: ...

    def hours_at(self, name: str, at: datetime) -> Hours | None: ...

    def price_at(self, model: str, at: datetime, *, provider: str = VENDOR, prompt_tokens: int = 0) -> Price | None: ...

    def point_at(
        self, model: str, at: datetime, *, provider: str = VENDOR, prompt_tokens: int = 0
    ) -> PricePoint | None: ...


class PriceCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """Prices of all providers through time. The operator's own rows go before the shipped ones while they hold."""

    rows: tuple[PriceRow, ...]
    own_rows: tuple[PriceRow, ...] = ()
    hours: tuple[Hours, ...] = ()
    providers: tuple[Provider, ...] = ()
    models: tuple[ComparedModel, ...] = ()
    scores: tuple[Score, ...] = ()

    def current(self) -> PriceCatalog:
        """A catalog does not change."""
        return self

    @property
    def edges_within_minutes(self) -> Sequence[datetime]:
        """When a price begins or ends between two minutes, in the order of time."""
        edges = [edge for row in (*self.rows, *self.own_rows) for edge in (row.since, row.until) if edge is not None]
        return sorted({edge for edge in edges if edge.second or edge.microsecond})

    def row_at(self, model: str, at: datetime, *, provider: str = VENDOR) -> PriceRow | None:
        """The row in force; None where there is none."""
        for layer in (self.own_rows, self.rows):
            row = _latest([row for row in layer if row.model == model and row.provider == provider], at)
            if row is not None:
                return row
        return None

    def rows_at(self, at: datetime) -> tuple[PriceRow, ...]:
        """Every provider's and model's row in force, in the order of the tables."""
        pairs = dict.fromkeys((row.provider, row.model) for row in (*self.rows, *self.own_rows))
        found = (self.row_at(model, at, provider=provider) for provider, model in pairs)
        return tuple(row for row in found if row is not None)

    def hours_at(self, name: str, at: datetime) -> Hours | None:
        """What these hours are at an instant; None before they began."""
        return max(
            (hours for hours in self.hours if hours.name == name and hours.since <= at), key=_since, default=None
        )

    def price_at(self, model: str, at: datetime, *, provider: str = VENDOR, prompt_tokens: int = 0) -> Price | None:
        """The price of a canonical model id at an instant; None when there was none."""
        point = self.point_at(model, at, provider=provider, prompt_tokens=prompt_tokens)
        return None if point is None else point.price

    def point_at(
        self, model: str, at: datetime, *, provider: str = VENDOR, prompt_tokens: int = 0
    ) -> PricePoint | None:
        """The same, with its id."""
        row = self.row_at(model, at, provider=provider)
        if row is None:
            return None
        is_own = any(row is own for own in self.own_rows)
        for window in row.windows:
            hours = self.hours_at(window.hours, at)
            if hours is not None and hours.hold(at):
                return _point(row, window.price, f"/{window.hours}", is_own=is_own)
        reached = [tier for tier in row.tiers if prompt_tokens > tier.above_tokens]
        if reached:
            return _point(row, reached[-1].price, f"/above-{reached[-1].above_tokens}", is_own=is_own)
        return _point(row, row.price, "", is_own=is_own)

    def points(self) -> Mapping[str, Price]:
        """Every price that can ever have been applied, by its id, but for an operator's; see `own_price`."""
        found: dict[str, Price] = {}
        for row in self.rows:
            special = [(f"/{window.hours}", window.price) for window in row.windows]
            special += [(f"/above-{tier.above_tokens}", tier.price) for tier in row.tiers]
            for end, price in (("", row.price), *special):
                found[_point(row, price, end, is_own=False).id] = price
        return found


def own_price(point_id: str) -> Price | None:
    """The amounts that the id of an operator's price carries; None for any other id."""
    _, is_own, amounts = point_id.rpartition("=")
    parts = amounts.split("/")
    if not is_own or len(parts) != 3:
        return None
    try:
        hit, miss, output = (Decimal(part) for part in parts)
    except InvalidOperation:
        return None
    return Price(hit=hit, miss=miss, output=output)


def pico_usd_of_tokens(price: Price) -> tuple[int, int, int]:
    """What one token costs in millionths of a millionth of a dollar: hit, miss, output.

    Exact, for a table refuses amounts with more than six decimals.
    """
    amounts = tuple(amount.scaleb(6) for amount in (price.hit, price.miss, price.output))
    assert all(amount == amount.to_integral_value() for amount in amounts), price
    hit, miss, output = (int(amount) for amount in amounts)
    return hit, miss, output


def cost_usd(usage: Usage, price: Price) -> Cost:
    """What this usage costs. Hit and miss tokens are disjoint and sum to the prompt; reasoning is output."""
    return Cost(
        hit_usd=usage.hit_tokens * price.hit * _PER_TOKEN,
        miss_usd=usage.miss_tokens * price.miss * _PER_TOKEN,
        output_usd=usage.output_tokens * price.output * _PER_TOKEN,
    )


def _point(row: PriceRow, price: Price, end: str, *, is_own: bool) -> PricePoint:
    since = row.since.astimezone(UTC)
    shown = since.isoformat(timespec="seconds" if since.second else "minutes").replace("+00:00", "Z")
    amounts = f"={price.hit}/{price.miss}/{price.output}" if is_own else ""
    return PricePoint(f"{row.provider}/{row.model}@{shown}{end}{amounts}", price)


def _latest(rows: Sequence[PriceRow], at: datetime) -> PriceRow | None:
    return max((row for row in rows if row.holds(at)), key=_since, default=None)


def _since(row: PriceRow | Hours) -> datetime:
    return row.since
