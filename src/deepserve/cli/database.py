"""`deepserve database`: where a server keeps what must survive."""

from __future__ import annotations

import click

from deepserve.cli.settings import database_option, open_kept
from deepserve.config import Settings


@click.group()
def database() -> None:
    """Look at the database of a server, and let its servers agree on a new secret."""


@database.command()
@database_option
def status(settings: Settings) -> None:
    """Say where the database is and what it holds. Brings its tables to the newest form."""
    from deepserve.store.agreements import FINGERPRINT, agreed
    from deepserve.store.database import HEAD, count_rows, is_shared, show_place

    opened = open_kept(settings)
    facts = [
        ("database", show_place(settings)),
        ("kind", "PostgreSQL, for several servers" if is_shared(opened) else "SQLite, for this machine"),
        ("form", HEAD),
        *((name.replace("_", " "), f"{count:,} rows") for name, count in count_rows(opened)),
    ]
    if is_shared(opened):
        facts.append(
            ("secret", "agreed on" if agreed(opened, FINGERPRINT) else "the next server that starts brings it")
        )
    width = max(len(name) for name, _ in facts)
    click.echo("\n".join(f"{name:<{width}}  {value}" for name, value in facts))


@database.command(name="forget-secret")
@database_option
def forget_secret(settings: Settings) -> None:
    """Let the next server that starts bring a new secret, because the one that all had is lost.

    Stop all servers first. Traces that clients keep sealed cannot be opened any more, and receivers of webhooks need
    new secrets (`deepserve webhooks secret`).
    """
    from deepserve.store.agreements import FINGERPRINT, forget

    opened = open_kept(settings)
    was_known = forget(opened, FINGERPRINT)
    if not was_known:
        raise click.ClickException("No server has brought a secret to this database.")
    click.echo("Forgotten.")
