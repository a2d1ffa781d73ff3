"""What a piece of work would cost with every model and provider, and how models compare."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal

import msgspec

from deepserve.catalog.prices import VENDOR, Price, PriceCatalog, PriceRow, cost_usd
from deepserve.core.cost import Cost
from deepserve.core.usage import Usage


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What one provider would charge.

    hours         the name of the hours in which this price holds; None: all others, or always
    above_tokens  it holds because the prompt is longer than this
    """

    row: PriceRow
    price: Price
    cost: Cost
    hours: str | None = None
    above_tokens: int | None = None


class Multiple(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as much as the reference a model costs at its vendor, outside hours with prices of their own.

    above_tokens  of the tier this is, None for the usual one
    hit           also None where either lists no price for cached tokens

    None: the reference costs nothing, and nothing is a multiple of that.
    """

    model: str
    price: Price
    hit: Decimal | None
    miss: Decimal | None
    output: Decimal | None
    above_tokens: int | None = None


def expected_usage(input_tokens: int, output_tokens: int, hit_ratio: Decimal = Decimal(0)) -> Usage:
    """A usage of which this part of the prompt was cached, in whole tokens, the last one not.

    Raises ValueError for negative counts and for ratios outside 0 to 1.
    """
    if input_tokens < 0 or output_tokens < 0:
        raise ValueError("A number of tokens cannot be negative.")
    if not 0 <= hit_ratio <= 1:
        raise ValueError("A hit ratio is between 0 and 1.")
    hits = int(input_tokens * hit_ratio)
    return Usage(hit_tokens=hits, miss_tokens=input_tokens - hits, answer_tokens=output_tokens)


def quotes(
    catalog: PriceCatalog,
    usage: Usage,
    at: datetime,
    *,
    models: Collection[str] = (),
    providers: Collection[str] = (),
) -> tuple[Quote, ...]:
    """Every row in force at an instant, applied; hours with prices of their own are quotes of their own.

    models, providers: only these; none means all.
    """
    found: list[Quote] = []
    for row in catalog.rows_at(at):
        if (models and row.model not in models) or (providers and row.provider not in providers):
            continue
        reached = [tier for tier in row.tiers if usage.prompt_tokens > tier.above_tokens]
        if reached:
            price, above_tokens = reached[-1].price, reached[-1].above_tokens
        else:
            price, above_tokens = row.price, None
        found.append(Quote(row=row, price=price, cost=cost_usd(usage, price), above_tokens=above_tokens))
        found += (
            Quote(row=row, price=window.price, cost=cost_usd(usage, window.price), hours=window.hours)
            for window in row.windows
            if catalog.hours_at(window.hours, at) is not None
        )
    return tuple(found)


def multiples(catalog: PriceCatalog, at: datetime, *, reference: str) -> tuple[Multiple, ...]:
    """Every model at its own vendor, as multiples of the reference at its; none where the reference has no price."""
    vendors = {model.id: model.vendor for model in catalog.models}
    base = catalog.row_at(reference, at, provider=vendors.get(reference, VENDOR))
    if base is None:
        return ()
    return tuple(
        _multiple(row.model, price, base.price, above_tokens)
        for row in catalog.rows_at(at)
        if row.provider == vendors.get(row.model, VENDOR)
        for price, above_tokens in ((row.price, None), *((tier.price, tier.above_tokens) for tier in row.tiers))
    )


def _multiple(model: str, price: Price, base: Price, above_tokens: int | None) -> Multiple:
    return Multiple(
        model=model,
        price=price,
        hit=_ratio(price.hit, base.hit) if price.has_hit and base.has_hit else None,
        miss=_ratio(price.miss, base.miss),
        output=_ratio(price.output, base.output),
        above_tokens=above_tokens,
    )


def _ratio(amount: Decimal, base: Decimal) -> Decimal | None:
    return amount / base if base else None
