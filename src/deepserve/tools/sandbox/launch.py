"""What the tiers share: starting a process with nothing of the server's, and telling it how to wall itself in."""

from __future__ import annotations

import contextlib
import grp
import os
import platform
import pwd
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from deepserve.config import CodeLimits
from deepserve.core.messages import Json
from deepserve.tools.sandbox.filters import MACHINES, Machine
from deepserve.tools.sandbox.process import Process, StartFailed

_SETUP_S = 20.0
_HIGHEST_UID = 65_533

ENVIRONMENT = {
    "PATH": "/nonexistent",
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "svg",
}
"""All that programs see of the outside, with the folders that each tier adds."""


class Tier(Protocol):
    """One way to wall a process in."""

    name: str

    def start(self, slot: int) -> Process:
        """A process that is ready for cells; raises StartFailed. Two that live at once have different slots.

        The thread that calls this has to outlive the process: the kernel ends it with its parent thread.
        """
        ...


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """What the first message to a process tells it.

    parent  the process that it must not outlive; None: somebody else sees to that
    paths   for Landlock; None: it sees nothing else anyway
    """

    machine: Machine
    parent: int | None
    paths: Mapping[str, Json] | None
    num_threads: int
    filter: bytes
    font_lists: Sequence[str]

    def message(self, limits: CodeLimits) -> dict[str, Json]:
        # The second of two values is the one that nothing survives; the first can still be reported.
        cpu_s = int(limits.session_cpu_s)
        return {
            "machine": self.machine,
            "parent": self.parent,
            "paths": self.paths,
            "limits": {
                "AS": limits.memory_bytes,
                "CPU": [cpu_s, cpu_s + 1],
                "FSIZE": limits.file_bytes,
                "NOFILE": 64,
                "NPROC": self.num_threads,
                "CORE": 0,
                "MEMLOCK": 0,
                "MSGQUEUE": 0,
                "STACK": 8 * 1024 * 1024,
            },
            "filter": self.filter.hex(),
            "font_lists": list(self.font_lists),
            "most_files": limits.files_back,
            "most_file_bytes": limits.file_back_bytes,
        }


def this_machine() -> Machine | None:
    """None where we know no system calls."""
    return next((machine for machine in MACHINES if machine == platform.machine()), None)


def user_for(slot: int, first_uid: int) -> int | None:
    """The user that the process in `slot` is to run as: never root. None: as whom we run."""
    if os.geteuid() != 0:
        return None
    num_taken = 0
    for uid in range(first_uid, _HIGHEST_UID):
        if _is_taken(uid):
            # Somebody's files would lie open.
            continue
        if num_taken == slot:
            return uid
        num_taken += 1
    raise StartFailed(f"there are not enough unused user numbers from {first_uid} on")


def _is_taken(number: int) -> bool:
    """Whether a user or a group of this machine has it."""
    lookups: tuple[Callable[[int], object], ...] = (pwd.getpwuid, grp.getgrgid)
    for look_up in lookups:
        with contextlib.suppress(KeyError):
            look_up(number)
            return True
    return False


def spawn(
    command: Sequence[str], *, user: int | None, environment: Mapping[str, str], folder: str, passed: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start `command` as `user` with its three streams piped and no other descriptor than `passed`."""
    switch: dict[str, object] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    try:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]  # the types know no such mapping  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(environment),
            cwd=folder,
            pass_fds=passed,
            start_new_session=True,
            umask=0o077,
            **switch,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StartFailed(f"{command[0]} cannot be started: {error}") from error


def set_up(process: Process, inside: Inside, limits: CodeLimits) -> Process:
    process.set_up(inside.message(limits), timeout_s=_SETUP_S)
    return process


Clock = Callable[[], float]
