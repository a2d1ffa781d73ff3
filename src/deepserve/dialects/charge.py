"""What an answer costs, for services that say so in a dialect which itself has no word for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.dialects.amounts import plain

Charge = Callable[[str, datetime, Usage], Cost | None]
"""The cost of a usage by a canonical model id and the instant that decides the price."""

CostOf = Callable[[Usage], Cost | None]
"""What a usage costs at the price in force; None where there is none, and where nothing is said about it."""


def unsaid(usage: Usage) -> None:  # noqa: ARG001 - as CostOf has it
    """For services that leave the cost to their bills."""
    return


def cost_of(charge: Charge | None, request: Request) -> CostOf:
    """charge: None where the service says nothing."""
    if charge is None:
        return unsaid
    return lambda usage: charge(request.model, request.arrived_at, usage)


class WireCost(msgspec.Struct, frozen=True):
    """Both parts as the service's clients read them, each under a name of its dialect."""

    total: Decimal
    prompt: Decimal
    output: Decimal


def wire_cost(cost: Cost) -> WireCost:
    return WireCost(plain(cost.total_usd), plain(cost.hit_usd + cost.miss_usd), plain(cost.output_usd))
