"""`deepserve cost`: what a piece of work would cost, and how models compare."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from deepserve.catalog.calculator import Quote, expected_usage, quotes
from deepserve.catalog.models import load_models
from deepserve.catalog.price_book import PriceBook
from deepserve.catalog.prices import PriceCatalog
from deepserve.cli.cost_report import CountedFile, compared_text, quoted_text, report_json, shown_instant
from deepserve.cli.settings import config_option, prices_option, settings_from
from deepserve.core.errors import UnknownModel

LAUNCH = datetime(2026, 4, 24, tzinfo=UTC)
"""Of DeepSeek V4; the prices of other vendors were read in the same week."""


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
@config_option
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
    catalog, now = PriceBook(settings_from(prices_file=prices_file).prices_file).current(), datetime.now(UTC)
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
        click.echo(report_json(catalog, usage, at or now, found, counted, dates))
        return
    parts = [quoted_text(catalog, usage, at or now, found, counted)] if found else []
    click.echo("\n\n".join([*parts, *(compared_text(catalog, date) for date in dates)]))


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
    return f"No price is known for {shown_instant(at)}. The first begins at {shown_instant(first)}."


def _count(file: Any, folder: Path | None) -> CountedFile:  # Any: what click opens has no better type
    # Only here: a model takes a while to import.
    from deepserve.backends.tokens.model import shipped_folder
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
