"""Options for answers that come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])  # Any: click passes a command's options by name


def upstream_options(function: Function) -> Function:
    """Who answers in place of the embedded model."""
    for option in reversed(
        (
            click.option(
                "--upstream",
                metavar="NAME|URL|KIND=URL",
                help="Pass questions on: deepseek, openrouter, deepinfra, …; or any address that speaks Chat "
                "Completions; or what stands there, as in deepserve=http://10.0.0.7:8000/v1.",
            ),
            click.option(
                "--upstream-key-file",
                metavar="FILE",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="Holds the upstream's key, in place of the environment (DEEPSEEK_API_KEY, OPENROUTER_API_KEY, …).",
            ),
            click.option(
                "--upstream-model",
                "upstream_models",
                metavar="ID=NAME",
                multiple=True,
                callback=lambda _context, _parameter, values: name_models(values) or None,
                help="The upstream's name for a model, as in deepseek-v4-flash=my-flash; only named ones are served. "
                "Repeatable.",
            ),
        )
    ):
        function = option(function)
    return function


def name_models(entries: Sequence[str]) -> dict[str, str]:
    """`deepseek-v4-flash=my-flash` -> our id and the upstream's name."""
    models: dict[str, str] = {}
    for entry in entries:
        model_id, _, name = (word.strip() for word in entry.partition("="))
        if not model_id or not name:
            raise click.BadParameter(f"{entry!r} is not ID=NAME; write for example deepseek-v4-flash=my-flash.")
        if model_id in models:
            raise click.BadParameter(f"{model_id} is named twice.")
        models[model_id] = name
    return models
