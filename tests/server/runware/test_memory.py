"""Which ids are taken, and what is kept of tasks whose clients waited."""

from __future__ import annotations

import pytest

from deepserve.core.errors import TooManyRequests
from deepserve.core.tenant import TenantId
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.wire import WireEnded
from deepserve.server.runware.memory import JobKey, JobMemory

ENDED = WireEnded()


def key(name: str, tenant: str = "t") -> JobKey:
    return (TenantId(tenant), name)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def memory(
    clock: Clock | None = None, *, max_running: int = 10, max_jobs: int = 2, max_bytes: int = 10_000
) -> JobMemory:
    return JobMemory(max_running=max_running, max_jobs=max_jobs, max_bytes=max_bytes, keep_s=60, clock=clock or Clock())


def end(jobs: JobMemory, name: str, tenant: str = "t") -> None:
    jobs.finish(jobs.reserve(key(name, tenant), {"x": 1}, 1), ENDED)


def test_an_id_is_taken_until_it_is_released() -> None:
    jobs = memory()
    job = jobs.reserve(key("a"), {}, 1)
    with pytest.raises(TaskRefused, match="used before"):
        jobs.reserve(key("a"), {}, 1)
    jobs.release(job)
    jobs.reserve(key("a"), {}, 1)


def test_ended_tasks_are_forgotten_by_age() -> None:
    clock = Clock()
    jobs = memory(clock)
    end(jobs, "a")
    clock.now = 59
    assert jobs.find(key("a")) is not None
    clock.now = 60
    assert jobs.find(key("a")) is None


def test_ended_tasks_are_forgotten_by_number_and_by_size_and_running_ones_never() -> None:
    jobs = memory()
    running = jobs.reserve(key("running"), {}, 1)
    for name in ("a", "b", "c"):
        end(jobs, name)
    assert [jobs.find(key(name)) is not None for name in ("running", "a", "b", "c")] == [True, False, True, True]
    small = memory(max_bytes=20)
    for name in ("a", "b"):
        end(small, name)
    assert small.find(key("a")) is None
    assert jobs.find(key("running")) is running


def test_one_tenant_does_not_push_out_what_another_keeps() -> None:
    jobs = memory()
    end(jobs, "a", "quiet")
    for name in ("a", "b", "c"):
        end(jobs, name, "busy")
    assert jobs.find(key("a", "quiet")) is not None
    assert [jobs.find(key(name, "busy")) is not None for name in ("a", "b", "c")] == [False, False, True]


def test_running_tasks_of_one_tenant_are_bounded() -> None:
    """Whoever sent tasks and left could have any number of them computed."""
    jobs = memory(max_running=2)
    first = jobs.reserve(key("a"), {}, 1)
    end(jobs, "b")
    second = jobs.reserve(key("c"), {}, 1)
    with pytest.raises(TooManyRequests, match="2 tasks"):
        jobs.reserve(key("d"), {}, 1)
    jobs.reserve(key("d", "another"), {}, 1)
    jobs.finish(first, ENDED)
    jobs.release(second)
    jobs.release(second)
    for name in ("d", "e"):
        jobs.reserve(key(name), {}, 1)
    with pytest.raises(TooManyRequests):
        jobs.reserve(key("f"), {}, 1)
