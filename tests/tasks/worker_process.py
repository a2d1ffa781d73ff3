"""A process that accepts tasks and works on them until it is killed. Run by test_killed.py.

Arguments: the state directory, the receiver's host, `hold` or `go on`, and how many tasks to accept.
Prints one word when all tasks are accepted, then one for each task that begins.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from deepserve.core.errors import DeepserveError
from deepserve.core.task import NewTask, TaskState
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.client import OutgoingClient
from deepserve.store.database import open_database
from deepserve.tasks.retries import RetrySchedule
from deepserve.tasks.runner import TaskRunner


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class Worker:
    def __init__(self, *, holds: bool) -> None:
        self._holds = holds

    async def perform(self, task: TaskState) -> bytes:
        say("begun")
        if self._holds:
            await asyncio.Event().wait()
        return task.body.upper()

    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        return error.code.encode()


async def main(state_dir: Path, host: str, mode: str, num_tasks: int) -> None:
    client = OutgoingClient(AddressPolicy(allowed_hosts=frozenset((host,))), user_agent="deepserve-test")
    runner = TaskRunner(
        open_database(state_dir), client, state_dir=state_dir, schedule=RetrySchedule(delays_s=(0.0,) * 8)
    )
    runner.register("work", Worker(holds=mode == "hold"))
    await runner.start()
    for number in range(num_tasks):
        await runner.submit(
            NewTask(
                id=str(number),
                kind="work",
                tenant=LOCAL_TENANT,
                body=f"task {number}".encode(),
                arrived_at=datetime.now(UTC),
                keep_s=3600,
                webhook_url=f"http://{host}/",
            )
        )
    say("accepted")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
