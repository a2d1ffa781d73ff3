"""`deepserve usage`: what has been answered."""

from __future__ import annotations

from pathlib import Path

import click

from deepserve.cli.settings import state_option
from deepserve.cli.table import format_table


@click.command()
@state_option
def usage(state_dir: Path) -> None:
    """Show how many answers each model gave, and their tokens."""
    from deepserve.store.answers import read_totals
    from deepserve.store.database import open_database

    totals = read_totals(open_database(state_dir))
    if not totals:
        click.echo("Nothing has been answered yet.")
        return
    click.echo(
        format_table(
            ("model", "served by", "answers", "hit", "miss", "hit ratio", "reasoning", "answer"),
            [
                (
                    row.model,
                    row.served_by,
                    f"{row.num_answers:,}",
                    f"{row.usage.hit_tokens:,}",
                    f"{row.usage.miss_tokens:,}",
                    f"{row.usage.hit_tokens / max(1, row.usage.prompt_tokens):.0%}",
                    f"{row.usage.reasoning_tokens:,}",
                    f"{row.usage.answer_tokens:,}",
                )
                for row in totals
            ],
        )
    )
