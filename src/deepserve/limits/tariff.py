"""What tokens cost, in whole numbers: for budgets, which look at a price with every piece of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from deepserve.catalog.prices import Price
from deepserve.core.cost import pico_usd
from deepserve.core.request import Request
from deepserve.core.usage import Usage


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """Pico-dollars for a token."""

    hit_pico: int = 0
    miss_pico: int = 0
    output_pico: int = 0

    def cost_pico(self, usage: Usage) -> int:
        return (
            usage.hit_tokens * self.hit_pico
            + usage.miss_tokens * self.miss_pico
            + usage.output_tokens * self.output_pico
        )


FREE = Tariff()
"""Of a model without a price: the ledger writes nothing for it either."""

TariffOf = Callable[[Request, int], Tariff]
"""What a request of so many prompt tokens costs for a token, with whoever may answer it. Knows no provider's name."""


def dearest(prices: Iterable[Price | None]) -> Tariff:
    """The highest of each price: nobody is known to answer yet, and a budget must hold whoever it is."""
    tariff = FREE
    for price in prices:
        if price is not None:
            hit, miss, output = (pico_usd(usd) // 1_000_000 for usd in (price.hit, price.miss, price.output))
            tariff = Tariff(
                hit_pico=max(tariff.hit_pico, hit),
                miss_pico=max(tariff.miss_pico, miss),
                output_pico=max(tariff.output_pico, output),
            )
    return tariff
