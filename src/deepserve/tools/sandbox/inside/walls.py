"""What a process takes away from itself before it runs code of strangers: limits, paths, system calls.

Sources: the kernel's Documentation/userspace-api/{landlock,no_new_privs,seccomp_filter}.rst, prctl(2), capset(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_3 = 0x20080522

# The same numbers on every machine.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_FIRST_RIGHTS = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_MAKE_DEVICES = 1 << 6 | 1 << 9 | 1 << 11
"""Character devices, sockets, block devices: nowhere."""
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_NETWORK = 0b11
"""Bind and connect TCP."""
_SCOPES = 0b11
"""Abstract sockets and signals of processes outside."""


class WallError(Exception):
    """A wall could not be put up; nothing may run."""


def die_with_parent(parent: int) -> None:
    """End this process when `parent` ends. Raises WallError if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise WallError("the server has ended")


def drop_privileges(machine: str) -> None:
    """Give up every capability, now and for anything that is started."""
    if os.getuid() == 0 or os.geteuid() == 0:
        raise WallError("code of strangers is never run as root")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITIES_3, 0))
    nothing = ctypes.create_string_buffer(struct.pack("=6I", *[0] * 6))
    _call(_CAPSET[machine], header, nothing)


def limit_resources(limits: dict[str, Any]) -> None:
    """limits: names of `resource` without RLIMIT_, and the values, or pairs of soft and hard ones.

    Once the filter is up they cannot be changed in either direction.
    """
    for name, value in limits.items():
        soft, hard = value if isinstance(value, list) else (value, value)
        number = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(number)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(number, (soft, hard))


def restrict_paths(*, readable: list[str], writable: list[str], devices: list[str]) -> int:
    """Leave only these paths to this process. Returns the version of Landlock; raises WallError without Landlock."""
    version = _syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        raise WallError(f"the kernel offers no Landlock ({os.strerror(ctypes.get_errno())})")
    rights = _FIRST_RIGHTS
    rights |= _REFER * (version >= 2) | _TRUNCATE * (version >= 3) | _IOCTL_DEVICE * (version >= 5)
    attributes = struct.pack("=Q", rights)
    if version >= 4:
        attributes += struct.pack("=Q", _NETWORK)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = _call(
        _LANDLOCK_CREATE_RULESET, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0
    )
    grants = [
        *((path, _EXECUTE | _READ_FILE | _READ_DIR) for path in readable),
        *((path, rights & ~_MAKE_DEVICES & ~_EXECUTE & ~_IOCTL_DEVICE) for path in writable),
        *((path, _READ_FILE | _WRITE_FILE) for path in devices),
    ]
    for path, granted in grants:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        is_folder = os.path.isdir(path)
        rule = ctypes.create_string_buffer(
            struct.pack("=Qi", granted if is_folder else granted & _ON_FILES, descriptor), 12
        )
        _call(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        os.close(descriptor)
    _call(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return version


def forbid_calls(program: bytes) -> None:
    """Put up a seccomp filter, for good. program: instructions of classic BPF, eight bytes each."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a 16-bit count, and a pointer at the next multiple of eight.
    described = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions)))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described)


def _prctl(option: int, *arguments: Any) -> None:
    # prctl checks that unused arguments are zero, and reads each as a long.
    padded = [*arguments, 0, 0, 0, 0][:4]
    passed = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in padded]
    if ctypes.CDLL(None, use_errno=True).prctl(option, *passed) < 0:
        raise WallError(f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _syscall(number: int, *arguments: Any) -> int:
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return int(library.syscall(ctypes.c_long(number), *passed))


def _call(number: int, *arguments: Any) -> int:
    result = _syscall(number, *arguments)
    if result < 0:
        raise WallError(f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result
