"""What answers cost at the list price."""

from __future__ import annotations

from datetime import datetime

from deepserve.catalog.prices import Prices, cost_usd
from deepserve.core.cost import Cost
from deepserve.core.usage import Usage


class Charges:
    """List prices, applied. The instant a request arrived decides."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices

    def cost(self, model: str, at: datetime, usage: Usage) -> Cost | None:
        """None for a model without a price."""
        price = self._prices.price_at(model, at)
        return None if price is None else cost_usd(usage, price)
