"""What answers cost at the list price: the sums that accounts and histories show."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from deepserve.catalog.prices import PriceCatalog, cost_usd
from deepserve.core.cost import Cost
from deepserve.core.usage import Usage
from deepserve.store.answers import AnswerRow

_CHARGED = frozenset(("stop", "stop_string", "length", "tool_calls", "content_filter", "aborted", "client_left"))
"""Outcomes that are paid for; any other is an error, which is not."""


class Charges:
    """List prices, applied. The instant a request arrived decides."""

    def __init__(self, prices: PriceCatalog) -> None:
        self._prices = prices

    def cost(self, model: str, at: datetime, usage: Usage) -> Cost | None:
        """None for a model without a price."""
        price = self._prices.price_at(model, at)
        return None if price is None else cost_usd(usage, price)

    def cost_of_row(self, row: AnswerRow) -> Cost:
        """Zero for what failed, and for a model without a price."""
        cost = self.cost(row.model, row.arrived_at, row.usage) if row.outcome in _CHARGED else None
        return Cost() if cost is None else cost

    def total(self, rows: Iterable[AnswerRow]) -> Decimal:
        return sum((self.cost_of_row(row).total_usd for row in rows), Decimal(0))
