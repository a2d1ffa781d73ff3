"""Which walls are chosen, and that nothing runs without any."""

from __future__ import annotations

import errno
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deepserve.config import CodeLimits, SandboxTier
from deepserve.tools.sandbox import bubblewrap, filters, landlock
from deepserve.tools.sandbox.canary import try_out
from deepserve.tools.sandbox.ladder import NoSandbox, Refusal, Sandbox, choose_sandbox
from deepserve.tools.sandbox.process import StartFailed
from tests.tools.sandbox.conftest import open_sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are sandboxes for Linux only")


def choose(folder: Path, tier: SandboxTier = "auto") -> Sandbox | NoSandbox:
    return choose_sandbox(CodeLimits(tier=tier, folder=folder), clock=time.monotonic)


def test_bubblewrap_comes_first(python_folder: Path) -> None:
    open_sandbox(python_folder, "bubblewrap")
    chosen = choose(python_folder)
    assert isinstance(chosen, Sandbox)
    assert (chosen.tier.name, chosen.refusals) == ("bubblewrap", ())


def test_without_bubblewrap_it_is_landlock(python_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_sandbox(python_folder, "landlock")
    monkeypatch.setenv("PATH", "/nonexistent")
    chosen = choose(python_folder)
    assert isinstance(chosen, Sandbox)
    assert chosen.tier.name == "landlock"
    (refusal,) = chosen.refusals
    assert "bwrap is not installed" in refusal.reason
    assert chosen.description.startswith(f"Python {platform.python_version()}")
    assert chosen.description.endswith(f" in landlock; not bubblewrap: {refusal.reason}")


IN_A_CONTAINER = """
import json, sys, time
from pathlib import Path
from deepserve.config import CodeLimits
from deepserve.tools.sandbox.inside.walls import forbid_calls
from deepserve.tools.sandbox.ladder import choose_sandbox

tier, folder, program = sys.argv[1:]
forbid_calls(bytes.fromhex(program))
chosen = choose_sandbox(CodeLimits(tier=tier, folder=Path(folder)), clock=time.monotonic)
told = {"refusals": [refusal.reason for refusal in chosen.refusals]}
if hasattr(chosen, "tier"):
    process = chosen.tier.start(0)
    told["tier"], told["value"] = chosen.tier.name, process.run("6 * 7", timeout_s=20).value
    process.end()
print(json.dumps(told))
"""


def as_in_a_container(tier: SandboxTier, python_folder: Path) -> Any:  # Any: as the program above writes it
    """Choose under a filter that refuses namespaces, as Docker's own does by default."""
    new_namespaces = 0x7E020000
    program = [
        filters._step(0x20, 0),
        *filters._answer(435, 0x00050000 | errno.ENOSYS),
        *[step for number in (272, 308, 165, 166, 155) for step in filters._answer(number, 0x00050000 | errno.EPERM)],
        *filters._for_call(
            56, [filters._argument(0), filters._step(0x45, new_namespaces, if_not=1), filters._step(0x06, 0x00050001)]
        ),
        filters._step(0x06, 0x7FFF0000),
    ]
    command = [sys.executable, "-c", IN_A_CONTAINER, tier, str(python_folder), b"".join(program).hex()]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the system calls are numbered for x86-64")
def test_where_namespaces_are_forbidden_it_is_landlock(python_folder: Path) -> None:
    open_sandbox(python_folder, "landlock")
    told = as_in_a_container("auto", python_folder)
    assert (told["tier"], told["value"]) == ("landlock", "42")
    (reason,) = told["refusals"]
    assert reason.startswith("bwrap: ")
    assert "namespace" in reason


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the system calls are numbered for x86-64")
def test_where_nothing_but_namespaces_would_do_nothing_runs(python_folder: Path) -> None:
    told = as_in_a_container("bubblewrap", python_folder)
    assert set(told) == {"refusals"}
    assert told["refusals"][1] == "not allowed by the settings"


def test_without_landlock_either_nothing_runs(python_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says what it says where Landlock is not built in."""
    monkeypatch.setenv("PATH", "/nonexistent")
    # The outer filter forbids Landlock's calls: what is inside then meets a kernel that refuses them.
    monkeypatch.setattr(landlock, "spawn", _spawn_without_landlock)
    chosen = choose(python_folder)
    assert isinstance(chosen, NoSandbox)
    assert [refusal.tier for refusal in chosen.refusals] == ["bubblewrap", "landlock"]
    assert "bwrap is not installed" in chosen.reason
    assert "Landlock" in chosen.reason


def _spawn_without_landlock(command: list[str], **options: object) -> object:
    from deepserve.tools.sandbox import launch

    boot = command.index("-c") + 1
    no_landlock = "import sandbox_inside.walls as walls; walls._LANDLOCK_CREATE_RULESET = 9999; "
    command[boot] = command[boot].replace("from sandbox_inside", no_landlock + "from sandbox_inside")
    return launch.spawn(command, **options)  # type: ignore[arg-type]  # passed on as they came


def test_a_tier_that_the_settings_exclude_is_not_tried(python_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    chosen = choose(python_folder, "bubblewrap")
    assert isinstance(chosen, NoSandbox)
    assert chosen.refusals[1] == Refusal("landlock", "not allowed by the settings")


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_elsewhere_than_on_linux_nothing_runs(
    system: str, python_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system.lower())
    monkeypatch.setattr(platform, "system", lambda: system)
    chosen = choose(python_folder)
    assert isinstance(chosen, NoSandbox)
    assert chosen.reason == f"any: there are walls for Linux only, and this is {system}"


def test_on_a_machine_whose_calls_are_unknown_nothing_runs(
    python_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    chosen = choose(python_folder)
    assert isinstance(chosen, NoSandbox)
    assert "riscv64" in chosen.reason


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_walls_with_holes_are_not_trusted(
    tier: SandboxTier, python_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that allows everything: the trials get through, and that is noticed."""
    open_sandbox(python_folder, tier)
    allow = filters._step(0x06, 0x7FFF0000)
    monkeypatch.setattr(bubblewrap, "outer_filter", lambda machine: allow)
    for module in (bubblewrap, landlock):
        monkeypatch.setattr(module, "inner_filter", lambda machine, **options: allow)
    chosen = choose(python_folder, tier)
    assert isinstance(chosen, NoSandbox)
    reason = next(refusal.reason for refusal in chosen.refusals if refusal.tier == tier)
    assert reason.startswith("its walls do not hold here: sockets, processes")


def test_a_readable_file_of_the_host_is_noticed(python_folder: Path) -> None:
    process = open_sandbox(python_folder, "landlock").tier.start(0)
    try:
        folder = process.run("import os; print(os.getcwd())", timeout_s=20).stdout.strip()
        with pytest.raises(StartFailed, match="files can be reached"):
            try_out(process, Path(folder))
    finally:
        process.end()
