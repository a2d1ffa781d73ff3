"""`deepserve models`: the ids clients may ask for, and the truth behind them."""

from __future__ import annotations

from typing import Any

import click

from deepserve.backends.selection import select_backend
from deepserve.cli.settings import model_options, passing_settings_from
from deepserve.cli.table import format_table


@click.command()
@model_options
def models(**options: Any) -> None:  # Any: the shared options, as click hands them over
    """List the model ids that are served, and what really answers each."""
    served = select_backend(passing_settings_from(**options)).models()
    click.echo(
        format_table(
            ("id", "answered by", "context", "longest answer"),
            [
                (model.id, model.served_by.label, f"{model.context_tokens:,}", f"{model.max_output_tokens:,}")
                for model in served
            ],
        )
    )
    for note in dict.fromkeys(model.note for model in served if model.note):
        click.echo(f"\n{note}")
