"""Which conversation gets which process, and for how long; with processes that only count."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest

from deepserve.config import CodeLimits
from deepserve.core.tenant import TenantId
from deepserve.tools.sandbox.process import CellResult, StartFailed
from deepserve.tools.sandbox.sessions import SessionKey, Sessions, SessionsBusy

Result = TypeVar("Result")


class CountingProcess:
    """Answers with its own number and how many cells it has run; `wait` waits until it is killed."""

    def __init__(self, number: int, slot: int) -> None:
        self.number = number
        self.slot = slot
        self.num_cells = 0
        self.killed = threading.Event()
        self.busy = threading.Event()
        self.has_ended = False

    def is_alive(self) -> bool:
        return not self.has_ended and not self.killed.is_set()

    def run(self, code: str, *, timeout_s: float) -> CellResult:
        assert not self.has_ended
        self.num_cells += 1
        if code == "wait":
            self.busy.set()
            assert self.killed.wait(timeout=60)
        if code in ("end", "wait"):
            self.has_ended = True
            return CellResult(stdout="", stderr="", stopped_by="a test")
        return CellResult(stdout="", stderr="", value=f"{self.number}.{self.num_cells}")

    def kill(self) -> None:
        self.killed.set()

    def end(self) -> None:
        self.has_ended = True


class Bench:
    """Sessions over such processes, and a clock that is moved by hand."""

    def __init__(self, **limits: float) -> None:
        self.now = 0.0
        self.processes: list[CountingProcess] = []
        self.fault: str | None = None
        self.limits = msgspec.structs.replace(CodeLimits(waiting=0), **limits)
        self.sessions = Sessions(self.start, self.limits, clock=lambda: self.now)

    def start(self, slot: int) -> CountingProcess:
        if self.fault is not None:
            raise StartFailed(self.fault)
        assert slot not in {process.slot for process in self.alive()}
        self.processes.append(CountingProcess(len(self.processes), slot))
        return self.processes[-1]

    def alive(self) -> list[CountingProcess]:
        return [process for process in self.processes if not process.has_ended]

    async def run(self, session: str, code: str = "count", tenant: str = "a") -> str | None:
        result = await self.sessions.run(SessionKey(TenantId(tenant), session), code, timeout_s=60.0)
        return result.value if result.stopped_by is None else result.stopped_by


def with_sessions(story: Callable[[Bench], Awaitable[None]], **limits: float) -> None:
    async def tell() -> None:
        bench = Bench(**limits)
        try:
            async with asyncio.timeout(60):
                await story(bench)
        finally:
            await bench.sessions.close()
        assert bench.alive() == []

    asyncio.run(tell())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # threads are at work, which set no event of this loop
        await asyncio.sleep(0)


def test_a_conversation_keeps_its_process_and_shares_it_with_nobody() -> None:
    async def story(bench: Bench) -> None:
        assert await bench.run("x") == "0.1"
        assert await bench.run("x") == "0.2"
        assert await bench.run("y") == "1.1"
        assert await bench.run("x", tenant="b") == "2.1"
        assert await bench.run("x") == "0.3"

    with_sessions(story)


def test_cells_of_one_conversation_run_one_after_another() -> None:
    async def story(bench: Bench) -> None:
        values = await asyncio.gather(*(bench.run("x") for _ in range(5)))
        assert values == ["0.1", "0.2", "0.3", "0.4", "0.5"]

    with_sessions(story)


def test_a_process_waits_for_the_first_cell_and_another_takes_its_place() -> None:
    async def story(bench: Bench) -> None:
        bench.sessions.start_ahead()
        await until(lambda: bench.sessions.num_waiting == 1)
        assert await bench.run("x") == "0.1"
        await until(lambda: bench.sessions.num_waiting == 1)
        assert await bench.run("x") == "0.2"
        assert await bench.run("y") == "1.1"

    with_sessions(story, waiting=1)


def test_a_waiting_process_that_has_died_is_not_used() -> None:
    async def story(bench: Bench) -> None:
        bench.sessions.start_ahead()
        await until(lambda: bench.sessions.num_waiting == 1)
        bench.processes[0].kill()
        assert await bench.run("x") == "1.1"

    with_sessions(story, waiting=1)


def test_after_a_process_has_ended_its_conversation_gets_a_new_one() -> None:
    async def story(bench: Bench) -> None:
        assert await bench.run("x", "end") == "a test"
        assert bench.sessions.num_sessions == 0
        assert await bench.run("x") == "1.1"
        stopped, following = await asyncio.gather(bench.run("x", "end"), bench.run("x"))
        assert (stopped, following) == ("a test", "2.1")

    with_sessions(story)


def test_the_longest_unused_session_of_a_tenant_makes_room() -> None:
    async def story(bench: Bench) -> None:
        await bench.run("x")
        await bench.run("y")
        await bench.run("x")
        assert await bench.run("z") == "2.1"
        assert await bench.run("x") == "0.3"
        assert await bench.run("y") == "3.1"

    with_sessions(story, max_sessions_per_tenant=2)


def test_a_tenant_whose_programs_are_all_running_is_told_so() -> None:
    async def story(bench: Bench) -> None:
        waiting = asyncio.create_task(bench.run("x", "wait"))
        await until(lambda: len(bench.processes) == 1)
        with pytest.raises(SessionsBusy, match="1 programs of yours are running already"):
            await bench.run("y")
        assert await bench.run("x", tenant="b") == "1.1"
        bench.processes[0].kill()
        assert await waiting == "a test"
        assert await bench.run("y") == "2.1"

    with_sessions(story, max_sessions_per_tenant=1)


def test_there_are_never_more_sessions_than_allowed() -> None:
    async def story(bench: Bench) -> None:
        for number in range(30):
            await bench.run("x", tenant=str(number))
            assert bench.sessions.num_sessions <= 3
        waiting = [asyncio.create_task(bench.run("x", "wait", tenant=str(number))) for number in range(27, 30)]
        await until(lambda: sum(process.busy.is_set() for process in bench.processes) == 3)
        with pytest.raises(SessionsBusy, match="3 programs on this server"):
            await bench.run("x", tenant="another")
        for process in bench.processes:
            process.kill()
        await asyncio.gather(*waiting)

    with_sessions(story, max_sessions=3)


def test_sessions_end_when_unused_and_when_old() -> None:
    async def story(bench: Bench) -> None:
        await bench.run("x")
        bench.now = 9.0
        await bench.run("y")
        assert await bench.sessions.end_expired() == pytest.approx(1.0)
        bench.now = 10.0
        await bench.sessions.end_expired()
        assert [process.number for process in bench.alive()] == [1]
        for bench.now in (18.0, 27.0):
            assert (await bench.run("y") or "").startswith("1.")
        bench.now = 29.5
        assert await bench.run("y") == "2.1"

    with_sessions(story, idle_s=10.0, life_s=20.0)


def test_a_running_session_does_not_expire() -> None:
    async def story(bench: Bench) -> None:
        waiting = asyncio.create_task(bench.run("x", "wait"))
        await until(lambda: len(bench.processes) == 1 and bench.processes[0].busy.is_set())
        bench.now = 100.0
        await bench.sessions.end_expired()
        assert not bench.processes[0].killed.is_set()
        bench.processes[0].kill()
        await waiting

    with_sessions(story, idle_s=10.0)


def test_a_cancelled_cell_ends_its_process_and_the_next_gets_a_new_one() -> None:
    async def story(bench: Bench) -> None:
        waiting = asyncio.create_task(bench.run("x", "wait"))
        await until(lambda: len(bench.processes) == 1 and bench.processes[0].busy.is_set())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert bench.processes[0].killed.is_set()
        assert await bench.run("x") == "1.1"

    with_sessions(story)


def test_a_failed_start_is_told_and_forgotten() -> None:
    async def story(bench: Bench) -> None:
        bench.fault = "no more memory"
        for _ in range(20):
            with pytest.raises(StartFailed, match="no more memory"):
                await bench.run("x")
        assert bench.sessions.num_sessions == 0
        bench.fault = None
        assert await bench.run("x") == "0.1"

    with_sessions(story)


def test_closing_ends_running_cells_and_refuses_new_ones() -> None:
    async def story(bench: Bench) -> None:
        running = asyncio.create_task(bench.run("x", "wait"))
        await until(lambda: len(bench.processes) == 1 and bench.processes[0].busy.is_set())
        following = asyncio.create_task(bench.run("x"))
        await asyncio.sleep(0)
        await bench.sessions.close()
        assert await running == "a test"
        with pytest.raises(StartFailed, match="the server is stopping"):
            await following

    with_sessions(story)
