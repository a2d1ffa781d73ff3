"""The second tier, for containers that forbid namespaces: the process gives up every path but its own by Landlock.

Weaker than a system of its own: paths can still be asked whether they exist, and where the server is not root the
process is the server's own user, whose other processes and files only the filter keeps it from.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from deepserve.config import CodeLimits
from deepserve.tools.sandbox.filters import Machine, inner_filter
from deepserve.tools.sandbox.launch import ENVIRONMENT, Clock, Inside, set_up, spawn, user_for
from deepserve.tools.sandbox.lease import Lease, is_leased
from deepserve.tools.sandbox.process import Process, StartFailed
from deepserve.tools.sandbox.runtime import Runtime
from deepserve.tools.sandbox.strange_folder import measure_folder, remove_folder

_NUM_THREADS = 32
_PREFIX = "deepserve-code-"
_LIBRARIES = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"]
_DEVICES = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]


class Landlock:
    name = "landlock"

    def __init__(
        self,
        runtime: Runtime,
        limits: CodeLimits,
        machine: Machine,
        clock: Clock,
        *,
        folder: Path | None = None,
    ) -> None:
        """folder: where the sessions' folders are made; None: where temporary files are."""
        self._runtime = runtime
        self._limits = limits
        self._machine: Machine = machine
        self._clock = clock
        self._folder = folder or Path(tempfile.gettempdir())
        self._remove_abandoned()

    def start(self, slot: int) -> Process:
        user = user_for(slot, self._limits.first_uid)
        session, lease = self._make_folder(user)
        answers, answers_end = os.pipe()
        try:
            child = spawn(
                self._python(answers_end),
                user=user,
                environment=self._environment(str(session)),
                folder=str(session),
                passed=(answers_end,),
            )
        except StartFailed:
            os.close(answers)
            lease.release()
            remove_folder(session)
            raise
        finally:
            os.close(answers_end)
        walls = _OwnFolder(child, session, lease, self._limits)
        process = Process(child, answers, walls, self._limits, self._clock)
        inside = Inside(
            machine=self._machine,
            parent=os.getpid(),
            paths={
                "readable": [str(self._runtime.folder), *_LIBRARIES],
                "writable": [str(session)],
                "devices": list(_DEVICES),
            },
            # The kernel counts all that this user runs.
            num_threads=_NUM_THREADS + (_count_threads(os.geteuid()) if user is None else 0),
            filter=inner_filter(self._machine, sees_host=True, is_own_user=user is not None),
            font_lists=[str(self._runtime.font_folder / name) for name in self._runtime.font_lists()],
        )
        return set_up(process, inside, self._limits)

    def _make_folder(self, user: int | None) -> tuple[Path, Lease]:
        try:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._folder))
            lease = Lease(path)
            if user is not None:
                os.chown(path, user, user)
        except OSError as error:
            raise StartFailed(f"no folder for it can be made in {self._folder}: {error}") from error
        return path, lease

    def _remove_abandoned(self) -> None:
        """What a server left that was killed."""
        us = os.geteuid()
        for path in self._folder.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                owner = path.lstat().st_uid
                is_ours = owner == us or (us == 0 and owner >= self._limits.first_uid)
                if is_ours and not is_leased(path):
                    remove_folder(path)

    def _environment(self, session: str) -> dict[str, str]:
        folders = {"HOME": session, "TMPDIR": session, "MPLCONFIGDIR": f"{session}/.matplotlib"}
        return {**ENVIRONMENT, **folders, "LD_LIBRARY_PATH": str(self._runtime.folder / "python" / "lib")}

    def _python(self, answers: int) -> list[str]:
        packages = str(self._runtime.folder / self._runtime.packages)
        options = ["-I", "-B", "-X", "utf8", "-c", self._runtime.boot_code]
        return [str(self._runtime.folder / self._runtime.python), *options, str(answers), packages]


class _OwnFolder:
    """A child process, and the folder that is removed with it."""

    def __init__(self, child: subprocess.Popen[bytes], folder: Path, lease: Lease, limits: CodeLimits) -> None:
        self._child = child
        self._folder = folder
        self._lease = lease
        self._limits = limits

    @property
    def pid(self) -> int:
        return self._child.pid

    def watch(self) -> None:
        pass

    def count_files(self) -> tuple[int, int]:
        use = measure_folder(self._folder, most_files=self._limits.session_files)
        return use.num_files, use.size_bytes

    def send_signal(self, number: signal.Signals) -> None:
        # Does nothing once the child has been waited for, so that no other process gets the signal.
        self._child.send_signal(number)

    def clean_up(self) -> None:
        self._lease.release()
        remove_folder(self._folder)


def _count_threads(uid: int) -> int:
    """Threads of all of this user's processes."""
    count = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == uid:
                    count += len(os.listdir(f"/proc/{entry.name}/task"))
    return count
