"""Options that several commands share, turned into Settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from deepserve.config import Settings, default_state_dir

Function = TypeVar("Function", bound=Callable[..., Any])  # Any: click passes a command's options by name

_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def model_options(function: Function) -> Function:
    """What answers: --backend, --model, --profile, --script, --cache-memory, --threads."""
    for option in reversed(
        (
            click.option(
                "--backend",
                type=click.Choice(["embedded", "scripted"]),
                default="embedded",
                show_default=True,
                help="embedded: our V4 engine. scripted: a deterministic fake for testing clients.",
            ),
            click.option(
                "--model",
                "model_path",
                metavar="PATH",
                type=click.Path(path_type=Path, exists=True, file_okay=False),
                help="A DeepSeek V4 checkpoint folder; by default the small model that ships.",
            ),
            click.option(
                "--profile",
                type=click.Choice(["0731", "preview", "mini"]),
                help="Prompt format of the checkpoint, where its name does not tell.",
            ),
            click.option(
                "--script",
                "script_path",
                metavar="FILE",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="What the scripted backend answers.",
            ),
            click.option(
                "--cache-memory",
                "cache_bytes",
                metavar="SIZE",
                default="1g",
                show_default=True,
                callback=lambda _context, _parameter, value: parse_size(value),
                help="Memory for sequences and cached prefixes, e.g. 512m or 8g.",
            ),
            click.option(
                "--threads",
                "num_threads",
                type=click.IntRange(min=1),
                default=1,
                show_default=True,
                help="Compute threads; more than one rarely helps a small model.",
            ),
        )
    ):
        function = option(function)
    return function


def state_option(function: Function) -> Function:
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="DEEPSERVE_STATE_DIR",
        default=default_state_dir,
        show_default=str(default_state_dir()),
        help="Where keys and records are kept.",
    )(function)


def parse_size(text: str) -> int:
    """`512m` -> bytes; units k, m, g, t of 1024, with or without b."""
    number, unit = text.strip().lower().removesuffix("ib").removesuffix("b"), ""
    if number and number[-1] in _SIZE_UNITS:
        number, unit = number[:-1], number[-1]
    try:
        size = int(float(number) * _SIZE_UNITS[unit])
    except ValueError:
        size = 0
    if size <= 0:
        raise click.BadParameter(f"{text!r} is not a size; write for example 512m or 8g.")
    return size


def settings_from(**options: Any) -> Settings:  # Any: the options as click hands them over, validated by their types
    """Build Settings from the options that were given; None leaves the default."""
    return Settings(**{name: value for name, value in options.items() if value is not None})
