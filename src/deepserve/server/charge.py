"""What answers cost at the list price: the sums that accounts and histories show."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from deepserve.catalog.prices import Prices, cost_usd
from deepserve.core.cost import Cost
from deepserve.core.usage import Usage
from deepserve.store.answers import AnswerRow, AnswerSum

_CHARGED = frozenset(("stop", "stop_string", "length", "tool_calls", "content_filter", "aborted", "client_left"))
"""Outcomes that are paid for; any other is an error, which is not."""


class Charges:
    """List prices, applied. The instant a request arrived decides."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices

    def cost(self, model: str, at: datetime, usage: Usage) -> Cost | None:
        """None for a model without a price."""
        price = self._prices.price_at(model, at)
        return None if price is None else cost_usd(usage, price)

    def cost_of_row(self, row: AnswerRow) -> Cost:
        """Zero for what failed, and for a model without a price."""
        return self._cost_of(row.model, row.outcome, row.arrived_at, row.usage)

    def total(self, sums: Iterable[AnswerSum]) -> Decimal:
        costs = (self._cost_of(one.model, one.outcome, one.minute, one.usage) for one in sums)
        return sum((cost.total_usd for cost in costs), Decimal(0))

    def _cost_of(self, model: str, outcome: str, at: datetime, usage: Usage) -> Cost:
        cost = self.cost(model, at, usage) if outcome in _CHARGED else None
        return Cost() if cost is None else cost
