"""`deepserve cost`: what a piece of work would cost, and how models compare."""

from __future__ import annotations

import string
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click
import msgspec

from deepserve.catalog.calculator import Multiple, Quote, expected_usage, multiples, quotes
from deepserve.catalog.models import load_models
from deepserve.catalog.price_book import PriceBook
from deepserve.catalog.prices import Hours, Price, PriceCatalog
from deepserve.cli.scatter import Point, format_scatter
from deepserve.cli.settings import prices_option
from deepserve.cli.table import format_table
from deepserve.core.errors import UnknownModel
from deepserve.core.usage import Usage

REFERENCE = "deepseek-v4-pro"
LAUNCH = datetime(2026, 4, 24, tzinfo=UTC)
"""Of DeepSeek V4; the prices of other vendors were read in the same week."""

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MISSING = "–"


class CountedFile(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens a file has, and who counted."""

    file: str
    tokens: int
    tokenizer: str
    vocabulary: int


def _read_ratio(_context: click.Context, _parameter: click.Parameter, text: str) -> Decimal:
    """`0.7` or `70%`."""
    try:
        ratio = Decimal(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except InvalidOperation:
        ratio = Decimal("nan")
    if not ratio.is_finite() or not 0 <= ratio <= 1:
        raise click.BadParameter(f"{text!r} is not a part of the whole; write for example 0.7 or 70%.")
    return ratio


def _read_date(_context: click.Context, _parameter: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a date; write for example 2026-04-24 or 2026-04-24T12:00Z."
        ) from error
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


@click.command()
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--input-tokens", type=click.IntRange(min=0), help="Tokens of the prompt. Or name a FILE: it is counted.")
@click.option("--output-tokens", type=click.IntRange(min=0), help="Tokens of the answer, thinking included.")
@click.option(
    "--hit-ratio",
    default="0",
    metavar="RATIO",
    callback=_read_ratio,
    help="Part of the prompt that comes from the prefix cache: 0.7 or 70%.",
)
@click.option(
    "--date", "at", metavar="DATE", callback=_read_date, help="Day or instant whose prices count, in UTC; default: now."
)
@click.option("--model", "models", metavar="MODEL", multiple=True, help="Only this model. Repeatable.")
@click.option("--provider", "providers", metavar="PROVIDER", multiple=True, help="Only this provider. Repeatable.")
@click.option(
    "--tokenizer",
    "tokenizer_folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Count with this checkpoint's tokenizer; by default that of the model that ships.",
)
@click.option(
    "--compare", "is_comparing", is_flag=True, help="Show models as multiples of V4-Pro, and price by quality."
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON; amounts are exact, as strings.")
@prices_option
def cost(
    file: Any,  # Any: what click opens has no better type
    input_tokens: int | None,
    output_tokens: int | None,
    hit_ratio: Decimal,
    at: datetime | None,
    models: tuple[str, ...],
    providers: tuple[str, ...],
    tokenizer_folder: Path | None,
    is_comparing: bool,
    is_json: bool,
    prices_file: Path | None,
) -> None:
    """Say what a piece of work would cost with every model and provider.

    \b
      deepserve cost --input-tokens 100000 --output-tokens 5000 --hit-ratio 0.7
      deepserve cost prompt.txt --output-tokens 500 --model deepseek-v4-flash
      deepserve cost --compare
    """
    if file is not None and input_tokens is not None:
        raise click.UsageError("Give either a file or --input-tokens, not both.")
    if tokenizer_folder is not None and file is None:
        raise click.UsageError("--tokenizer counts the tokens of a file; name one.")
    is_counting = file is not None or input_tokens is not None or output_tokens is not None
    if not is_counting and not is_comparing:
        raise click.UsageError(
            "Say how much work it is: --input-tokens N --output-tokens N, or name a file. --compare needs neither."
        )
    catalog, now = PriceBook(prices_file).current(), datetime.now(UTC)
    wanted = _known_models(catalog, models)
    _check_providers(catalog, providers)
    counted = None if file is None else _count(file, tokenizer_folder)
    usage = expected_usage(counted.tokens if counted else input_tokens or 0, output_tokens or 0, hit_ratio)
    found: tuple[Quote, ...] = ()
    if is_counting:
        found = quotes(catalog, usage, at or now, models=wanted, providers=providers)
        if not found:
            raise click.ClickException(_nothing_found(catalog, at or now, wanted, providers))
    dates = ((LAUNCH, now) if at is None else (at,)) if is_comparing else ()
    if is_json:
        click.echo(_json(catalog, usage, at or now, found, counted, dates))
        return
    parts = [_quoted(catalog, usage, at or now, found, counted)] if found else []
    click.echo("\n\n".join([*parts, *(_compared(catalog, date) for date in dates)]))


# --- what was asked for ----------------------------------------------------------------------------------------------


def _known_models(catalog: PriceCatalog, models: Sequence[str]) -> list[str]:
    """Canonical ids; other names of served models are understood."""
    names, compared = load_models(), [model.id for model in catalog.models]
    wanted: list[str] = []
    for model in models:
        try:
            wanted.append(model if model in compared else names.resolve(model).id)
        except UnknownModel as error:
            known = ", ".join([*(row.id for row in names.models), *compared])
            raise click.BadParameter(f"{model!r} is not known; known: {known}.", param_hint="--model") from error
    return wanted


def _check_providers(catalog: PriceCatalog, providers: Sequence[str]) -> None:
    known = [provider.id for provider in catalog.providers]
    for provider in providers:
        if provider not in known:
            raise click.BadParameter(f"{provider!r} is not known; known: {', '.join(known)}.", param_hint="--provider")


def _nothing_found(catalog: PriceCatalog, at: datetime, models: Sequence[str], providers: Sequence[str]) -> str:
    rows = [
        row
        for row in (*catalog.rows, *catalog.own_rows)
        if (not models or row.model in models) and (not providers or row.provider in providers)
    ]
    if not rows:
        return "No such provider has a price for such a model. Leave out --model or --provider to see what there is."
    first = min(row.since for row in rows)
    return f"No price is known for {_shown(at)}. The first begins at {_shown(first)}."


def _count(file: Any, folder: Path | None) -> CountedFile:  # Any: what click opens has no better type
    # Only here: tokenizers take a while to import.
    from deepserve.backends.embedded_model import shipped_folder
    from deepserve.prompt.tokenizer import Tokenizer

    try:
        text = file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file.name} is not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise click.ClickException(f"Cannot read {file.name}: {error.strerror}.") from error
    folder = folder or shipped_folder()
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    return CountedFile(
        file=file.name,
        tokens=len(tokenizer.encode_text(text)),
        tokenizer=folder.name,
        vocabulary=tokenizer.vocab_size,
    )


# --- text ------------------------------------------------------------------------------------------------------------


def _quoted(
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
        f"prices in US dollars as at {_shown(at)}"
    )
    return "\n\n".join([head, table, *(["\n".join(notes)] if notes else [])])


def _compared(catalog: PriceCatalog, at: datetime) -> str:
    shown = multiples(catalog, at, reference=REFERENCE)
    if not shown:
        return f"No price of {REFERENCE} is known for {_shown(at)}."
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
    return f"Price at {_shown(at)}, × as multiples of {REFERENCE}'s\n\n{table}\n\n{_picture(catalog, shown)}"


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


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json(
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
