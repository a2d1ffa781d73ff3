"""One process for each conversation that runs code: started ahead, kept for a while, never handed to another."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import msgspec

from deepserve.config import CodeLimits
from deepserve.core.tenant import TenantId
from deepserve.tools.sandbox.process import CellResult, StartFailed

_SPARE_SLOTS = 2
"""For processes that are being ended while their successors start."""

Result = TypeVar("Result")


class CellProcess(Protocol):
    """What is used of `process.Process`: everything but `kill` blocks."""

    @property
    def has_ended(self) -> bool: ...

    def is_alive(self) -> bool: ...

    def run(self, code: str, *, timeout_s: float) -> CellResult: ...

    def kill(self) -> None: ...

    def end(self) -> None: ...


class SessionKey(msgspec.Struct, frozen=True):
    tenant: TenantId
    session: str


class SessionsBusy(Exception):
    """As many conversations run code just now as may at once; the text says whose limit it is."""


class _Started(msgspec.Struct, frozen=True):
    process: CellProcess
    slot: int


class _Session:
    """starting: yields the process; None: there is none yet, or no more."""

    def __init__(self, now: float) -> None:
        self.turn = asyncio.Lock()
        self.num_users = 0
        self.since = now
        self.used = now
        self.starting: asyncio.Task[_Started] | None = None


class Sessions:
    """All sessions of a server. To be used from one event loop; `close` ends every process.

    start  makes a process in a slot, blocking; slots of living processes differ
    """

    def __init__(self, start: Callable[[int], CellProcess], limits: CodeLimits, *, clock: Callable[[], float]) -> None:
        self._start = start
        self._limits = limits
        self._clock = clock
        self._sessions: dict[SessionKey, _Session] = {}
        self._waiting: list[_Started] = []
        num_slots = limits.max_sessions + limits.waiting + _SPARE_SLOTS
        self._slots: asyncio.Queue[int] = asyncio.Queue()
        for slot in range(num_slots):
            self._slots.put_nowait(slot)
        # Its threads live until it is shut down, and so do the processes that they start.
        self._threads = ThreadPoolExecutor(num_slots, thread_name_prefix="code")
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.Task[None] | None = None
        self._is_starting_ahead = False
        self._is_closed = False

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    @property
    def num_waiting(self) -> int:
        """Processes that no conversation has yet."""
        return len(self._waiting)

    def start_ahead(self) -> None:
        """Have processes waiting, and sessions expire, from now on."""
        if self._is_closed:
            return
        if self._expiry is None:
            self._expiry = asyncio.create_task(self._expire())
        if not self._is_starting_ahead and len(self._waiting) < self._limits.waiting:
            self._is_starting_ahead = True
            self._later(self._fill())

    async def run(self, key: SessionKey, code: str, *, timeout_s: float) -> CellResult:
        """Run one cell in its session, after others that came before it there.

        Raises SessionsBusy, and StartFailed where no process can be had. Cancelled, it ends the session.
        """
        deadline = self._clock() + timeout_s
        session = self._session(key)
        session.num_users += 1
        try:
            async with session.turn:
                if session.starting is None:
                    session.since = self._clock()
                    session.starting = asyncio.create_task(self._take())
                # A caller that gives up leaves the process to the next one.
                started = await asyncio.shield(session.starting)
                return await self._run_cell(session, started, code, max(0.0, deadline - self._clock()))
        except StartFailed:
            session.starting = None
            raise
        finally:
            session.num_users -= 1
            session.used = self._clock()
            if session.starting is None and session.num_users == 0:
                self._sessions.pop(key, None)
            self.start_ahead()

    async def end_expired(self) -> float:
        """End sessions whose time is up; returns the seconds until the next one's will be."""
        now = self._clock()
        unused = {key: session for key, session in self._sessions.items() if session.num_users == 0}
        expired = [key for key, session in unused.items() if self._left_s(session, now) <= 0]
        await asyncio.gather(*(self._end_of(self._sessions.pop(key)) for key in expired))
        now = self._clock()
        return min((self._left_s(session, now) for session in self._sessions.values()), default=self._limits.idle_s)

    async def close(self) -> None:
        """End every process; whoever waits for an answer of one is told that it was killed."""
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        for session in self._sessions.values():
            if session.starting is not None and session.starting.done() and session.starting.exception() is None:
                session.starting.result().process.kill()
        await asyncio.gather(*(self._end_of(session) for session in self._sessions.values()))
        self._sessions.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for started in self._waiting:
            await self._end(started)
        self._waiting.clear()
        self._threads.shutdown()

    def _session(self, key: SessionKey) -> _Session:
        """The conversation's own, or a new one for which another may have to go."""
        session = self._sessions.pop(key, None)
        if session is not None and session.num_users == 0 and self._left_s(session, self._clock()) <= 0:
            self._later(self._end_of(session))
            session = None
        if session is None:
            same_tenant = [other for other in self._sessions if other.tenant == key.tenant]
            self._make_room(same_tenant, self._limits.max_sessions_per_tenant, "of yours")
            self._make_room(list(self._sessions), self._limits.max_sessions, "on this server")
            session = _Session(self._clock())
        # The last used come last.
        self._sessions[key] = session
        return session

    def _make_room(self, keys: list[SessionKey], most: int, whose: str) -> None:
        for _ in range(len(keys) + 1 - most):
            unused = next((key for key in keys if self._sessions[key].num_users == 0), None)
            if unused is None:
                raise SessionsBusy(f"{most} programs {whose} are running already; try again when one has finished")
            keys.remove(unused)
            self._later(self._end_of(self._sessions.pop(unused)))

    def _left_s(self, session: _Session, now: float) -> float:
        return min(session.used + self._limits.idle_s, session.since + self._limits.life_s) - now

    async def _run_cell(self, session: _Session, started: _Started, code: str, timeout_s: float) -> CellResult:
        process = started.process
        running = self._in_thread(functools.partial(process.run, code, timeout_s=timeout_s))
        try:
            result = await asyncio.shield(running)
        except BaseException:
            process.kill()
            with contextlib.suppress(BaseException):
                await running
            session.starting = None
            self._later(self._end(started))
            raise
        if process.has_ended:
            session.starting = None
            self._slots.put_nowait(started.slot)
        return result

    async def _take(self) -> _Started:
        """A process that waits, or a new one."""
        if self._is_closed:
            raise StartFailed("the server is stopping")
        while self._waiting:
            started = self._waiting.pop(0)
            if started.process.is_alive():
                return started
            self._later(self._end(started))
        return await self._start_process()

    async def _start_process(self) -> _Started:
        slot = await self._slots.get()
        try:
            return _Started(await self._in_thread(functools.partial(self._start, slot)), slot)
        except BaseException:
            self._slots.put_nowait(slot)
            raise

    async def _fill(self) -> None:
        try:
            # What goes wrong here is told to whoever needs a process next.
            with contextlib.suppress(StartFailed):
                while len(self._waiting) < self._limits.waiting:
                    self._waiting.append(await self._start_process())
        finally:
            self._is_starting_ahead = False

    async def _end_of(self, session: _Session) -> None:
        # A cell that still runs there was killed before: its thread must be done with the process.
        async with session.turn:
            starting, session.starting = session.starting, None
            if starting is not None:
                with contextlib.suppress(StartFailed):
                    await self._end(await starting)

    async def _end(self, started: _Started) -> None:
        await self._in_thread(started.process.end)
        self._slots.put_nowait(started.slot)

    async def _expire(self) -> None:
        while True:  # noqa: ASYNC110  # it waits for time to pass, which no event tells
            await asyncio.sleep(max(1.0, await self.end_expired()))

    def _in_thread(self, function: Callable[[], Result]) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function)

    def _later(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
