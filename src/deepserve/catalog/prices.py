"""What tokens cost: rows of `prices.toml`, and the arithmetic. Exact decimals; nothing here is rounded."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from importlib import resources

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.usage import Usage

_PER_TOKEN = Decimal("0.000001")


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars for a million tokens."""

    hit: Decimal
    miss: Decimal
    output: Decimal


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a model costs from `since` on; peak: None when every hour costs the same."""

    model: str
    since: datetime
    off_peak: Price
    peak: Price | None = None
    source: str = ""


class PeakHours(msgspec.Struct, frozen=True, kw_only=True):
    """Windows of the day in UTC, each without its end; weekdays count from 0, Monday."""

    weekdays: tuple[int, ...] = ()
    windows_utc: tuple[tuple[str, str], ...] = ()

    def hold(self, at: datetime) -> bool:
        at = at.astimezone(UTC)
        clock = at.time()
        return at.weekday() in self.weekdays and any(
            time.fromisoformat(begin) <= clock < time.fromisoformat(end) for begin, end in self.windows_utc
        )


class PriceCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """The vendor's list prices through time."""

    rows: tuple[PriceRow, ...]
    peak_hours: PeakHours = PeakHours()

    def row_at(self, model: str, at: datetime) -> PriceRow | None:
        """The row in force; None before the first."""
        rows: Sequence[PriceRow] = [row for row in self.rows if row.model == model and row.since <= at]
        return max(rows, key=lambda row: row.since, default=None)

    def price_at(self, model: str, at: datetime) -> Price | None:
        """The list price of a canonical model id at an instant, in UTC; None when there was none."""
        row = self.row_at(model, at)
        if row is None:
            return None
        return row.peak if row.peak is not None and self.peak_hours.hold(at) else row.off_peak


def cost_usd(usage: Usage, price: Price) -> Cost:
    """What this usage costs. Hit and miss tokens are disjoint and sum to the prompt; reasoning is output."""
    return Cost(
        hit_usd=usage.hit_tokens * price.hit * _PER_TOKEN,
        miss_usd=usage.miss_tokens * price.miss * _PER_TOKEN,
        output_usd=usage.output_tokens * price.output * _PER_TOKEN,
    )


def load_prices() -> PriceCatalog:
    """The list that ships with the package."""
    text = resources.files("deepserve.catalog").joinpath("prices.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)
    return PriceCatalog(
        rows=msgspec.convert(tuple(rows["price"]), tuple[PriceRow, ...]),
        peak_hours=msgspec.convert(rows["peak_hours"], PeakHours),
    )
