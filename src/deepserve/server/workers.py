"""Several processes that answer at one address: begun, watched, begun again when one dies, ended together.

The supervisor binds the address and answers nothing itself. It begins each worker as a copy of itself, before any
thread or event loop exists in it, so a worker is there in milliseconds and shares the memory of the program. A worker
that loses its supervisor ends by itself.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from deepserve.core.errors import ConfigurationError, DeepserveError

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
"""Before a worker is begun again that keeps dying: twice as long each time, up to this."""

_SETTLED_S = 30.0
"""A worker that lived so long does not keep dying."""

_LAST_WORDS_S = 10.0
"""So much longer than the workers' own grace they may take to end."""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One of several processes, as it knows itself.

    is_first  the first one that was begun with the number 0
    number    from 0; one that is begun again has the number of the one that died
    count     how many there are
    folder    where they find each other, readable by their owner only
    lifeline  a descriptor that has something to read when the supervisor is gone
    tell      says to the supervisor that requests are answered
    """

    is_first: bool
    number: int
    count: int
    folder: Path
    lifeline: int
    tell: Callable[[], None]

    def has_supervisor(self) -> bool:
        return not select.select([self.lifeline], [], [], 0)[0]


class _Child(msgspec.Struct):
    """One worker, as its supervisor knows it. news: what it tells."""

    number: int
    process: int
    news: int
    begun_at: float
    has_spoken: bool = False


class Supervisor:
    """work: what a worker does until it is told to stop; it runs in a process of its own.

    grace_s  how long workers take at most to finish what is in flight when they are told to stop
    """

    def __init__(
        self,
        count: int,
        work: Callable[[Worker], None],
        *,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not hasattr(os, "fork"):
            raise ConfigurationError("Several workers need a system that can copy processes, which Windows cannot.")
        self._count = count
        self._work = work
        self._grace_s = grace_s
        self._clock = clock
        self._children: dict[int, _Child] = {}
        self._due: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._has_answered = self._has_failed = False
        self._end_by: float | None = None

    def run(self) -> None:
        """Supervise until SIGINT or SIGTERM. Call it in the main thread of a process that has no other.

        Raises ConfigurationError when a worker ends before any has answered: then something is wrong that will stay
        wrong. The worker has said what.
        """
        folder = Path(tempfile.mkdtemp(prefix="deepserve-workers-"))
        watched, lifeline = os.pipe()
        # What is loaded by now stays: pages that no collection touches are shared by all workers.
        gc.freeze()
        try:
            with _signals() as heard:
                for number in range(self._count):
                    self._begin(number, folder, watched, lifeline)
                while self._children or self._due:
                    self._wait(heard)
                    self._hear(heard)
                    self._bury()
                    self._begin_due(folder, watched, lifeline)
        finally:
            for child in self._children.values():
                os.kill(child.process, signal.SIGKILL)
            os.close(watched)
            os.close(lifeline)
            shutil.rmtree(folder, ignore_errors=True)
        if self._has_failed:
            raise ConfigurationError("No worker could begin; what they said about it stands above.")

    def _begin(self, number: int, folder: Path, watched: int, lifeline: int) -> None:
        news, tell = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            os.close(lifeline)
            os.close(news)
            for other in self._children.values():
                os.close(other.news)
            _be_worker(
                self._work,
                Worker(
                    is_first=number == 0 and not self._has_answered,
                    number=number,
                    count=self._count,
                    folder=folder,
                    lifeline=watched,
                    tell=lambda: _tell(tell),
                ),
            )
        os.close(tell)
        self._children[process] = _Child(number=number, process=process, news=news, begun_at=self._clock())

    def _wait(self, heard: socket.socket) -> None:
        """Until a signal comes, a worker tells something, or something is due."""
        times = [*self._due.values(), *(() if self._end_by is None else (self._end_by,))]
        wait_s = max(0.0, min(times) - self._clock()) if times else None
        awaited = {child.news: child for child in self._children.values() if not child.has_spoken}
        readable, _, _ = select.select([heard.fileno(), *awaited], [], [], wait_s)
        for news in awaited.keys() & set(readable):
            awaited[news].has_spoken = True  # or died: nothing more is to be heard
            self._has_answered = bool(os.read(news, 1)) or self._has_answered

    def _hear(self, heard: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in heard.recv(1024):
                match number:
                    case signal.SIGCHLD:
                        pass
                    case signal.SIGHUP:
                        self._send(signal.SIGHUP)
                    case _:
                        self._stop(again=self._end_by is not None)
        if self._end_by is not None and self._clock() >= self._end_by:
            self._send(signal.SIGKILL)

    def _stop(self, *, again: bool) -> None:
        """again: as with a single server, who asks twice does not want to wait."""
        self._send(signal.SIGINT if again else signal.SIGTERM)
        self._due.clear()
        if self._end_by is None:
            self._end_by = self._clock() + self._grace_s + _LAST_WORDS_S

    def _send(self, number: signal.Signals) -> None:
        for child in self._children.values():
            os.kill(child.process, number)

    def _bury(self) -> None:
        for process in list(self._children):
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                continue
            child = self._children.pop(process)
            os.close(child.news)
            if self._end_by is not None:
                continue
            if not self._has_answered:
                self._has_failed = True
                self._stop(again=False)
                continue
            now = self._clock()
            settled = now - child.begun_at >= _SETTLED_S
            pause_s = _FIRST_PAUSE_S if settled else self._pauses.get(child.number, 0.0)
            self._pauses[child.number] = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            self._due[child.number] = now if settled else now + pause_s
            _log.error(
                "Worker %d (process %d) has ended: %s. It is begun again.", child.number, process, _cause(status)
            )

    def _begin_due(self, folder: Path, watched: int, lifeline: int) -> None:
        for number, due in list(self._due.items()):
            if due <= self._clock():
                del self._due[number]
                self._begin(number, folder, watched, lifeline)


def _be_worker(work: Callable[[Worker], None], worker: Worker) -> None:
    """The whole life of a worker's process; does not return, for what called the supervisor is not the worker's."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # Until the server has a handler of its own: the supervisor passes on what it hears to all.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        work(worker)
        code = 0
    except DeepserveError as error:
        sys.stderr.write(f"Error: {error.message}\n")
    except BaseException:  # noqa: BLE001 - the end of the process, which says why
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _tell(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone, of which the lifeline tells
        os.write(descriptor, b"1")


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket on which the numbers of signals arrive, one byte each."""
    heard, told = socket.socketpair()
    heard.setblocking(False)
    told.setblocking(False)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
    previous_descriptor = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    previous: Mapping[signal.Signals, object] = {
        number: signal.signal(number, lambda _number, _frame: None) for number in numbers
    }
    try:
        yield heard
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal` gave back
        signal.set_wakeup_fd(previous_descriptor)
        heard.close()
        told.close()
