"""One walled-in Python, seen from the server: cells go in, what they did comes out, and every limit that the process
cannot be trusted to keep is watched from here.

Everything blocks: each process is driven from a thread. Nothing that the process sends is believed beyond its form.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from deepserve.config import CodeLimits
from deepserve.core.messages import Json
from deepserve.tools.sandbox.frames import Answer, Garbled, encode_message
from deepserve.tools.sandbox.kept_output import KeptOutput

_TICK_S = 0.1
_READ_BYTES = 64 * 1024
_END_S = 10.0
_NICENESS = 10
_KEPT_STDERR_SHARE = 4
"""stdout keeps its beginning; stderr, in a quarter of the room, its end, where the error is."""


class Walls(Protocol):
    """What a tier knows about a process of its own."""

    def watch(self) -> None:
        """Called once, when the process is ready."""
        ...

    def count_files(self) -> tuple[int, int]:
        """Number and bytes of the files in its working folder."""
        ...

    def send_signal(self, number: signal.Signals) -> None:
        """To the innermost process; nothing happens when it has ended."""
        ...

    @property
    def pid(self) -> int:
        """The innermost process."""
        ...

    def clean_up(self) -> None:
        """After the process has ended: leave nothing of it. Called once."""
        ...


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one cell did. stopped_by: why the process has ended, which takes variables and files with it; else None."""

    stdout: str
    stderr: str
    value: str | None = None
    exit_code: int = 0
    stopped_by: str | None = None
    files: tuple[tuple[str, bytes], ...] = ()


class StartFailed(Exception):
    """No process could be had; the text says why."""


class Process:
    """A process that answers one cell at a time, and stands still in between."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        answers: int,
        walls: Walls,
        limits: CodeLimits,
        clock: Callable[[], float],
    ) -> None:
        """answers: the descriptor to read them from. Both belong to this object from now on."""
        self._child = child
        self._answers = answers
        self._walls = walls
        self._limits = limits
        self._clock = clock
        self._has_ended = False
        self._ending = threading.Lock()
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self._input = child.stdin
        self._outputs: tuple[Any, Any] = (child.stdout, child.stderr)
        for descriptor in (self._input.fileno(), answers, child.stdout.fileno(), child.stderr.fileno()):
            os.set_blocking(descriptor, False)

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    @property
    def pid(self) -> int:
        """Of the innermost process, as this machine numbers it."""
        return self._walls.pid

    def is_alive(self) -> bool:
        return not self._has_ended and self._child.poll() is None

    def set_up(self, setup: dict[str, Json], *, timeout_s: float) -> None:
        """Hand over what the process needs to wall itself in. Raises StartFailed, and has ended then."""
        exchange = _Exchange(self._limits, setup)
        stopped_by = self._converse(exchange, timeout_s=timeout_s)
        if stopped_by is None and exchange.answer.head is not None and exchange.answer.head.fault is None:
            self._put_last()
            try:
                self._walls.watch()
            except OSError as error:
                self.end()
                raise StartFailed(f"it cannot be watched: {error}") from error
            self._walls.send_signal(signal.SIGSTOP)
            return
        self.end()
        fault = exchange.answer.head.fault if exchange.answer.head is not None else None
        said = exchange.stderr.text().strip().splitlines()
        raise StartFailed(fault or " ".join(said[-1:]) or stopped_by or "it gave no reason")

    def run(self, code: str, *, timeout_s: float) -> CellResult:
        """Run one cell. Must not be called when the process has ended, nor twice at once."""
        exchange = _Exchange(self._limits, {"code": code})
        timeout_s = min(timeout_s, self._limits.cell_s)
        self._walls.send_signal(signal.SIGCONT)
        stopped_by = self._converse(exchange, timeout_s=timeout_s, cpu_s=self._limits.cell_cpu_s)
        stdout, stderr = exchange.stdout.text(), exchange.stderr.text()
        head = exchange.answer.head
        if stopped_by is not None or head is None:
            self.end()
            return CellResult(stdout=stdout, stderr=stderr, exit_code=1, stopped_by=stopped_by)
        self._walls.send_signal(signal.SIGSTOP)
        value = head.value
        files = exchange.answer.files()
        num_left_out = head.left_out + len(head.files) - len(files)
        if head.is_value_cut and value is not None:
            value += " [the rest was left out]"
        if num_left_out:
            most, most_kib = self._limits.files_back, self._limits.file_back_bytes // 1024
            stderr += (
                f"[files left out: {num_left_out}; at most {most} of {most_kib} KiB each are sent back, and none whose "
                "name cannot be shown]\n"
            )
        return CellResult(stdout=stdout, stderr=stderr, value=value, exit_code=head.exit_code, files=files)

    def kill(self) -> None:
        """Kill it now; may be called from any thread, and whatever waits for it then returns."""
        with self._ending:
            # Afterwards its number may be another's.
            if not self._has_ended:
                self._walls.send_signal(signal.SIGKILL)

    def end(self) -> None:
        """End it and leave nothing of it; may be called again."""
        self.kill()
        with self._ending:
            if self._has_ended:
                return
            self._has_ended = True
        try:
            self._child.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for file in (self._input, *self._outputs):
            # What could not be written any more is of no interest.
            with contextlib.suppress(BrokenPipeError):
                file.close()
        os.close(self._answers)
        self._walls.clean_up()

    def _converse(self, exchange: _Exchange, *, timeout_s: float, cpu_s: float | None = None) -> str | None:
        """Send and receive until the answer is complete. Returns the reason if the process has ended, or has to."""
        now = self._clock()
        deadline = now + timeout_s
        next_look = now + _TICK_S
        cpu_before = self._cpu_s() if cpu_s is not None else 0.0
        poll = select.poll()
        poll.register(self._input, select.POLLOUT)
        for readable in (self._answers, *self._outputs):
            poll.register(readable, select.POLLIN)
        is_writing = True
        while True:
            left_s = deadline - self._clock()
            if left_s <= 0:
                return f"the time limit of {timeout_s:.3g} s"
            ready = {descriptor for descriptor, _ in poll.poll(max(1, min(_TICK_S, left_s) * 1000))}
            try:
                if is_writing and self._input.fileno() in ready and exchange.send(self._input.fileno()):
                    poll.unregister(self._input)
                    is_writing = False
                for file, kept in zip(self._outputs, (exchange.stdout, exchange.stderr), strict=True):
                    if file.fileno() in ready and kept.take(file.fileno()) is False:
                        poll.unregister(file)
                if self._answers in ready and not exchange.receive(self._answers):
                    return self._why_it_ended(exchange)
            except Garbled:
                return "it answered in a form that is not its own"
            except BrokenPipeError:
                return self._why_it_ended(exchange)
            if exchange.answer.is_complete:
                # What was printed before the answer lies in the pipes by now.
                self._drain(exchange)
                return self._overfull() if cpu_s is not None else None
            if exchange.num_output_bytes > self._limits.output_read_bytes:
                return f"the limit of {self._limits.output_read_bytes // 1024} KiB of output"
            if cpu_s is not None and self._clock() >= next_look:
                next_look = self._clock() + _TICK_S
                if self._cpu_s() > cpu_before + cpu_s:
                    return f"the limit of {cpu_s:g} s of processor time"
                stopped_by = self._overfull()
                if stopped_by is not None:
                    return stopped_by

    def _put_last(self) -> None:
        """The model goes first when processors are busy, and this process when memory runs out."""
        with contextlib.suppress(OSError), open(f"/proc/{self._walls.pid}/oom_score_adj", "w") as file:
            file.write("1000")
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._walls.pid, _NICENESS)

    def _overfull(self) -> str | None:
        """Which limit of the working folder is exceeded."""
        try:
            num_files, size_bytes = self._walls.count_files()
        except OSError:
            # It has just ended, which its pipes will tell.
            return None
        if num_files > self._limits.session_files:
            return f"the limit of {self._limits.session_files} files"
        if size_bytes > self._limits.session_bytes:
            return f"the limit of {self._limits.session_bytes // 1024**2} MiB of files"
        return None

    def _cpu_s(self) -> float:
        try:
            with open(f"/proc/{self._walls.pid}/stat") as file:
                # The name of the program comes second, in brackets, and may contain anything.
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _drain(self, exchange: _Exchange) -> None:
        for file, kept in zip(self._outputs, (exchange.stdout, exchange.stderr), strict=True):
            while exchange.num_output_bytes <= self._limits.output_read_bytes and kept.take(file.fileno()):
                pass

    def _why_it_ended(self, exchange: _Exchange) -> str:
        # Without a process at its other end, a pipe ends before the process is gone entirely.
        try:
            code = self._child.wait(timeout=_TICK_S)
        except subprocess.TimeoutExpired:
            return "it closed the way its answers take"
        self._drain(exchange)
        # bwrap reports the signal that ended the process as a shell does.
        number = -code if code < 0 else code - 128
        match number:
            case signal.SIGKILL:
                return "being killed, perhaps for using too much memory or processor time"
            case signal.SIGXCPU:
                return "the limit of processor time of a session"
            case signal.SIGSYS:
                return "a system call that is not allowed here"
            case signal.SIGSEGV | signal.SIGBUS | signal.SIGABRT | signal.SIGILL | signal.SIGFPE:
                return f"a crash ({signal.Signals(number).name})"
        return f"its own wish, with exit code {code}"


class _Exchange:
    """One message to a process, and what comes back of it so far."""

    def __init__(self, limits: CodeLimits, message: dict[str, Json]) -> None:
        tag = secrets.token_hex(16)
        self._unsent = memoryview(encode_message(tag, message))
        self.answer = Answer(tag, most_files=limits.files_back, most_file_bytes=limits.file_back_bytes)
        stderr_bytes = limits.output_bytes // _KEPT_STDERR_SHARE
        self.stdout = KeptOutput(limits.output_bytes - stderr_bytes)
        self.stderr = KeptOutput(stderr_bytes, is_end_kept=True)

    @property
    def num_output_bytes(self) -> int:
        return self.stdout.num_bytes + self.stderr.num_bytes

    def send(self, descriptor: int) -> bool:
        """Send what can be sent at once; whether that was the rest."""
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[os.write(descriptor, self._unsent) :]
        return not self._unsent

    def receive(self, descriptor: int) -> bool:
        """Take what is there. False: nothing will come any more. Raises Garbled."""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return True
        self.answer.add(data)
        return bool(data)
