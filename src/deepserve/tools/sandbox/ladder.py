"""Which walls there are here: decided once, at start, by trying, the strongest first. Without any, nothing runs."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from deepserve.config import CodeLimits

if TYPE_CHECKING:  # these exist on Linux only
    from deepserve.tools.sandbox.launch import Tier
    from deepserve.tools.sandbox.runtime import Runtime

SandboxName = Literal["bubblewrap", "landlock"]
_STRONGEST_FIRST: tuple[SandboxName, ...] = ("bubblewrap", "landlock")

_FONT_LIST_S = 30.0
_FONT_LIST_PREFIX = "fontlist"
_WRITE_FONT_LIST = """
import glob, matplotlib.font_manager, os, shutil
for path in glob.glob(os.path.join(os.environ["MPLCONFIGDIR"], "fontlist*.json")):
    shutil.copyfile(path, os.path.basename(path))
"""


class Refusal(msgspec.Struct, frozen=True):
    """Why a kind of walls is not used."""

    tier: str
    reason: str


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """Walls that hold here. refusals: of the stronger ones."""

    tier: Tier
    runtime: Runtime
    limits: CodeLimits
    refusals: tuple[Refusal, ...]

    @property
    def description(self) -> str:
        """What runs in it, which walls these are, and why they are no stronger."""
        python = ", ".join([f"Python {platform.python_version()}", *self.runtime.offered_names()])
        stronger = "".join(f"; not {refusal.tier}: {refusal.reason}" for refusal in self.refusals)
        return f"{python} in {self.tier.name}{stronger}"


class NoSandbox(msgspec.Struct, frozen=True):
    """None hold here: code of strangers is not run."""

    refusals: tuple[Refusal, ...]

    @property
    def reason(self) -> str:
        return "; ".join(f"{refusal.tier}: {refusal.reason}" for refusal in self.refusals)


def choose_sandbox(
    limits: CodeLimits,
    *,
    clock: Callable[[], float],
    session_folder: Path | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Sandbox | NoSandbox:
    """Try what the settings allow. Takes about a second, and some more the first time, when Python is copied.

    session_folder  where sessions of the second tier keep their files; None: where temporary files are
    on_progress     told before something that takes seconds

    Raises ConfigurationError if that copy cannot be made.
    """
    if sys.platform != "linux":
        return NoSandbox((Refusal("any", f"there are walls for Linux only, and this is {platform.system()}"),))

    from deepserve.tools.sandbox.bubblewrap import Bubblewrap
    from deepserve.tools.sandbox.canary import try_out
    from deepserve.tools.sandbox.landlock import Landlock
    from deepserve.tools.sandbox.launch import this_machine
    from deepserve.tools.sandbox.process import StartFailed
    from deepserve.tools.sandbox.runtime import default_folder, prepare_runtime

    machine = this_machine()
    if machine is None:
        return NoSandbox((Refusal("any", f"the system calls of {platform.machine()} are not known to it"),))
    runtime = prepare_runtime(limits.folder or default_folder(), on_progress=on_progress)
    refusals = []
    for name in _STRONGEST_FIRST:
        if limits.tier not in ("auto", name):
            refusals.append(Refusal(name, "not allowed by the settings"))
            continue
        tier: Tier = (
            Bubblewrap(runtime, limits, machine, clock)
            if name == "bubblewrap"
            else Landlock(runtime, limits, machine, clock, folder=session_folder)
        )
        try:
            process = tier.start(0)
            try:
                try_out(process, runtime.folder.parent)
            finally:
                process.end()
            _keep_font_list(tier, runtime)
        except StartFailed as error:
            refusals.append(Refusal(name, str(error)))
            continue
        return Sandbox(tier=tier, runtime=runtime, limits=limits, refusals=tuple(refusals))
    return NoSandbox(tuple(refusals))


def _keep_font_list(tier: Tier, runtime: Runtime) -> None:
    """Have matplotlib look for fonts once, inside, instead of in every session."""
    if runtime.font_lists() or not any(package.name == "matplotlib" for package in runtime.offered):
        return
    process = tier.start(0)
    try:
        result = process.run(_WRITE_FONT_LIST, timeout_s=_FONT_LIST_S)
    finally:
        process.end()
    for name, content in result.files:
        if name.startswith(_FONT_LIST_PREFIX):
            runtime.keep_font_list(name, content)
