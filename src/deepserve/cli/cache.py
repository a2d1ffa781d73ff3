"""`deepserve cache`: why the prefix cache did not help."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlencode

import click
import msgspec

from deepserve import __version__
from deepserve.catalog.models import ModelCatalog, load_models
from deepserve.catalog.price_book import PriceBook
from deepserve.cli.asked_bodies import BodyDialect, decode_body
from deepserve.cli.batch import KEY_VARIABLE
from deepserve.cli.settings import model_options, passing_settings_from, prices_option
from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.metering.cache_misses import AskedPrompt, CacheExplanation, explain
from deepserve.outgoing.addresses import AddressPolicy, parse_allowances
from deepserve.outgoing.client import OutgoingClient, OutgoingLimits
from deepserve.outgoing.errors import OutgoingError
from deepserve.outgoing.keys import find_key
from deepserve.prompt.outline import outline

if TYPE_CHECKING:
    from deepserve.backends.tokens.model import TokenModel


@click.group()
def cache() -> None:
    """Say where two prompts part, and what that cost."""


@cache.command(name="explain")
@click.argument("earlier", required=False)
@click.argument("later", required=False)
@click.option(
    "--base-url",
    metavar="URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="The server whose requests are meant, where no files are.",
)
@click.option(
    "--key-variable",
    metavar="NAME",
    default=KEY_VARIABLE,
    show_default=True,
    help="The variable of the environment that holds that server's key.",
)
@click.option(
    "--dialect",
    type=click.Choice(get_args(BodyDialect)),
    help="How the bodies are to be read.  [default: as they look]",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON; amounts are exact, as strings.")
@prices_option
@model_options
def explain_command(
    earlier: str | None,
    later: str | None,
    base_url: str,
    key_variable: str,
    dialect: BodyDialect | None,
    is_json: bool,
    **options: Any,  # Any: the shared options, as click hands them over
) -> None:
    """Compare two requests as the prefix cache does: from the beginning to the first difference.

    \b
      deepserve cache explain first.json second.json
      deepserve cache explain                    the last request of a running server
      deepserve cache explain ID                 another one, by its id
      deepserve cache explain ID ID              with this one before it

    Bodies in files are read and rendered as a server would, and counted with the model's tokenizer; nothing is asked
    of a model. A server tells of its last requests where it was started with --explain-cache; a single one is compared
    with the one before it that shares most with it.
    """
    if earlier is not None and later is not None and (Path(earlier).is_file() or Path(later).is_file()):
        _explain_files(Path(earlier), Path(later), dialect, options, is_json=is_json)
        return
    if earlier is not None and Path(earlier).is_file():
        raise click.UsageError(f"{earlier} is a file: name two, the earlier request first.")
    if dialect is not None:
        raise click.UsageError("--dialect is for files; a server knows how its requests were read.")
    # Of two ids the first is the earlier; a single one is compared with what came before it.
    named = {"b": earlier} if later is None else {"a": earlier, "b": later}
    query = {name: value for name, value in named.items() if value is not None}
    key = find_key(key_variable, file=None, environment=os.environ)
    raw = asyncio.run(_asked_server(base_url, query, key))
    try:
        found = msgspec.json.decode(raw, type=CacheExplanation)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{base_url} does not answer as deepserve does.") from error
    click.echo(msgspec.json.format(raw).decode() if is_json else explanation_text(found))


async def _asked_server(base_url: str, query: Mapping[str, str], key: str | None) -> bytes:
    _, networks = parse_allowances(("0.0.0.0/0", "::/0"))  # whoever names a server means it
    client = OutgoingClient(
        AddressPolicy(allows_http=True, allowed_networks=networks), user_agent=f"deepserve/{__version__}"
    )
    url = f"{base_url.rstrip('/').removesuffix('/v1')}/v1/cache/explain?{urlencode(query)}"
    try:
        answer = await client.request(
            "GET",
            url,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            limits=OutgoingLimits(total_s=60, max_bytes=1 << 20),
        )
    except OutgoingError as error:
        raise ConfigurationError(f"{base_url} was not reached: {error.message}") from error
    finally:
        client.close()
    if answer.status != 200:
        raise ConfigurationError(f"{base_url} refuses ({answer.status}): {_refusal(answer.body)}")
    return answer.body


def _refusal(body: bytes) -> str:
    try:
        message = msgspec.json.decode(body)["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace")
    return _shown(str(message))


def _explain_files(
    earlier: Path, later: Path, dialect: BodyDialect | None, options: dict[str, Any], *, is_json: bool
) -> None:  # Any: as above
    settings = passing_settings_from(**options)
    names = load_models()
    (one, _), (other, model) = (_asked(path, dialect, names, settings) for path in (earlier, later))
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
    path: Path, dialect: BodyDialect | None, names: ModelCatalog, settings: Settings
) -> tuple[AskedPrompt, TokenModel]:
    """What a file asks, and whose tokens it is in."""
    from deepserve.backends.embedded_models import model_for
    from deepserve.prompt.encoder import encode

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    request = decode_body(raw, dialect, at=datetime.now(UTC), names=names, limits=settings.limits, source=str(path))
    model = model_for(settings, request.model)
    asked = AskedPrompt(
        id=str(path),
        model=request.model,
        user_id=request.user_id,
        arrived_at=request.arrived_at,
        sections=outline(request),
        ids=model.tokenizer.encode(encode(request, model.profile)).ids,
    )
    return asked, model
