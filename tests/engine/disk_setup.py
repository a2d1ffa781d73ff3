"""Stores of cached prefixes whose reading happens when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from typing_extensions import override

from deepserve.core.tenant import TenantId
from deepserve.engine.prefix_files import PrefixFiles
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.prefix_store import PrefixStore
from deepserve.engine.scheduler import Scheduler
from deepserve.store.secret import load_secret
from tests.engine.test_scheduler import Updates, finish


class Inline(Executor):
    """Does everything at once, in the caller's thread."""

    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # Any: as in Executor
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Held(Executor):
    """Does nothing until told."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], object]] = []

    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # Any: as in Executor
        self.jobs.append(lambda: fn(*args, **kwargs))
        return Future()

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


def files_at(folder: Path, *, binding: str = "f") -> PrefixFiles:
    return PrefixFiles(folder / "prefix-cache", secret=load_secret(folder / "prefix-cache.key"), binding=binding)


def store_at(
    folder: Path, *, max_bytes: int = 1 << 30, binding: str = "f", reader: Executor | None = None
) -> PrefixStore:
    return PrefixStore(files_at(folder, binding=binding), max_bytes=max_bytes, reader=reader or Inline())


def paths_in(folder: Path) -> list[Path]:
    """The files of states, in the order of their positions."""
    found = (folder / "prefix-cache").glob("*.state")
    return sorted(found, key=lambda path: (int(path.name.split("-")[2]), path.name))


def key_of(tenant: str = "a", *, user_id: str | None = None, fingerprint: str = "f") -> CacheKey:
    return CacheKey(tenant=TenantId(tenant), user_id=user_id, model="m", profile="mini", fingerprint=fingerprint)


def finish_with_disk(scheduler: Scheduler) -> Updates:
    """Step until nothing changes any more, and nothing has come from the disk meanwhile."""
    updates: Updates = []
    has_news = True

    def hear() -> None:
        nonlocal has_news
        has_news = True

    scheduler.on_news = hear
    while has_news:
        has_news = False
        updates += finish(scheduler)
    return updates
