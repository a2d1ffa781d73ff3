"""Options that several commands share, turned into Settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from deepserve.config import EngineName, InstructionSet, Settings, WeightFormat, WeightFormats, default_state_dir

Function = TypeVar("Function", bound=Callable[..., Any])  # Any: click passes a command's options by name

_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def model_options(function: Function) -> Function:
    """What answers: the back end, the model, and how the engine runs it."""
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
                "--engine",
                type=click.Choice(get_args(EngineName)),
                default="auto",
                show_default=True,
                help="native: the core in C++. reference: PyTorch, slower. auto: native where it is installed.",
            ),
            click.option(
                "--weights",
                metavar="FORMAT",
                callback=lambda _context, _parameter, value: None if value is None else parse_weights(value),
                help=(
                    f"How matrices are kept and multiplied: {', '.join(get_args(WeightFormat))}; for some only: "
                    "dense=int8,experts=fp4,head=bf16. auto, the default: as the checkpoint stores them."
                ),
            ),
            click.option(
                "--mapped",
                "is_mapped",
                is_flag=True,
                help="Use the checkpoint's files where they lie; for models that hardly fit into memory. Slower.",
            ),
            click.option(
                "--packed-dir",
                metavar="PATH",
                type=click.Path(path_type=Path, file_okay=False),
                help="Keep the weights here as the engine packs them, for faster starts; as large as the model.",
            ),
            click.option(
                "--isa",
                type=click.Choice(get_args(InstructionSet)),
                help="Instruction set to compute with; by default the best this machine has.",
            ),
            click.option(
                "--threads",
                "num_threads",
                type=click.IntRange(min=1),
                help="Compute threads; by default one, and more only for a model large enough to gain by it.",
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


def disk_cache_option(function: Function) -> Function:
    return click.option(
        "--disk-cache",
        "disk_cache_bytes",
        metavar="SIZE",
        callback=lambda _context, _parameter, value: _parse_disk_cache(value),
        help="Most that cached prefixes may take in the state directory; 0 keeps none. Default: 4g.",
    )(function)


def keep_turns_option(function: Function) -> Function:
    return click.option(
        "--keep-turns",
        "kept_turns_s",
        metavar="DAYS",
        type=click.FloatRange(min=0),
        callback=lambda _context, _parameter, value: None if value is None else value * 86_400,
        help="Keep turns with tools so long in the state directory, for clients that send no thinking traces back; "
        "0 keeps none. Default: 7.",
    )(function)


def keep_responses_option(function: Function) -> Function:
    return click.option(
        "--keep-responses",
        "kept_responses_s",
        metavar="DAYS",
        type=click.FloatRange(min=0),
        callback=lambda _context, _parameter, value: None if value is None else value * 86_400,
        help="Keep answers of the Responses API so long in the state directory, for clients that continue them and do "
        "not say store: false; 0 keeps none. Default: 30.",
    )(function)


def prices_option(function: Function) -> Function:
    return click.option(
        "--prices",
        "prices_file",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        envvar="DEEPSERVE_PRICES",
        help="Your own price table, which goes before the one that ships; a server reads it again when it changes.",
    )(function)


def _parse_disk_cache(text: str | None) -> int | None:
    if text is None or text.strip() == "0":
        return None if text is None else 0
    return parse_size(text)


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


def parse_weights(text: str) -> WeightFormats:
    """`int8` -> all matrices in int8; `dense=int8,experts=fp4` -> these two, the others as the checkpoint has them."""
    parts = WeightFormats.__struct_fields__
    formats: dict[str, str] = {}
    for entry in text.split(","):
        part, is_assigned, name = (word.strip() for word in entry.rpartition("="))
        if name not in get_args(WeightFormat) or (is_assigned and part not in parts):
            raise click.BadParameter(
                f"{entry!r} is neither a format ({', '.join(get_args(WeightFormat))}) nor PART=FORMAT "
                f"with one of the parts {', '.join(parts)}."
            )
        for named in (part,) if is_assigned else parts:
            if named in formats:
                raise click.BadParameter(f"{text!r} gives two formats for {named}.")
            formats[named] = name
    return msgspec.convert(formats, WeightFormats)


def settings_from(**options: Any) -> Settings:  # Any: the options as click hands them over, validated by their types
    """Build Settings from the options that were given; None leaves the default."""
    return Settings(**{name: value for name, value in options.items() if value is not None})
