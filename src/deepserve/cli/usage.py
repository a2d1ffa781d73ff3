"""`deepserve usage`: what has been answered."""

from __future__ import annotations

import click

from deepserve.cli.settings import database_option, open_kept
from deepserve.cli.table import format_table
from deepserve.config import Settings


@click.command()
@database_option
def usage(settings: Settings) -> None:
    """Show how many answers each model gave, and their tokens."""
    from deepserve.store.ledger_record import LedgerRecord

    sums = LedgerRecord(open_kept(settings)).sums(("model", "provider"))
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
