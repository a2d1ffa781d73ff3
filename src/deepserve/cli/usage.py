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
    from deepserve.store.database import open_database
    from deepserve.store.ledger_record import LedgerRecord

    sums = LedgerRecord(open_database(state_dir)).sums(("model", "provider"))
    if not sums:
        click.echo("Nothing has been answered yet.")
        return
    click.echo(
        format_table(
            ("model", "served by", "answers", "hit", "miss", "hit ratio", "reasoning", "answer"),
            [
                (
                    *one.group,
                    f"{one.num_requests:,}",
                    f"{one.usage.hit_tokens:,}",
                    f"{one.usage.miss_tokens:,}",
                    f"{one.usage.hit_tokens / max(1, one.usage.prompt_tokens):.0%}",
                    f"{one.usage.reasoning_tokens:,}",
                    f"{one.usage.answer_tokens:,}",
                )
                for one in sums
            ],
        )
    )
