"""Sandboxes of both kinds. Where CI is set, one that cannot be had is a failure; elsewhere its tests are skipped."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from deepserve.config import CodeLimits, SandboxTier
from deepserve.tools.sandbox.ladder import NoSandbox, Sandbox, choose_sandbox
from deepserve.tools.sandbox.process import Process


@pytest.fixture(scope="session")
def python_folder() -> Iterator[Path]:
    """Where the Python of the sandbox is prepared: kept for the next run, where other users can look.

    As root's, sandboxes are other users.
    """
    kept = Path(__file__).parents[3] / "build" / "sandbox"
    kept.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.geteuid() != 0 or all(path.stat().st_mode & stat.S_IXOTH for path in kept.parents):
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="deepserve-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def open_sandbox(folder: Path, tier: SandboxTier, **changes: object) -> Sandbox:
    limits = msgspec.structs.replace(CodeLimits(tier=tier, folder=folder), **changes)
    if sys.platform != "linux":
        pytest.skip("there are sandboxes for Linux only")
    sandbox = choose_sandbox(limits, clock=time.monotonic)
    if isinstance(sandbox, NoSandbox):
        if os.environ.get("CI"):
            pytest.fail(f"CI must have every sandbox: {sandbox.reason}")
        pytest.skip(sandbox.reason)
    return sandbox


@pytest.fixture(scope="session", params=["bubblewrap", "landlock"])
def sandbox(request: pytest.FixtureRequest, python_folder: Path) -> Sandbox:
    return open_sandbox(python_folder, request.param)


@pytest.fixture
def process(sandbox: Sandbox) -> Iterator[Process]:
    process = sandbox.tier.start(0)
    yield process
    process.end()


@pytest.fixture
def readable_folder() -> Iterator[Path]:
    """Unlike pytest's own, one that other users can look into."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
