"""`deepserve serve`: the main job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click

from deepserve import __version__
from deepserve.backends.selection import select_backend
from deepserve.cli.keys import open_key_store
from deepserve.cli.progress import LoadingProgress
from deepserve.cli.settings import (
    disk_cache_option,
    keep_responses_option,
    keep_turns_option,
    model_options,
    prices_option,
    settings_from,
    state_option,
)
from deepserve.cli.table import format_table
from deepserve.cli.tool_options import tool_options
from deepserve.cli.upstream_options import upstream_options
from deepserve.config import CheckPolicy, EstimatorName, Settings
from deepserve.core.provider import ServedModel
from deepserve.engine.native.shared_library import HOW_TO_GET_IT, find_library
from deepserve.server.run import serve as run_server
from deepserve.store.answers import AnswerLog
from deepserve.store.database import Database, open_database
from deepserve.store.turns import TurnLimits, TurnStore
from deepserve.store.writer import Writer
from deepserve.tools.opening import OpenedTools


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; others than loopback need keys."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 picks a free one.")
@click.option(
    "--runware-port",
    type=click.IntRange(1, 65535),
    help="Listen here too. Runware's Python SDK streams to no other local address than http://localhost:8080.",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    envvar="DEEPSERVE_API_KEYS",
    help="A key clients must send; may be repeated. Better kept in DEEPSERVE_API_KEYS or made by `deepserve keys`.",
)
@model_options
@upstream_options
@state_option
@disk_cache_option
@keep_turns_option
@keep_responses_option
@click.option(
    "--max-concurrency",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Answers computed side by side; more wait their turn.",
)
@click.option(
    "--allow-webhooks-to",
    "outgoing_allowed",
    metavar="ADDRESS",
    multiple=True,
    help="Let webhooks reach an address that is not public: host:port or a network such as 10.1.0.0/16. Repeatable.",
)
@click.option("--webhooks-over-http", "outgoing_http", is_flag=True, help="Take webhook addresses without TLS too.")
@tool_options
@prices_option
@click.option(
    "--check-answers",
    "answer_checks",
    type=click.Choice(get_args(CheckPolicy)),
    help="What to do about answers whose form the back end does not enforce. The embedded engine enforces it itself.",
)
@click.option(
    "--check-retries",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="How often an answer that misses its form may be asked for again.",
)
@click.option(
    "--difficulty",
    type=click.Choice(get_args(EstimatorName)),
    default="signs",
    show_default=True,
    help="How deepseek-v4-auto tells hard requests: by signs in the question, or by asking the model, which costs.",
)
@click.option("--strict", "is_strict", is_flag=True, help="Reproduce every refusal of the vendor's API.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
)
def serve(state_dir: Path, log_level: str, **options: Any) -> None:  # Any: the options, as click hands them over
    """Answer the DeepSeek V4 API on this machine.

    \b
    Clients:  base URL http://127.0.0.1:8000/v1, any API key
    Stop:     Ctrl-C; answers in flight are finished first
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if options["upstream"] is not None:
        if click.get_current_context().get_parameter_source("backend") is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError("--upstream and --backend both say who answers: leave one out.")
        options["backend"] = "upstream"
    elif options["upstream_models"] or options["upstream_key_file"]:
        raise click.UsageError("--upstream-model and --upstream-key-file say something about --upstream: name it.")
    settings = settings_from(state_dir=state_dir, **options)
    database = open_database(state_dir)
    keys = open_key_store(database)
    stored_keys = (keys,) if keys.has_any() else ()
    backend = select_backend(settings, LoadingProgress(), turns=_open_turns(settings, database))
    writer = Writer(database)

    if _lacks_core(settings):
        notice = "Reference engine only, which is slow: the native core is not part of this installation."
        click.echo(f"{notice} {HOW_TO_GET_IT}\n", err=True)

    def announce(address: str, tools: OpenedTools) -> None:
        access = "keys required" if stored_keys or settings.api_keys else "any key works, from this machine only"
        click.echo(_banner(address, backend.models(), tools.report(), access))

    try:
        run_server(
            settings,
            backend,
            lookups=stored_keys,
            observers=(AnswerLog(writer),),
            database=database,
            on_ready=announce,
            on_progress=lambda words: click.echo(words, err=True),
        )
    finally:
        writer.close()


def _open_turns(settings: Settings, database: Database) -> TurnStore | None:
    if settings.backend != "embedded" or not settings.kept_turns_s:
        return None
    limits = TurnLimits(size_bytes=settings.kept_turns_bytes, age_s=settings.kept_turns_s)
    return TurnStore(database, limits=limits, now=lambda: datetime.now(UTC))


def _lacks_core(settings: Settings) -> bool:
    """Nobody asked for the reference engine, yet it is all there is."""
    return settings.backend == "embedded" and settings.engine == "auto" and find_library() is None


def _banner(address: str, models: tuple[ServedModel, ...], tools: Sequence[tuple[str, str]], access: str) -> str:
    """What a person should know at start: where, who may, what really answers, and which tools it can use."""
    notes = dict.fromkeys(model.note for model in models if model.note)
    return "\n".join(
        [
            f"deepserve {__version__} at {address}/v1  ({access})",
            "",
            format_table(
                ("model", "answered by", "context"),
                [(model.id, model.served_by.label, f"{model.context_tokens:,}") for model in models],
            ),
            "",
            *((format_table(("tool", "run by the server"), tools), "") if tools else ()),
            *(f"{note}\n" for note in notes),
            f"Try: curl {address}/v1/chat/completions -H 'Content-Type: application/json' \\",
            f'       -d \'{{"model": "{models[0].id}", "messages": [{{"role": "user", "content": "Hello!"}}]}}\'',
        ]
    )
