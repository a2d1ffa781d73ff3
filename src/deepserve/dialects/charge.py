"""What an answer has cost, for services that say so in a dialect which itself has no word for it."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from deepserve.core.cost import Cost
from deepserve.dialects.amounts import plain


class WireCost(msgspec.Struct, frozen=True):
    """Both parts as the service's clients read them, each under a name of its dialect."""

    total: Decimal
    prompt: Decimal
    output: Decimal


def wire_cost(cost: Cost) -> WireCost:
    return WireCost(plain(cost.total_usd), plain(cost.hit_usd + cost.miss_usd), plain(cost.output_usd))
