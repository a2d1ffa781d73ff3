"""Amounts of money in JSON: numbers, exact to the last digit."""

from __future__ import annotations

from decimal import Decimal

import msgspec

encode_amounts = msgspec.json.Encoder(decimal_format="number").encode
"""Any value; each Decimal in it as a number."""


def plain(amount: Decimal) -> Decimal:
    """The same amount without needless zeros."""
    short = amount.normalize()
    return short if short else Decimal(0)
