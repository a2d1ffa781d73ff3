"""`deepserve cache`: why the prefix cache did not help."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from deepserve.catalog.models import ModelCatalog, load_models
from deepserve.catalog.price_book import PriceBook
from deepserve.cli.asked_bodies import BodyDialect, decode_body
from deepserve.cli.settings import model_options, passing_settings_from, prices_option
from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.metering.cache_misses import AskedPrompt, CacheExplanation, explain
from deepserve.prompt.outline import outline

if TYPE_CHECKING:
    from deepserve.backends.tokens.model import TokenModel


@click.group()
def cache() -> None:
    """Say where two prompts part, and what that cost."""


@cache.command(name="explain")
@click.argument("earlier", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("later", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--dialect",
    type=click.Choice(get_args(BodyDialect)),
    help="How the bodies are to be read.  [default: as they look]",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON; amounts are exact, as strings.")
@prices_option
@model_options
def explain_command(
    earlier: Path, later: Path, dialect: BodyDialect | None, is_json: bool, **options: Any
) -> None:  # Any: the shared options, as click hands them over
    """Compare the bodies of two requests as the prefix cache does: from the beginning to the first difference.

    \b
      deepserve cache explain first.json second.json
      deepserve cache explain first.json second.json --dialect messages --model PATH

    Both are read and rendered as a server would, and counted with the model's tokenizer. Nothing is asked of a model.
    """
    settings = passing_settings_from(**options)
    names = load_models()
    from deepserve.backends.tokens.model import load_model

    model = load_model(settings.model_path, settings.profile)
    one, other = (_asked(path, dialect, names, settings, model) for path in (earlier, later))
    prices = PriceBook(settings.prices_file).current()
    point = prices.point_at(other.model, other.arrived_at, prompt_tokens=len(other.ids or ()))
    found = explain(one, other, point=point)
    if is_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    click.echo(explanation_text(found))
    if one.ids is not None and other.ids is not None and found.reason == "differs":
        tokens = [model.tokenizer.decode(asked.ids[found.common_tokens :][:1]) for asked in (one, other) if asked.ids]
        click.echo(f"Token {found.common_tokens:,} is {tokens[0]!r} in the one and {tokens[1]!r} in the other.")


def explanation_text(found: CacheExplanation) -> str:
    """For a terminal: what is shared dimmed, the earlier request's words red, the later one's green."""
    about = "about " if found.is_estimated else ""
    lines = [f"{found.words[0].upper()}{found.words[1:]}."]
    if found.difference is not None:
        part = found.difference
        before = click.style(_shown(part.before), dim=True)
        lines += [
            "",
            f"{click.style(part.path, bold=True)}, after {part.offset:,} characters:",
            f"  {click.style('-', fg='red')} {before}{click.style(_shown(part.one) or '(nothing)', fg='red')}",
            f"  {click.style('+', fg='green')} {before}{click.style(_shown(part.other) or '(nothing)', fg='green')}",
            "",
        ]
    lines.append(
        f"{about}{found.common_tokens:,} of {found.prompt_tokens:,} prompt tokens stand in both from the beginning on."
    )
    if found.hit_tokens is not None:
        lines.append(f"{found.hit_tokens:,} were hit.")
    if found.missed_tokens and found.missed_usd is not None:
        lines.append(f"{about}{found.missed_tokens:,} more could have been, for ${found.missed_usd:f} less.")
        lines.append(f"Price: {found.price}.")
    return "\n".join(line[:1].upper() + line[1:] if line.startswith("about") else line for line in lines)


def _shown(text: str) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _asked(
    path: Path, dialect: BodyDialect | None, names: ModelCatalog, settings: Settings, model: TokenModel
) -> AskedPrompt:
    from deepserve.prompt.encoder import encode

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    request = decode_body(raw, dialect, at=datetime.now(UTC), names=names, limits=settings.limits, source=str(path))
    return AskedPrompt(
        id=str(path),
        model=request.model,
        user_id=request.user_id,
        arrived_at=request.arrived_at,
        sections=outline(request),
        ids=model.tokenizer.encode(encode(request, model.profile)).ids,
    )
