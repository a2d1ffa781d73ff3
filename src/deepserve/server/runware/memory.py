"""Tasks whose clients wait for them: which ids are taken, and what came of them, in memory and bounded.

A task that somebody waits for need not outlive the process: nobody was told that it was accepted. Those that are
accepted first and answered later are in `deepserve.tasks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from deepserve.core.errors import TooManyRequests
from deepserve.core.messages import Json
from deepserve.core.tenant import TenantId
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.wire import WireEnded, WireItem, encode
from deepserve.server.shared_shelf import SharedShelf

JobKey = tuple[TenantId, str]

_RETRY_S = 5.0


class Job(msgspec.Struct):
    """ended: None while it runs, and for streams, whose answers are not kept. ready: its items that were told."""

    key: JobKey
    source: Json
    num_results: int
    ready: Sequence[WireItem] = ()
    ended: WireEnded | None = None
    ended_at: float | None = None


class JobMemory:
    """Keeps ended jobs within bounds that all tenants share; running ones always.

    max_running  of one tenant, whether their clients still wait or not
    clock        monotonic seconds
    """

    def __init__(
        self, *, max_running: int, max_jobs: int, max_bytes: int, keep_s: float, clock: Callable[[], float]
    ) -> None:
        self.max_running = max_running
        self._clock = clock
        self._running: dict[JobKey, Job] = {}
        self._num_running: Counter[TenantId] = Counter()
        self._ended: SharedShelf[Job] = SharedShelf(
            max_entries=max_jobs, max_bytes=max_bytes, keep_s=keep_s, clock=clock
        )

    def reserve(self, key: JobKey, source: Json, num_results: int) -> Job:
        """Take an id. Raises TaskRefused when it is taken, TooManyRequests when the tenant has too many running."""
        if self.find(key) is not None:
            raise conflict()
        if self._num_running[key[0]] >= self.max_running:
            raise TooManyRequests(
                f"For this account {self.max_running} tasks may run at a time. Try again when some have ended.",
                retry_after_s=_RETRY_S,
            )
        job = self._running[key] = Job(key=key, source=source, num_results=num_results)
        self._num_running[key[0]] += 1
        return job

    def release(self, job: Job) -> None:
        """Nothing was begun: the id is free again."""
        self._leave(job)

    def finish(self, job: Job, ended: WireEnded | None) -> None:
        job.ended, job.ended_at = ended, self._clock()
        self._leave(job)
        self._ended.put(*job.key, job, size_bytes=len(encode((ended, job.source))))

    def find(self, key: JobKey) -> Job | None:
        return self._running.get(key) or self._ended.find(*key)

    def _leave(self, job: Job) -> None:
        tenant = job.key[0]
        if self._running.pop(job.key, None) is not None:
            self._num_running[tenant] -= 1
            if not self._num_running[tenant]:
                del self._num_running[tenant]


def conflict() -> TaskRefused:
    return TaskRefused(
        "conflictTaskUUID",
        "This taskUUID was used before. Ask for the result of that task with `getResponse`, or send a new UUID.",
        parameter="taskUUID",
    )
