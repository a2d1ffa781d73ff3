"""`deepserve serve`: the main job."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from deepserve import __version__
from deepserve.backends.fleet.opening import keeps_turns, needs_engine
from deepserve.backends.selection import select_backend
from deepserve.cli.keys import open_key_store
from deepserve.cli.progress import LoadingProgress
from deepserve.cli.serve_options import serve_options
from deepserve.cli.setting_option import GroupedCommand
from deepserve.cli.settings import named_file
from deepserve.cli.table import format_table
from deepserve.config import Settings
from deepserve.configuration.configuration import load_configuration
from deepserve.core.errors import ConfigurationError
from deepserve.core.provider import ServedModel
from deepserve.engine.native.shared_library import HOW_TO_GET_IT, find_library
from deepserve.server.log_format import set_up_logging
from deepserve.server.reload import Source
from deepserve.server.run import bind_all
from deepserve.server.run import serve as run_server
from deepserve.server.workers import Supervisor, Worker
from deepserve.store.database import Database, open_configured
from deepserve.store.turns import TurnLimits, TurnStore
from deepserve.tools.opening import OpenedTools


@click.command(cls=GroupedCommand)
@serve_options
def serve(**options: Any) -> None:  # Any: the options, as click hands them over
    """Answer the DeepSeek V4 API on this machine.

    \b
    Clients:  base URL http://127.0.0.1:8000/v1, any API key
    Stop:     Ctrl-C; answers in flight are finished first
    """
    configuration = load_configuration(options, file=named_file())
    # From then on the file that was read: should it vanish, that is a fault, and does not mean every default.
    source = Source(configuration=configuration, load=partial(load_configuration, options, file=configuration.file))
    settings = configuration.settings
    set_up_logging(settings)
    for note in configuration.notes:
        click.echo(note, err=True)
    if _lacks_core(settings):
        notice = "Reference engine only, which is slow: the native core is not part of this installation."
        click.echo(f"{notice} {HOW_TO_GET_IT}\n", err=True)
    if settings.workers == 1:
        _answer(source)
        return
    if needs_engine(settings):
        raise ConfigurationError(
            f"{settings.workers} workers cannot share our own engine, which answers in one process with as many "
            "threads as --threads says. Several are for answers that come from elsewhere: name --upstream, or leave "
            "out --workers."
        )
    _answer_by_workers(source)


def _answer_by_workers(source: Source) -> None:
    settings = source.configuration.settings
    # What would stop every worker is found here, and tables are made once.
    database = open_configured(settings)
    try:
        has_keys = bool(settings.api_keys or open_key_store(database).has_any())
    finally:
        database.dispose()  # no connection is shared with workers
    listening = bind_all(settings, has_keys=has_keys)
    Supervisor(
        settings.workers, lambda worker: _answer(source, listening, worker), grace_s=settings.shutdown_grace_s
    ).run()


def _answer(source: Source, listening: Sequence[socket.socket] | None = None, worker: Worker | None = None) -> None:
    """Until told to stop, in this process. listening: bound already, by whom all workers come from."""
    configuration = source.configuration
    settings = configuration.settings
    database = open_configured(settings)
    keys = open_key_store(database)
    stored_keys = (keys,) if keys.has_any() else ()
    backend = select_backend(settings, LoadingProgress(), turns=_open_turns(settings, database))

    def announce(address: str, tools: OpenedTools) -> None:
        access = "keys required" if stored_keys or settings.api_keys else "any key works, from this machine only"
        if worker is None or worker.is_first:
            click.echo(_banner(address, backend.models(), tools.report(), access, configuration.file))
        if worker is not None:
            worker.tell()

    try:
        run_server(
            settings,
            backend,
            lookups=stored_keys,
            database=database,
            on_ready=announce,
            on_progress=lambda words: click.echo(words, err=True),
            source=source,
            listening=listening,
            worker=worker,
        )
    finally:
        database.dispose()


def _open_turns(settings: Settings, database: Database) -> TurnStore | None:
    if not keeps_turns(settings) or not settings.kept_turns_s:
        return None
    limits = TurnLimits(size_bytes=settings.kept_turns_bytes, age_s=settings.kept_turns_s)
    return TurnStore(database, limits=limits, now=lambda: datetime.now(UTC))


def _lacks_core(settings: Settings) -> bool:
    """Nobody asked for the reference engine, yet it is all there is."""
    return needs_engine(settings) and settings.engine == "auto" and find_library() is None


def _banner(
    address: str,
    models: tuple[ServedModel, ...],
    tools: Sequence[tuple[str, str]],
    access: str,
    file: Path | None,
) -> str:
    """What a person should know at start: where, who may, what really answers, which tools it can use, and why."""
    notes = dict.fromkeys(model.note for model in models if model.note)
    return "\n".join(
        [
            f"deepserve {__version__} at {address}/v1  ({access})",
            *(() if file is None else (f"Settings from {file}",)),
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
