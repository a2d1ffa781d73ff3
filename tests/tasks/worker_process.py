"""A process that accepts tasks and works on them until it is killed. Run by test_killed.py and test_replicas.py.

Arguments: the state directory or a database's address, the receiver's host, `hold` or `go on`, how many tasks to
accept, what their ids begin with, and after how many seconds others take over from it.
With `spell` every letter of a result is an item that is announced by itself; with `spell 3` a task holds after three.
Prints one word when all tasks are accepted, then one for each task that begins, and one for each that holds.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from deepserve.config import TaskLimits
from deepserve.core.errors import DeepserveError
from deepserve.core.task import NewTask, TaskState
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.client import OutgoingClient
from deepserve.store.database import Place, open_database
from deepserve.tasks.performer import Announce, WebhookShape
from deepserve.tasks.retries import RetrySchedule
from deepserve.tasks.runner import TaskRunner
from deepserve.tasks.webhooks import WebhookLimits


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def letters(task: TaskState) -> dict[int, bytes]:
    return {number: bytes((letter,)) for number, letter in enumerate(task.result or b"")}


class Worker:
    """mode: the argument of that name, in words"""

    def __init__(self, mode: list[str]) -> None:
        self._num_told = int(mode[1]) if mode[0] == "spell" and len(mode) == 2 else 0
        self._holds = mode == ["hold"] or self._num_told > 0

    async def perform(self, task: TaskState, announce: Announce) -> bytes:
        say("begun")
        told = task.result or b""
        for end in range(len(told) + 1, self._num_told + 1):
            await announce(told + task.body.upper()[len(told) : end])
        if self._holds:
            say("holding")
            await asyncio.Event().wait()
        return told + task.body.upper()[len(told) :]

    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        return error.code.encode()


async def main(place: Place, host: str, mode: str, num_tasks: int, prefix: str, lease_s: float) -> None:
    client = OutgoingClient(AddressPolicy(allowed_hosts=frozenset((host,))), user_agent="deepserve-test")
    runner = TaskRunner(
        open_database(place),
        client,
        state_dir=place if isinstance(place, Path) else None,
        limits=TaskLimits(lease_s=lease_s),
        schedule=RetrySchedule(delays_s=(0.0,) * 8),
        webhook_limits=WebhookLimits(lease_s=lease_s, rescan_s=lease_s / 2),
    )
    webhooks = WebhookShape(bodies=letters) if mode.startswith("spell") else WebhookShape()
    runner.register("work", Worker(mode.split()), webhooks=webhooks)
    await runner.start()
    for number in range(num_tasks):
        await runner.submit(
            NewTask(
                id=f"{prefix}{number}",
                kind="work",
                tenant=LOCAL_TENANT,
                body=f"task {prefix}{number}".encode(),
                arrived_at=datetime.now(UTC),
                keep_s=3600,
                webhook_url=f"http://{host}/",
            )
        )
    say("accepted")
    await asyncio.Event().wait()


if __name__ == "__main__":
    where, receiver, mode, num_tasks, prefix, lease_s = sys.argv[1:]
    place: Place = where if where.startswith("postgresql://") else Path(where)
    asyncio.run(main(place, receiver, mode, int(num_tasks), prefix, float(lease_s)))
