"""Tasks whose clients wait for them: which ids are taken, and what came of them, in memory and bounded.

A task that somebody waits for need not outlive the process: nobody was told that it was accepted. Those that are
accepted first and answered later are in `deepserve.tasks`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from deepserve.core.messages import Json
from deepserve.core.tenant import TenantId
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.wire import WireEnded, encode

JobKey = tuple[TenantId, str]


class Job(msgspec.Struct):
    """ended: None while it runs, and for streams, whose answers are not kept."""

    key: JobKey
    source: Json
    num_results: int
    ended: WireEnded | None = None
    ended_at: float | None = None
    num_bytes: int = 0


class JobMemory:
    """Forgets the oldest ended jobs first; running ones never. clock: monotonic seconds."""

    def __init__(self, *, max_jobs: int, max_bytes: int, keep_s: float, clock: Callable[[], float]) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._jobs: dict[JobKey, Job] = {}
        self._ended: OrderedDict[JobKey, Job] = OrderedDict()
        self._num_bytes = 0

    def reserve(self, key: JobKey, source: Json, num_results: int) -> Job:
        """Take an id. Raises TaskRefused when it is taken."""
        self._purge()
        if key in self._jobs:
            raise conflict()
        job = self._jobs[key] = Job(key=key, source=source, num_results=num_results)
        return job

    def release(self, job: Job) -> None:
        """Nothing was begun: the id is free again."""
        self._jobs.pop(job.key, None)

    def finish(self, job: Job, ended: WireEnded | None) -> None:
        job.ended, job.ended_at = ended, self._clock()
        job.num_bytes = len(encode((ended, job.source)))
        self._num_bytes += job.num_bytes
        self._ended[job.key] = job
        self._purge()

    def find(self, key: JobKey) -> Job | None:
        self._purge()
        return self._jobs.get(key)

    def _purge(self) -> None:
        oldest = self._clock() - self._keep_s
        while self._ended:
            key, job = next(iter(self._ended.items()))
            is_over = job.ended_at is not None and job.ended_at < oldest
            if not is_over and len(self._ended) <= self._max_jobs and self._num_bytes <= self._max_bytes:
                return
            del self._ended[key], self._jobs[key]
            self._num_bytes -= job.num_bytes


def conflict() -> TaskRefused:
    return TaskRefused(
        "conflictTaskUUID",
        "This taskUUID was used before. Ask for the result of that task with `getResponse`, or send a new UUID.",
        parameter="taskUUID",
    )
