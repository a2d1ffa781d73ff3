"""`deepserve tasks`: what is answered later."""

from __future__ import annotations

from datetime import datetime

import click

from deepserve.cli.settings import database_option, open_kept
from deepserve.cli.table import format_table
from deepserve.config import Settings


@click.group()
def tasks() -> None:
    """Show the tasks that are answered later, and what became of them. Contents are not shown."""


@tasks.command(name="list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@database_option
def list_tasks(limit: int, settings: Settings) -> None:
    """List tasks, the newest first."""
    from deepserve.store.tasks import TaskStore

    found = TaskStore(open_kept(settings)).newest(limit=limit)
    if not found:
        click.echo("There are no tasks.")
        return
    click.echo(
        format_table(
            ("task", "tenant", "kind", "status", "attempts", "accepted", "ended"),
            [
                (
                    task.id,
                    task.tenant.id,
                    task.kind,
                    task.status if task.error_code is None else f"{task.status}: {task.error_code}",
                    str(task.num_attempts),
                    show_time(task.created_at),
                    show_time(task.ended_at),
                )
                for task in found
            ],
        )
    )


@tasks.command()
@click.argument("task_id", metavar="TASK")
@database_option
def show(task_id: str, settings: Settings) -> None:
    """Show TASK with every attempt to deliver its results."""
    from deepserve.store.deliveries import DeliveryStore
    from deepserve.store.tasks import TaskStore

    database = open_kept(settings)
    found = TaskStore(database).named(task_id)
    if not found:
        raise click.ClickException(f"There is no task {task_id}. See: deepserve tasks list")
    deliveries = DeliveryStore(database)
    for task in found:
        size_bytes = 0 if task.result is None else len(task.result)
        facts = [
            ("task", task.id),
            ("tenant", task.tenant.id),
            ("kind", task.kind),
            ("status", task.status if task.error_code is None else f"{task.status}: {task.error_code}"),
            ("begun", f"{task.num_attempts} times, last at {show_time(task.started_at)}"),
            ("accepted", show_time(task.created_at)),
            ("ended", show_time(task.ended_at)),
            ("result", f"{size_bytes:,} bytes"),
        ]
        click.echo("\n".join(f"{name:<9} {value}" for name, value in facts))
        for delivery in deliveries.of_task(task.tenant.id, task.id):
            click.echo(f"\nwebhook {delivery.id} to {delivery.host}: {delivery.status}")
            attempts = deliveries.attempts(delivery.id)
            if attempts:
                click.echo(
                    format_table(
                        ("attempt", "at", "ms", "answer", "address"),
                        [
                            (
                                str(attempt.number),
                                show_time(attempt.started_at),
                                str(attempt.duration_ms),
                                attempt.error or str(attempt.status),
                                attempt.address or "",
                            )
                            for attempt in attempts
                        ],
                    )
                )
            if delivery.status == "pending":
                click.echo(f"next attempt: {show_time(delivery.next_attempt_at)}")


def show_time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}Z"
