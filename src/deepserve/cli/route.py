"""`deepserve route`: which model the rules choose, and why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime
from typing import IO, Any

import click
import msgspec

from deepserve.backends.selection import select_backend
from deepserve.catalog.models import load_models
from deepserve.catalog.presets import AUTO, PresetCatalog
from deepserve.catalog.price_book import PriceBook
from deepserve.cli.settings import model_options, passing_settings_from, prices_option
from deepserve.cli.table import format_table
from deepserve.core.errors import UnknownModel
from deepserve.core.events import Event
from deepserve.core.request import Request, RequestId
from deepserve.dialects.chat.exchange import chat_decoder
from deepserve.dialects.chat.flavour import DEEPSEEK
from deepserve.dialects.exchange import Arrival
from deepserve.routing.policy import Decision
from deepserve.routing.router import Router


@click.group()
def route() -> None:
    """Show how a model is chosen where a request leaves that open."""


@route.command()
@click.argument("body", metavar="FILE|-", type=click.File("rb"))
@click.option("--as", "preset", metavar="PRESET", help=f"Ask under this name instead of the body's: {AUTO}, auto:….")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="A header of the request, such as x-deepserve-difficulty:hard. Repeatable.",
)
@prices_option
@model_options
def explain(body: IO[bytes], preset: str | None, headers: tuple[str, ...], **options: Any) -> None:
    """Print what each rule says about a request: the body of a chat completion, from a file or the standard input.

    Nothing is asked of a model; difficulty is found by signs in the question.
    """
    # Any: the shared options, as click hands them over
    settings = passing_settings_from(**options)
    names = load_models()
    raw = body.read() if preset is None else _asked_as(preset, body.read())
    arrival = Arrival(id=RequestId("0" * 32), at=datetime.now(UTC), headers=dict(_headers(headers)))
    exchange = chat_decoder(DEEPSEEK, names=names, limits=settings.limits, is_beta=True)(raw, arrival)
    if not exchange.model.is_automatic:
        raise UnknownModel(
            f"The request names its model, {exchange.model.id}, so that nothing is left to choose. "
            f"Use --as {AUTO} to see what the rules would choose.",
            field="model",
        )
    backend = select_backend(settings)
    router = Router(PriceBook(settings.prices_file), presets=names.presets)
    decision = asyncio.run(router.decide(exchange.request, backend.models(), ask=_nobody, count=backend.count))
    _show(decision, names.presets)


def _asked_as(preset: str, raw: bytes) -> bytes:
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return raw  # the dialect says better what is wrong
    return msgspec.json.encode({**value, "model": preset}) if isinstance(value, dict) else raw


def _headers(given: Iterable[str]) -> Iterable[tuple[str, str]]:
    for header in given:
        name, colon, value = header.partition(":")
        if not colon:
            raise click.BadParameter(f"{header} is not NAME:VALUE.", param_hint="--header")
        yield name.strip().lower(), value.strip()


def _nobody(_: Request) -> AsyncGenerator[Event]:
    raise AssertionError("the estimator by signs asks nobody")


def _show(decision: Decision, presets: PresetCatalog) -> None:
    rows = [(told.rule, told.word, "" if told.verdict is None else told.verdict.why) for told in decision.told]
    click.echo(format_table(("rule", "verdict", "why"), rows))
    chosen = decision.route
    thinking = "as the request says" if chosen.thinking is None else chosen.thinking
    click.echo(f"\n{chosen.preset}: {chosen.model}, thinking {thinking}, by the rule {chosen.rule} ({chosen.why}).")
    row = presets.find(chosen.preset)
    if row is not None and row.expected_cost is not None:
        click.echo(f"Expected cost: {row.expected_cost}, by {row.source}.")
