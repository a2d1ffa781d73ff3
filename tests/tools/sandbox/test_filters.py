"""The filters as programs: what they answer to each call, on both machines, computed as the kernel does it."""

from __future__ import annotations

import errno
import struct

import pytest

from deepserve.tools.sandbox.filters import MACHINES, Machine, inner_filter, outer_filter
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
)

ARCHITECTURE: dict[Machine, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, KILLED = 0x7FFF0000, 0x80000000
NOT_PERMITTED, NO_SUCH_CALL = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

PLAIN: dict[Machine, dict[str, int]] = {
    "x86_64": {"read": 0, "openat": 257, "mmap": 9, "futex": 202, "exit_group": 231, "getrandom": 318, "getpid": 39},
    "aarch64": {"read": 63, "openat": 56, "mmap": 222, "futex": 98, "exit_group": 94, "getrandom": 278, "getpid": 172},
}
"""Calls that every program makes."""


def verdict(program: bytes, machine: Machine, number: int, *arguments: int) -> int:
    """What a filter says, by the rules of classic BPF."""
    data = struct.pack("<IIQ6Q", number, ARCHITECTURE[machine], 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    steps: list[tuple[int, int, int, int]] = list(struct.iter_unpack("<HBBI", program))
    position = accumulator = 0
    while True:
        code, if_so, if_not, value = steps[position]
        position += 1
        match code:
            case 0x20:
                accumulator = int.from_bytes(data[value : value + 4], "little")
            case 0x15 | 0x25 | 0x45:
                holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: accumulator & value != 0}[code]
                position += if_so if holds else if_not
            case 0x06:
                return value
            case _:
                raise AssertionError(hex(code))


def filters(machine: Machine) -> dict[str, bytes]:
    return {
        "outer": outer_filter(machine),
        "bubblewrap": inner_filter(machine, sees_host=False, is_own_user=True),
        "landlock of root": inner_filter(machine, sees_host=True, is_own_user=True),
        "landlock of a user": inner_filter(machine, sees_host=True, is_own_user=False),
    }


@pytest.mark.parametrize("machine", MACHINES)
def test_every_listed_call_fails_and_every_plain_one_works(machine: Machine) -> None:
    column = MACHINES.index(machine)
    everywhere = {**REACHING_OUT, **OTHER_PROCESSES, **FILE_SYSTEMS, **KERNEL}
    refused = {
        "outer": everywhere,
        "bubblewrap": {**everywhere, **NEW_PROCESSES},
        "landlock of root": {**everywhere, **NEW_PROCESSES, **METADATA},
        "landlock of a user": {**everywhere, **NEW_PROCESSES, **METADATA, **MODES},
    }
    others = {**NEW_PROCESSES, **METADATA, **MODES}
    for name, program in filters(machine).items():
        for call, numbers in {**everywhere, **others}.items():
            number = numbers[column]
            if number is not None:
                expected = NOT_PERMITTED if call in refused[name] else ALLOWED
                assert verdict(program, machine, number) == expected, (name, call)
        for call, number in PLAIN[machine].items():
            assert verdict(program, machine, number) == ALLOWED, (name, call)


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_other_machines_end_the_process(machine: Machine) -> None:
    (other,) = {*MACHINES} - {machine}
    for program in filters(machine).values():
        assert verdict(program, other, PLAIN[other]["read"]) == KILLED
    if machine == "x86_64":
        assert verdict(filters(machine)["outer"], machine, 0x40000000 | 39) == KILLED


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_that_are_newer_than_the_lists_do_not_exist(machine: Machine) -> None:
    for program in filters(machine).values():
        assert verdict(program, machine, NEWEST_KNOWN + 1) == NO_SUCH_CALL


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide_about_processes_limits_and_signals(machine: Machine) -> None:
    numbers = {name: values[MACHINES.index(machine)] for name, values in BY_ARGUMENT.items()}

    def says(name: str, call: str, *arguments: int) -> int:
        number = numbers[call]
        assert number is not None
        return verdict(filters(machine)[name], machine, number, *arguments)

    thread, process = 0x3D0F00, 17
    assert says("bubblewrap", "clone", thread) == ALLOWED
    assert says("bubblewrap", "clone", process) == NOT_PERMITTED
    assert says("bubblewrap", "clone", thread & ~0x10000) == NOT_PERMITTED
    assert says("outer", "clone", process) == ALLOWED
    assert says("bubblewrap", "clone3", 0) == NO_SUCH_CALL
    assert says("bubblewrap", "prlimit64", 0, 7, 0, 1) == ALLOWED
    assert says("bubblewrap", "prlimit64", 0, 7, 1, 0) == NOT_PERMITTED
    assert says("bubblewrap", "prlimit64", 0, 7, 1 << 32, 0) == NOT_PERMITTED
    for option in (1, 22):
        assert says("bubblewrap", "prctl", option) == NOT_PERMITTED
    assert says("bubblewrap", "prctl", 15) == ALLOWED
    assert says("outer", "prctl", 22) == ALLOWED
    for name in filters(machine):
        assert says(name, "fcntl", 0, 1) == ALLOWED
        for command in (8, 10, 15, (1 << 32) + 8):
            assert says(name, "fcntl", 0, command) == NOT_PERMITTED
        assert says(name, "ioctl", 0, 0x5401) == ALLOWED
        for request in (0x5412, 0x541C, 0x8901, 0x8902):
            assert says(name, "ioctl", 0, request) == NOT_PERMITTED


def test_no_filter_is_longer_than_the_kernel_takes() -> None:
    for machine in MACHINES:
        assert all(len(program) // 8 < 4096 for program in filters(machine).values())
