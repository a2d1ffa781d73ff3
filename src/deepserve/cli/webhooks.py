"""`deepserve webhooks`: results that are posted to receivers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import click

from deepserve.cli.settings import database_option, open_kept
from deepserve.cli.table import format_table
from deepserve.cli.tasks import show_time
from deepserve.config import Settings
from deepserve.core.task import DeliveryStatus
from deepserve.core.tenant import TenantId
from deepserve.store.deliveries import DeliveryStore


@click.group()
def webhooks() -> None:
    """Show, repeat and stop webhook calls, and make the secrets that sign them."""


@webhooks.command(name="list")
@click.option("--status", type=click.Choice(get_args(DeliveryStatus)), help="Only these.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@database_option
def list_webhooks(status: DeliveryStatus | None, limit: int, settings: Settings) -> None:
    """List calls, the newest first. Addresses are shown without path and query, which may hold secrets."""
    found = DeliveryStore(open_kept(settings)).newest(status=status, limit=limit)
    if not found:
        click.echo("There are no webhook calls.")
        return
    click.echo(
        format_table(
            ("webhook", "task", "item", "to", "status", "attempts", "last answer", "next attempt"),
            [
                (
                    call.id,
                    call.task_id,
                    str(call.item),
                    call.host,
                    call.status,
                    str(call.num_attempts),
                    call.last_error or ("" if call.last_status is None else str(call.last_status)),
                    show_time(call.next_attempt_at) if call.status == "pending" else "",
                )
                for call in found
            ],
        )
    )


@webhooks.command()
@click.argument("webhook_id", metavar="WEBHOOK")
@database_option
def retry(webhook_id: str, settings: Settings) -> None:
    """Begin a WEBHOOK that was given up anew, with the same id. A running server takes it up within 15 seconds."""
    if not DeliveryStore(open_kept(settings)).retry(webhook_id, now=datetime.now(UTC)):
        raise click.ClickException(
            f"There is no webhook {webhook_id} that was given up. See: deepserve webhooks list --status failed"
        )
    click.echo("Tried again.")


@webhooks.command()
@click.argument("host", metavar="HOST:PORT")
@database_option
def disable(host: str, settings: Settings) -> None:
    """Stop what waits for a receiver, given as `list` prints it. Later tasks may call it again."""
    num_stopped = DeliveryStore(open_kept(settings)).disable(host, now=datetime.now(UTC))
    if not num_stopped:
        raise click.ClickException(f"Nothing waits for {host}. See: deepserve webhooks list --status pending")
    click.echo(f"Stopped {num_stopped} {'call' if num_stopped == 1 else 'calls'}.")


@webhooks.command()
@click.argument("tenant", default="local")
@click.option(
    "--secret-file",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `serve` was given.  [default: as configured]",
)
@database_option
def secret(tenant: str, secret_file: Path | None, settings: Settings) -> None:
    """Make a new secret that signs the calls for TENANT, as Standard Webhooks 1.0 says.

    It is shown once. The one before signs too for another 24 hours.
    """
    from deepserve.store.secret import derive_key, load_secret, open_shared_secret
    from deepserve.tasks.runner import KEY_FILE
    from deepserve.tasks.signing import WebhookSecrets

    assert settings.state_dir is not None
    database = open_kept(settings)
    shared = open_shared_secret(database, settings.state_dir, secret_file or settings.secret_file)
    key = load_secret(settings.state_dir / KEY_FILE) if shared is None else derive_key(shared, "webhooks")
    secrets = WebhookSecrets(DeliveryStore(database), key)
    click.echo(secrets.create(TenantId(tenant), now=datetime.now(UTC)))
