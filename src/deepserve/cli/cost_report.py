"""What `deepserve cost` prints: quotes and comparisons, as text and as JSON."""

from __future__ import annotations

import string
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import msgspec

from deepserve.catalog.calculator import Multiple, Quote, multiples
from deepserve.catalog.prices import Hours, Price, PriceCatalog
from deepserve.cli.scatter import Point, format_scatter
from deepserve.cli.table import format_table
from deepserve.core.usage import Usage

REFERENCE = "deepseek-v4-pro"
"""What the others are multiples of."""

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MISSING = "–"


class CountedFile(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens a file has, and who counted."""

    file: str
    tokens: int
    tokenizer: str
    vocabulary: int


def quoted_text(
    catalog: PriceCatalog, usage: Usage, at: datetime, found: Sequence[Quote], counted: CountedFile | None
) -> str:
    cheapest = min(quote.cost.total_usd for quote in found)
    table = format_table(
        ("model", "provider", "since", "when", "hit/M", "miss/M", "output/M", "cost $", "times"),
        [
            (
                quote.row.model,
                quote.row.provider,
                f"{quote.row.since:%Y-%m-%d}",
                _when(quote),
                f"{quote.price.hit:f}" if quote.price.has_hit else _MISSING,
                f"{quote.price.miss:f}",
                f"{quote.price.output:f}",
                f"{_rounded(quote.cost.total_usd, '0.000001'):,f}",
                f"{_rounded(quote.cost.total_usd / cheapest, '0.1'):,f}" if cheapest else _MISSING,
            )
            for quote in sorted(found, key=lambda quote: quote.cost.total_usd)
        ],
    )
    notes = [] if counted is None else [_counted_how(counted)]
    if usage.hit_tokens and any(not quote.price.has_hit for quote in found):
        notes.append(f"{_MISSING}: no price for cached tokens is listed; they are charged as all others.")
    names = dict.fromkeys(quote.hours for quote in found if quote.hours is not None)
    notes += (_described(hours) for hours in (catalog.hours_at(name, at) for name in names) if hours is not None)
    head = (
        f"{usage.prompt_tokens:,} tokens in, of which {usage.hit_tokens:,} cached, and {usage.output_tokens:,} out; "
        f"prices in US dollars as at {shown_instant(at)}"
    )
    return "\n\n".join([head, table, *(["\n".join(notes)] if notes else [])])


def compared_text(catalog: PriceCatalog, at: datetime) -> str:
    shown = multiples(catalog, at, reference=REFERENCE)
    if not shown:
        return f"No price of {REFERENCE} is known for {shown_instant(at)}."
    flash = {(one.model, one.above_tokens): one.output for one in multiples(catalog, at, reference="deepseek-v4-flash")}
    table = format_table(
        ("model", "miss/M", "hit/M", "output/M", "× miss", "× hit", "× output", "× output of Flash"),
        [
            (
                _named(one),
                f"{one.price.miss:f}",
                f"{one.price.hit:f}" if one.price.has_hit else _MISSING,
                f"{one.price.output:f}",
                *(_times(ratio) for ratio in (one.miss, one.hit, one.output)),
                _times(flash.get((one.model, one.above_tokens))),
            )
            for one in shown
        ],
    )
    return f"Price at {shown_instant(at)}, × as multiples of {REFERENCE}'s\n\n{table}\n\n{_picture(catalog, shown)}"


def _picture(catalog: PriceCatalog, shown: Sequence[Multiple]) -> str:
    """Price by quality. A tier is left out: it is the same model."""
    scores = {score.model: score.index for score in catalog.scores}
    usual = [one for one in shown if one.above_tokens is None]
    placed = [one for one in usual if one.model in scores and one.price.output > 0]
    unplaced = [one.model for one in usual if one not in placed]
    if not placed:
        return "No model has both a score and a price, so there is nothing to draw."
    marks = dict(zip((one.model for one in placed), string.ascii_uppercase, strict=False))
    placed = [one for one in placed if one.model in marks]
    chart = format_scatter(
        [Point(mark=marks[one.model], x=float(one.price.output), y=float(scores[one.model])) for one in placed]
    )
    legend = "\n".join(f"{marks[one.model]}  {one.model}: {scores[one.model]}, ${one.price.output:f}" for one in placed)
    missing = f"\nNot shown, for want of a score: {', '.join(unplaced)}" if unplaced else ""
    title = "Artificial Analysis Intelligence Index v4.0, by output price for a million tokens (logarithmic)"
    return f"{title}\n\n{chart}\n\n{legend}{missing}"


def _when(quote: Quote) -> str:
    if quote.above_tokens is not None:
        return f"above {quote.above_tokens:,} tokens"
    if quote.hours is not None:
        return quote.hours
    return "other hours" if quote.row.windows else "always"


def _named(one: Multiple) -> str:
    return one.model if one.above_tokens is None else f"{one.model} above {one.above_tokens:,} tokens"


def _described(hours: Hours) -> str:
    first, last = min(hours.weekdays), max(hours.weekdays)
    if len(set(hours.weekdays)) == 7:
        days = "every day"
    elif len(set(hours.weekdays)) == last - first + 1 > 2:
        days = f"{_DAYS[first]} to {_DAYS[last]}"
    else:
        days = ", ".join(_DAYS[day] for day in sorted(set(hours.weekdays)))
    windows = ", ".join(f"{begin}-{end}" for begin, end in hours.windows_utc)
    exempt = f", except on {len(hours.except_days)} days" if hours.except_days else ""
    return f"{hours.name}: {windows} UTC, {days}{exempt}."


def _counted_how(counted: CountedFile) -> str:
    return (
        f"{counted.file}: {counted.tokens:,} tokens, counted with the tokenizer of {counted.tokenizer}, which has "
        f"{counted.vocabulary:,} entries.\n"
        "The larger a vocabulary, the fewer the tokens; V4's has 129,280 entries. --tokenizer takes another's folder."
    )


def _times(ratio: Decimal | None) -> str:
    """One decimal, and two below 1, where one would say too little."""
    return _MISSING if ratio is None else f"{_rounded(ratio, '0.1' if ratio >= 1 else '0.01'):,f}"


def _rounded(amount: Decimal, step: str) -> Decimal:
    return amount.quantize(Decimal(step), rounding=ROUND_HALF_UP)


def shown_instant(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def report_json(
    catalog: PriceCatalog,
    usage: Usage,
    at: datetime,
    found: Sequence[Quote],
    counted: CountedFile | None,
    dates: Sequence[datetime],
) -> str:
    value: dict[str, Any] = {}  # Any: JSON on its way out
    if found:
        value |= {
            "at": at,
            "input_tokens": usage.prompt_tokens,
            "hit_tokens": usage.hit_tokens,
            "miss_tokens": usage.miss_tokens,
            "output_tokens": usage.output_tokens,
            "counted": counted,
            "quotes": [_quote_item(quote) for quote in found],
        }
    if dates:
        scores = {score.model: score.index for score in catalog.scores}
        value["comparisons"] = [
            {
                "at": date,
                "reference": REFERENCE,
                "models": [
                    {
                        "model": one.model,
                        "above_tokens": one.above_tokens,
                        "price": _price_item(one.price),
                        "times": {"hit": one.hit, "miss": one.miss, "output": one.output},
                        "intelligence_index": scores.get(one.model),
                    }
                    for one in multiples(catalog, date, reference=REFERENCE)
                ],
            }
            for date in dates
        ]
    return msgspec.json.format(msgspec.json.encode(value).decode(), indent=2)


def _quote_item(quote: Quote) -> dict[str, object]:
    return {
        "model": quote.row.model,
        "provider": quote.row.provider,
        "hours": quote.hours,
        "above_tokens": quote.above_tokens,
        "price": _price_item(quote.price),
        "hit_usd": _exact(quote.cost.hit_usd),
        "miss_usd": _exact(quote.cost.miss_usd),
        "output_usd": _exact(quote.cost.output_usd),
        "total_usd": _exact(quote.cost.total_usd),
        "since": quote.row.since,
        "source": quote.row.source,
    }


def _price_item(price: Price) -> dict[str, object]:
    return {"hit": price.hit if price.has_hit else None, "miss": price.miss, "output": price.output}


def _exact(amount: Decimal) -> str:
    """Every digit, none of them a zero at the end."""
    return f"{amount.normalize():f}"
