"""Seccomp filters as classic BPF programs: which system calls fail, and which end the process.

Two stages. The first is in force when Python starts in the sandbox; the second is put up by what runs inside before it
reads any code of strangers, and takes away new processes too. Threads remain.

Sources: the kernel's Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/{filter,seccomp,audit}.h.
"""

from __future__ import annotations

import errno
import struct
from typing import Literal, get_args

from deepserve.tools.sandbox.syscalls import (
    BY_ARGUMENT,
    FILE_SYSTEMS,
    KERNEL,
    METADATA,
    MODES,
    NEW_PROCESSES,
    NEWEST_KNOWN,
    OTHER_PROCESSES,
    REACHING_OUT,
    Calls,
)

Machine = Literal["x86_64", "aarch64"]
MACHINES: tuple[Machine, ...] = get_args(Machine)

_AUDIT_ARCH: dict[Machine, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]. Both machines are little-endian.
_NUMBER_AT = 0
_ARCH_AT = 4
_ARGUMENTS_AT = 16

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_ABOVE = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_FAIL = 0x00050000
_NOT_PERMITTED = _FAIL | errno.EPERM
_NO_SUCH_CALL = _FAIL | errno.ENOSYS

_CLONE_THREAD = 0x00010000
_FORBIDDEN_PRCTL = (1, 22)
"""PR_SET_PDEATHSIG, lest it outlive the server, and PR_SET_SECCOMP."""
_SIGNALLING_FCNTL = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: they have the kernel send any signal to any process of the same user."""
_FORBIDDEN_IOCTL = (0x5412, 0x541C, 0x8901, 0x8902)
"""TIOCSTI and TIOCLINUX type into a terminal; FIOSETOWN and SIOCSPGRP are F_SETOWN once more."""


def outer_filter(machine: Machine) -> bytes:
    """Stage one, for a launcher that has still to start Python."""
    return _program(machine, (REACHING_OUT, OTHER_PROCESSES, FILE_SYSTEMS, KERNEL), has_processes=True)


def inner_filter(machine: Machine, *, sees_host: bool, is_own_user: bool) -> bytes:
    """Stage two, for the rest of the process's life.

    sees_host    paths of the host can be named, so that calls on paths which Landlock does not watch must fail
    is_own_user  nothing outside the sandbox belongs to the process's user
    """
    groups = [REACHING_OUT, OTHER_PROCESSES, FILE_SYSTEMS, KERNEL, NEW_PROCESSES]
    if sees_host:
        groups.append(METADATA)
        if not is_own_user:
            groups.append(MODES)
    return _program(machine, tuple(groups), has_processes=False)


def _program(machine: Machine, groups: tuple[Calls, ...], *, has_processes: bool) -> bytes:
    column = MACHINES.index(machine)

    def number(name: str) -> int:
        found = BY_ARGUMENT[name][column]
        assert found is not None
        return found

    steps = [
        *_unless(_ARCH_AT, _JUMP_EQUAL, _AUDIT_ARCH[machine], _KILL_PROCESS),
        _step(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        # The same calls once more under other numbers: nobody has business there.
        steps += [_step(_JUMP_ANY_BIT, _X32_BIT, if_not=1), _step(_RETURN, _KILL_PROCESS)]
    steps += [_step(_JUMP_ABOVE, NEWEST_KNOWN, if_not=1), _step(_RETURN, _NO_SUCH_CALL)]
    # Its flags lie in memory, which a filter cannot read; without it, libc falls back to clone.
    steps += _answer(number("clone3"), _NO_SUCH_CALL)
    for group in groups:
        for numbers in group.values():
            call = numbers[column]
            if call is not None:
                steps += _answer(call, _NOT_PERMITTED)
    steps += _refuse_values(number("fcntl"), 1, _SIGNALLING_FCNTL)
    steps += _refuse_values(number("ioctl"), 1, _FORBIDDEN_IOCTL)
    if not has_processes:
        steps += _refuse_values(number("prctl"), 0, _FORBIDDEN_PRCTL)
        steps += _only_threads(number("clone"))
        steps += _only_reading_limits(number("prlimit64"))
    steps.append(_step(_RETURN, _ALLOW))
    return b"".join(steps)


def _step(code: int, value: int, *, if_so: int = 0, if_not: int = 0) -> bytes:
    """One instruction: struct sock_filter. The jumps count instructions that are left out."""
    return struct.pack("<HBBI", code, if_so, if_not, value)


def _unless(offset: int, jump: int, value: int, verdict: int) -> list[bytes]:
    return [_step(_LOAD, offset), _step(jump, value, if_so=1), _step(_RETURN, verdict)]


def _answer(call: int, verdict: int) -> list[bytes]:
    return [_step(_JUMP_EQUAL, call, if_not=1), _step(_RETURN, verdict)]


def _for_call(call: int, body: list[bytes]) -> list[bytes]:
    """Run `body`, which loads arguments, for one call only, and load the number again after it."""
    body = [*body, _step(_LOAD, _NUMBER_AT)]
    return [_step(_JUMP_EQUAL, call, if_not=len(body)), *body]


def _argument(position: int, *, is_high_half: bool = False) -> bytes:
    return _step(_LOAD, _ARGUMENTS_AT + 8 * position + 4 * is_high_half)


def _refuse_values(call: int, position: int, values: tuple[int, ...]) -> list[bytes]:
    """The kernel looks at 32 bits of these arguments, so 32 bits are compared."""
    checks = [step for value in values for step in _answer(value, _NOT_PERMITTED)]
    return _for_call(call, [_argument(position), *checks])


def _only_threads(clone: int) -> list[bytes]:
    return _for_call(
        clone, [_argument(0), _step(_JUMP_ANY_BIT, _CLONE_THREAD, if_so=1), _step(_RETURN, _NOT_PERMITTED)]
    )


def _only_reading_limits(prlimit64: int) -> list[bytes]:
    """The third argument points to new limits; both halves of it must be null."""
    halves = [
        step
        for is_high_half in (False, True)
        for step in (
            _argument(2, is_high_half=is_high_half),
            _step(_JUMP_EQUAL, 0, if_so=1),
            _step(_RETURN, _NOT_PERMITTED),
        )
    ]
    return _for_call(prlimit64, halves)
