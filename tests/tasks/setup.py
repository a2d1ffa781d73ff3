"""A runner over a scripted performer, with time in the test's hands, and a receiver of webhooks on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deepserve.core.errors import DeepserveError
from deepserve.core.task import NewTask, TaskState
from deepserve.core.tenant import Tenant, TenantId
from deepserve.outgoing.addresses import AddressPolicy, parse_allowances
from deepserve.outgoing.client import OutgoingClient
from deepserve.store.database import Database, open_database, open_memory_database
from deepserve.tasks.performer import Announce, WebhookShape
from deepserve.tasks.retries import RetrySchedule
from deepserve.tasks.runner import TaskRunner

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
ALICE = Tenant(id=TenantId("alice"), name="Alice")
BOB = Tenant(id=TenantId("bob"), name="Bob")
PATIENCE_S = 10.0
AT_ONCE = RetrySchedule(delays_s=(0.0,) * 8, jitter_ratio=0.0)


def letters(task: TaskState) -> dict[int, bytes]:
    """One call for each letter of the result."""
    return {number: bytes((letter,)) for number, letter in enumerate(task.result or b"")}


LETTERS = WebhookShape(bodies=letters)


makers: list[Callable[[], Database]] = [open_memory_database]
"""The last one makes what `fresh_database` gives."""


def fresh_database() -> Database:
    """Without rows, in memory or wherever the test is run just now."""
    return makers[-1]()


class Clock:
    """The wall clock, which moves only when a test says so."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        return self.time

    def pass_s(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Scripted:
    """Answers with the body in capitals; what a body means otherwise is in `perform`."""

    def __init__(self) -> None:
        self.performed: list[str] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.errors: list[Exception] = []

    async def perform(self, task: TaskState, announce: Announce) -> bytes:
        self.performed.append(task.id)
        self.begun.set()
        if task.body == b"wait":
            await self.go_on.wait()
        if self.errors:
            raise self.errors.pop(0)
        return task.body.upper()

    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        return f"failed: {error.code}: {error.message}".encode()


def new_task(task_id: str = "one", body: bytes = b"hello", **fields: Any) -> NewTask:  # Any: fields of NewTask
    given: dict[str, Any] = {"kind": "scripted", "tenant": ALICE, "arrived_at": NOON, "keep_s": 3600.0, **fields}
    return NewTask(id=task_id, body=body, **given)


@contextlib.asynccontextmanager
async def running(
    performer: Scripted | None = None,
    *,
    database: Database | None = None,
    state_dir: Path | None = None,
    clock: Clock | None = None,
    allowed: tuple[str, ...] = (),
    webhooks: WebhookShape = WebhookShape(),  # noqa: B008 - frozen
    client: OutgoingClient | None = None,
    **fields: Any,  # Any: further arguments of TaskRunner
) -> AsyncIterator[TaskRunner]:
    """A started runner; closed at the end of the block."""
    runner = make_runner(
        performer or Scripted(),
        database=database,
        state_dir=state_dir,
        clock=clock,
        allowed=allowed,
        webhooks=webhooks,
        client=client,
        **fields,
    )
    await runner.start()
    try:
        yield runner
    finally:
        await runner.close()


def make_runner(
    performer: Scripted,
    *,
    database: Database | None = None,
    state_dir: Path | None = None,
    clock: Clock | None = None,
    allowed: tuple[str, ...] = (),
    webhooks: WebhookShape = WebhookShape(),  # noqa: B008 - frozen
    client: OutgoingClient | None = None,
    **fields: Any,  # Any: further arguments of TaskRunner
) -> TaskRunner:
    if database is None:
        database = fresh_database() if state_dir is None else open_database(state_dir)
    hosts, networks = parse_allowances(allowed)
    policy = AddressPolicy(allowed_hosts=hosts, allowed_networks=networks)
    numbers = itertools.count(1)
    runner = TaskRunner(
        database,
        client or OutgoingClient(policy, user_agent="deepserve-test"),
        **{
            "state_dir": state_dir,
            "now": (clock or Clock()).now,
            "schedule": AT_ONCE,
            "new_hex": lambda size: f"{next(numbers):0{2 * size}x}",
            **fields,
        },
    )
    runner.register("scripted", performer, webhooks=webhooks)
    return runner


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def ended(runner: TaskRunner, task_id: str = "one", tenant: Tenant = ALICE) -> TaskState:
    async with asyncio.timeout(PATIENCE_S):
        state = await runner.wait(tenant.id, task_id)
    assert state is not None
    return state
