"""The first tier: bubblewrap gives the process a system of its own, in which there is nothing to reach.

Its own user, network, processes, and a file tree with Python in it and one folder to write to; no /proc, which would
show bubblewrap's environment and the host's settings. https://github.com/containers/bubblewrap
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

from deepserve.config import CodeLimits
from deepserve.tools.sandbox.filters import Machine, inner_filter, outer_filter
from deepserve.tools.sandbox.launch import ENVIRONMENT, Clock, Inside, set_up, spawn, user_for
from deepserve.tools.sandbox.process import Process, StartFailed
from deepserve.tools.sandbox.runtime import Runtime

NUM_THREADS = 32
_RUNTIME = "/runtime"
_SESSION = "/session"
_NOBODY = "65534"


class Bubblewrap:
    name = "bubblewrap"

    def __init__(self, runtime: Runtime, limits: CodeLimits, machine: Machine, clock: Clock) -> None:
        self._runtime = runtime
        self._limits = limits
        self._machine: Machine = machine
        self._clock = clock

    def start(self, slot: int) -> Process:
        program = shutil.which("bwrap")
        if program is None:
            raise StartFailed("bwrap is not installed (Debian, Ubuntu, Fedora: the package bubblewrap)")
        user = user_for(slot, self._limits.first_uid)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            answers, answers_end = _pipe(ours, theirs)
            info, info_end = _pipe(ours, theirs)
            filter_file = _as_file(outer_filter(self._machine))
            theirs.callback(os.close, filter_file)
            command = [program, *self._arguments(info=info_end, seccomp=filter_file), *self._python(answers_end)]
            child = spawn(command, user=user, environment={}, folder="/", passed=(answers_end, info_end, filter_file))
            theirs.close()
            ours.pop_all()
            walls = _Namespace(info)
            process = Process(child, answers, walls, self._limits, self._clock)
        with contextlib.suppress(StartFailed):
            # What went wrong in bwrap stands in its stderr, where setting up finds it.
            walls.find()
        inside = Inside(
            machine=self._machine,
            parent=None,
            paths=None,
            num_threads=NUM_THREADS,
            filter=inner_filter(self._machine, sees_host=False, is_own_user=True),
            font_lists=[f"{_RUNTIME}/fonts/{name}" for name in self._runtime.font_lists()],
        )
        return set_up(process, inside, self._limits)

    def _arguments(self, *, info: int, seccomp: int) -> list[str]:
        folders = {"HOME": _SESSION, "TMPDIR": _SESSION, "MPLCONFIGDIR": f"{_SESSION}/.matplotlib"}
        environment = {**ENVIRONMENT, **folders, "LD_LIBRARY_PATH": f"{_RUNTIME}/python/lib"}
        lists = [
            # Asked for by name too: "all" means "where possible" for this one.
            ["--unshare-user", "--unshare-all", "--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1"],
            ["--clearenv", "--cap-drop", "ALL", "--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"],
            ["--info-fd", str(info), "--seccomp", str(seccomp)],
            ["--ro-bind", "/usr/lib", "/usr/lib", "--ro-bind-try", "/usr/lib64", "/usr/lib64"],
            ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"],
            ["--ro-bind", str(self._runtime.folder), _RUNTIME],
            ["--dev", "/dev", "--size", str(self._limits.session_bytes), "--tmpfs", _SESSION],
            ["--symlink", "session", "/tmp"],  # noqa: S108  # inside
            # What is mounted later would stay writable, /dev/shm among it: so these come last.
            ["--remount-ro", "/", "--remount-ro", "/dev", "--chdir", _SESSION],
            *(["--setenv", name, value] for name, value in environment.items()),
        ]
        return [argument for arguments in lists for argument in arguments]

    def _python(self, answers: int) -> list[str]:
        packages = f"{_RUNTIME}/{self._runtime.packages}"
        options = ["-I", "-B", "-X", "utf8", "-c", self._runtime.boot_code]
        return [f"{_RUNTIME}/{self._runtime.python}", *options, str(answers), packages]


class _Namespace:
    """The innermost process, which is the first one of its namespace: bwrap ends when that has ended."""

    def __init__(self, info: int) -> None:
        self._info = info
        self._process: int | None = None
        self._folder: int | None = None
        self.pid = 0

    def find(self) -> None:
        """Learn from bwrap which process it is. Raises StartFailed when bwrap says nothing."""
        text = b""
        with open(self._info, "rb") as file:
            text = file.read(4096)
        try:
            self.pid = int(json.loads(text)["child-pid"])
            self._process = os.pidfd_open(self.pid)
        except (ValueError, KeyError, OSError) as error:
            raise StartFailed("bwrap started nothing") from error

    def watch(self) -> None:
        path = Path(f"/proc/{self.pid}/root{_SESSION}")
        self._folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def count_files(self) -> tuple[int, int]:
        if self._folder is None:
            return 0, 0
        use = os.statvfs(f"/proc/self/fd/{self._folder}")
        return use.f_files - use.f_ffree, (use.f_blocks - use.f_bfree) * use.f_frsize

    def send_signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)

    def clean_up(self) -> None:
        for descriptor in (self._process, self._folder):
            if descriptor is not None:
                os.close(descriptor)
        self._process = self._folder = None


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """The end to read from, which is ours, and the one to write to."""
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing


def _as_file(content: bytes) -> int:
    descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
