"""`deepserve providers`: who else answers as DeepSeek V4, and how much of it they really take."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import click
import msgspec

from deepserve.backends.fleet.opening import named_upstreams
from deepserve.backends.kinds import Opening, prepare_opening
from deepserve.backends.upstream.probe import OUTPUT_TOKENS, PROMPT_TOKENS, LearntLimits, Step, probe, step_sizes
from deepserve.catalog.price_book import PriceBook
from deepserve.catalog.prices import cost_usd
from deepserve.catalog.providers import load_providers, read_upstream
from deepserve.cli.settings import config_option, settings_from
from deepserve.cli.table import format_table
from deepserve.config import EMBEDDED, Settings, UpstreamSettings
from deepserve.core.errors import ConfigurationError
from deepserve.core.usage import Usage
from deepserve.outgoing.keys import find_key


@click.group()
def providers() -> None:
    """Show who else answers as DeepSeek V4, and learn how much they really take."""


@providers.command(name="list")
@config_option
def list_providers() -> None:
    """List services and kinds of servers that `--upstream` knows, and the upstreams of your configuration."""
    settings = settings_from()
    configured = [one for one in named_upstreams(settings) if one.kind != EMBEDDED]
    rows = load_providers()
    if configured:
        click.echo("Named in your configuration:\n")
        named = [
            (one.id, one.kind, one.address or rows[one.kind].base_url or "", _key_of(one, os.environ))
            for one in configured
        ]
        click.echo(format_table(("id", "kind", "address", "key"), named))
        click.echo("\nKnown:\n")
    known = [
        (
            row.id,
            row.base_url or "yours, as in " + row.id + "=http://…/v1",
            ", ".join(model.removeprefix("deepseek-v4-") for model in row.models),
            row.key_variable,
            "set" if os.environ.get(row.key_variable, "").strip() else "–" if row.needs_key else "not needed",
        )
        for row in rows.values()
    ]
    click.echo(format_table(("id", "address", "models", "key variable", "key"), known))


def _key_of(upstream: UpstreamSettings, environment: Mapping[str, str]) -> str:
    variable = upstream.key_variable or load_providers()[upstream.kind].key_variable
    source = str(upstream.key_file or variable)
    try:
        key = find_key(variable, file=upstream.key_file, environment=environment)
    except ConfigurationError:
        return f"{source}: cannot be used"
    return source if key is not None else f"{source}: not set"


@providers.command(name="probe")
@click.argument("name")
@click.option("--model", "model", help="One of this server's models; by default the cheapest that the service has.")
@click.option(
    "--most",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Ask so many requests at once, at most; it begins with 1 and doubles.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Holds its key, in place of the environment.",
)
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask whether that may cost money.")
@config_option
def probe_provider(name: str, model: str | None, most: int, key_file: Path | None, is_agreed: bool) -> None:
    """Learn the real limits of NAME: an upstream of your configuration, a known service, or an address.

    Sends tiny requests, ever more side by side, until the first is refused. They are answered, so they cost money.
    """
    settings = settings_from()
    opening = prepare_opening(_upstream(name, key_file, settings), settings)
    chosen = _model_of(opening, model)
    sizes = step_sizes(most)
    num_requests = sum(sizes)
    price = PriceBook(settings.prices_file).price_at(chosen, datetime.now(UTC), provider=opening.upstream.kind)
    usage = Usage(miss_tokens=PROMPT_TOKENS * num_requests, answer_tokens=OUTPUT_TOKENS * num_requests)
    cost = "its price is not known" if price is None else f"about {_usd(cost_usd(usage, price).total_usd)}"
    click.echo(
        f"Up to {num_requests} requests of about {PROMPT_TOKENS} tokens each for {chosen} at {opening.address}, up to "
        f"{most} of them at once: {cost}."
    )
    if not is_agreed:
        click.confirm("Shall they be sent?", abort=True)
    learnt = asyncio.run(probe(opening, chosen, most=most, clock=time.monotonic, on_step=_show_step))
    _show(learnt, opening)


def _upstream(name: str, key_file: Path | None, settings: Settings) -> UpstreamSettings:
    """What is meant by one word; an upstream of the configuration before a service of that name."""
    known = {one.id: one for one in named_upstreams(settings)}
    upstream = known.get(name) or read_upstream(name)
    if upstream.kind == EMBEDDED:
        raise ConfigurationError("Our own engine has no limits of somebody else: see `deepserve doctor` for its speed.")
    return upstream if key_file is None else msgspec.structs.replace(upstream, key_file=key_file)


def _model_of(opening: Opening, wanted: str | None) -> str:
    models = opening.provider.models
    if wanted is None:
        return min(models, key=lambda model: "flash" not in model)
    if wanted not in models:
        raise ConfigurationError(f"{opening.upstream.id} has no {wanted}; it has {', '.join(models)}.")
    return wanted


def _show_step(step: Step) -> None:
    took = "" if step.median_s is None else f", half of them within {step.median_s:.2f} s"
    click.echo(f"{step.num_requests:>4} at once: {step.num_answered} answered, {step.num_refused} refused{took}")


def _show(learnt: LearntLimits, opening: Opening) -> None:
    click.echo(f"\nStopped because {learnt.stopped_by}.")
    if learnt.headers:
        click.echo("\nWhat it says of its limits:\n")
        click.echo(format_table(("header", "value"), sorted(learnt.headers.items())))
    most = learnt.most_at_once
    if not most:
        raise click.ClickException("Not one request was answered, so nothing is known of its limits.")
    if learnt.has_refused:
        wait = "" if learnt.retry_after_s is None else f"; it asks to wait for {learnt.retry_after_s:g} s then"
        click.echo(f"\nIt takes {most} at once, and refused some of {learnt.steps[-1].num_requests}{wait}.")
        click.echo(f"To stay below that, say max_concurrent = {most} for {opening.upstream.id} in [[upstreams]].")
    else:
        click.echo(f"\nIt takes {most} at once, and perhaps more: try --most {2 * most}.")
    click.echo(f"Used: {learnt.prompt_tokens:,} prompt tokens and {learnt.output_tokens:,} of answers.")


def _usd(amount: Decimal) -> str:
    return f"{amount:.6f} US dollars"
