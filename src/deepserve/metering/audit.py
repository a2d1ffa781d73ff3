"""Prices the ledger again, from tokens and the ids of prices, and finds what does not come out as it was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from deepserve.catalog.prices import PriceCatalog, own_price, pico_usd_of_tokens
from deepserve.store.ledger_row import LedgerRow


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is not what its tokens and its price make of it."""

    row: LedgerRow
    problem: str


def audit(rows: Iterable[LedgerRow], catalog: PriceCatalog) -> Iterator[Difference]:
    """Every row that does not come out. The catalog has the shipped prices; an operator's are in the ids themselves."""
    amounts = {point_id: pico_usd_of_tokens(price) for point_id, price in catalog.points().items()}
    for row in rows:
        for problem in _problems(row, amounts):
            yield Difference(row=row, problem=problem)
            break


def _problems(row: LedgerRow, amounts: dict[str, tuple[int, int, int]]) -> Iterator[str]:
    counts = (row.hit_tokens, row.miss_tokens, row.reasoning_tokens, row.answer_tokens, row.cache_write_tokens)
    if min(counts) < 0:
        yield "a count of tokens is negative"
    if row.cache_write_tokens > row.miss_tokens:
        yield "more tokens were stored than computed"
    if row.ended_at is not None and row.ended_at < row.arrived_at:
        yield "it ended before it began"
    if row.price is None:
        # Nobody has a price: what the provider states stands for it, or nothing is charged.
        if row.total_pico_usd not in (0, row.stated_pico_usd):
            yield f"it costs {row.total_pico_usd} pico-dollars at no price"
        return
    price = amounts.get(row.price)
    if price is None:
        own = own_price(row.price)
        if own is None:
            yield f"there is no price {row.price}"
            return
        price = amounts[row.price] = pico_usd_of_tokens(own)
    hit, miss, output = price
    expected = (
        ("cached tokens", row.hit_pico_usd, row.hit_tokens * hit),
        ("other prompt tokens", row.miss_pico_usd, row.miss_tokens * miss),
        ("output", row.output_pico_usd, (row.reasoning_tokens + row.answer_tokens) * output),
    )
    for name, written, priced in expected:
        if written != priced:
            yield f"{name}: {written} pico-dollars are written, {priced} is what {row.price} makes of them"
