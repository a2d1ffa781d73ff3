"""`deepserve launch`: the command that starts a cluster, printed or run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from deepserve.catalog.launch import (
    Draft,
    EngineId,
    LaunchBook,
    LaunchCommand,
    LaunchWish,
    ModelWord,
    Strategy,
    launch_command,
    load_launch_book,
)
from deepserve.cli.table import format_table
from deepserve.core.errors import ConfigurationError


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("engine", required=False, type=click.Choice(get_args(EngineId)))
@click.option("--model", type=click.Choice(get_args(ModelWord)), default="flash", show_default=True)
@click.option("--gpus", metavar="NxNAME", help="How many of which cards, such as 8xH200 or 4xGB200.")
@click.option(
    "--release", help="preview, 0731 (Flash), 0813 (Pro) or dspark; by default what the engine's makers show."
)
@click.option("--engine-version", "version", metavar="N.N", help="Of the engine you have; by default the newest.")
@click.option(
    "--parallel",
    "strategy",
    type=click.Choice(get_args(Strategy)),
    help="tp: tensors; tep: tensors and experts; dep: data and experts; throughput: SGLang's for batches.",
)
@click.option(
    "--draft", type=click.Choice(get_args(Draft)), default="none", show_default=True, help="Draft tokens ahead."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the cluster listens.")
@click.option("--port", type=click.IntRange(1, 65_535), help="By default the engine's own.")
@click.option("--head", default="<first-machine>", help="Of several machines, the first one's address.")
@click.option("--rank", type=click.IntRange(min=0), default=0, help="Of several machines, which this is, from 0 on.")
@click.option("--gguf", metavar="FILE", help="The model's file, for llama.cpp.")
@click.option("--context", type=click.IntRange(min=1024), default=131_072, help="Tokens of context, for llama.cpp.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where NIM keeps weights. Default: ~/.cache/nim.")
@click.option("--list", "lists", is_flag=True, help="Show the combinations that somebody runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the command as JSON.")
@click.option("--run", "runs", is_flag=True, help="Run the command in place of printing it.")
@click.argument("extra", nargs=-1, type=click.UNPROCESSED)
def launch(engine: EngineId | None, *, lists: bool, as_json: bool, runs: bool, **options: Any) -> None:
    """Print or run the command that starts a cluster with DeepSeek V4.

    \b
      deepserve launch vllm --model flash --gpus 4xH200
      deepserve launch sglang --model pro --gpus 8xB200 --draft mtp --run
      deepserve launch --list

    What follows -- is added to the command as it is.
    """
    # Any: the options, as click hands them over
    book = load_launch_book()
    if lists:
        click.echo(_list(book, engine))
        return
    if engine is None:
        raise click.UsageError(f"Name what to start: {', '.join(get_args(EngineId))}; or see --list.")
    command = launch_command(_wish(engine, **options), book)
    if runs:
        _run(command, next(row.install for row in book.engine if row.id == engine))
    elif as_json:
        click.echo(json.dumps({"args": command.args, "env": dict(command.env)}, ensure_ascii=False))
    else:
        click.echo(_shown(command))


def _wish(engine: EngineId, *, gpus: str | None, cache: Path | None, **options: Any) -> LaunchWish:  # Any: as above
    if gpus is None:
        if engine != "llamacpp":
            raise click.UsageError("Say which cards there are: --gpus 8xH200, for example.")
        gpus = "1xlocal"
    return LaunchWish(engine=engine, gpus=gpus, cache=str(cache or Path.home() / ".cache" / "nim"), **options)


def _list(book: LaunchBook, engine: EngineId | None) -> str:
    rows = [
        (row.engine, row.model, ", ".join(row.gpus), ", ".join(row.strategies), row.note, row.source)
        for row in book.known
        if engine in (None, row.engine)
    ]
    return format_table(("engine", "model", "cards", "--parallel", "", "who says so"), rows)


def _shown(command: LaunchCommand) -> str:
    """For a shell, an option on each line; then what to know and what comes next."""
    assigned = "".join(f"{name}={shlex.quote(value)} " for name, value in command.env.items())
    lines: list[str] = []
    for argument in command.args:
        if argument.startswith("-") and lines:
            lines.append(argument if argument.isascii() else shlex.quote(argument))
        elif lines:
            lines[-1] += f" {shlex.quote(argument)}"
        else:
            lines.append(shlex.quote(argument))
    notes = "".join(f"# {note}\n" for note in command.notes)
    sources = "".join(f"# {source}\n" for source in command.sources)
    return (
        f"{notes}{assigned}" + " \\\n    ".join(lines) + f"\n\n# From:\n{sources}"
        f"# Then: deepserve serve --upstream {command.address} --upstream-tokenizer FOLDER-WITH-TOKENIZER"
    )


def _run(command: LaunchCommand, install: str, environment: Mapping[str, str] | None = None) -> None:
    """Become that program: signals and its end are its own."""
    environment = {**(os.environ if environment is None else environment), **command.env}
    program = shutil.which(command.args[0], path=environment.get("PATH"))
    if program is None:
        raise ConfigurationError(f"{command.args[0]} is not installed here: {install}.")
    click.echo(shlex.join(command.args), err=True)
    os.execve(program, list(command.args), environment)  # noqa: S606 - the command that was asked for, without a shell
