"""What an answer costs: exact decimals, never floats."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

import msgspec


def pico_usd(usd: Decimal) -> int:
    """Dollars as the ledger counts them: whole millionths of a millionth. What is smaller is rounded, half to even."""
    return int(usd.scaleb(12).to_integral_value(ROUND_HALF_EVEN))


def usd_of(pico_usd: int) -> Decimal:
    """What the ledger counts, as dollars, exactly."""
    return Decimal(pico_usd).scaleb(-12)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars, unrounded; the parts sum to the total.

    source      `list`: a published price was applied to the usage; `provider`: the provider stated the amount
    price       which price was in force, as `deepseek/deepseek-v4-pro@2026-08-16T16:00Z/peak`; None where none was, or
                several
    stated_usd  what the provider says it charges, whatever our price comes to
    """

    hit_usd: Decimal = Decimal(0)
    miss_usd: Decimal = Decimal(0)
    output_usd: Decimal = Decimal(0)
    tools_usd: Decimal = Decimal(0)
    source: Literal["list", "provider"] = "list"
    price: str | None = None
    stated_usd: Decimal | None = None

    @property
    def total_usd(self) -> Decimal:
        return self.hit_usd + self.miss_usd + self.output_usd + self.tools_usd

    def plus(self, other: Cost) -> Cost:
        """The sum of two answers' cost; stated by the provider only if both are."""
        return Cost(
            hit_usd=self.hit_usd + other.hit_usd,
            miss_usd=self.miss_usd + other.miss_usd,
            output_usd=self.output_usd + other.output_usd,
            tools_usd=self.tools_usd + other.tools_usd,
            source="provider" if self.source == other.source == "provider" else "list",
            price=self.price if self.price == other.price else None,
            stated_usd=(
                None if self.stated_usd is None or other.stated_usd is None else self.stated_usd + other.stated_usd
            ),
        )
