"""`deepserve keys`: who may use this server."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

import click

from deepserve.cli.settings import state_option
from deepserve.core.tenant import TenantId
from deepserve.store.database import Database, open_database
from deepserve.store.keys import KeyStore


@click.group()
def keys() -> None:
    """Create, list and revoke API keys.

    Without any key, everybody on this machine may use the server, and it listens on loopback only.
    """


@keys.command()
@click.argument("tenant", default="default")
@state_option
def create(tenant: str, state_dir: Path) -> None:
    """Make a key for TENANT. It is shown once and stored as a digest."""
    click.echo(open_keys(state_dir).create(TenantId(tenant)))
    click.echo(
        "Keep it: it cannot be shown again. A running server that had no keys asks for them after a restart.", err=True
    )


@keys.command(name="list")
@state_option
def list_keys(state_dir: Path) -> None:
    """List keys by their first characters."""
    rows = open_keys(state_dir).list()
    if not rows:
        click.echo("No keys. Create one with: deepserve keys create")
    for row in rows:
        status = "revoked" if row.is_revoked else "valid"
        click.echo(f"{row.shown}…  {row.tenant:<16} {row.created_at:%Y-%m-%d %H:%M}  {status}")


@keys.command()
@click.argument("key")
@state_option
def revoke(key: str, state_dir: Path) -> None:
    """Revoke KEY: the whole key, or its first characters as `list` prints them."""
    match open_keys(state_dir).revoke(key.rstrip("…")):
        case 0:
            raise click.ClickException(f"No valid key begins with {key[:12]}. See: deepserve keys list")
        case 1:
            click.echo("Revoked.")
        case several:
            raise click.ClickException(f"{several} valid keys begin with {key}; give more of it. Nothing was revoked.")


def open_keys(state_dir: Path) -> KeyStore:
    return open_key_store(open_database(state_dir))


def open_key_store(database: Database) -> KeyStore:
    return KeyStore(database, random_hex=secrets.token_hex, now=lambda: datetime.now(UTC))
