"""A server that is killed cannot clean up: the kernel and the next server do."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepserve.config import CodeLimits, SandboxTier
from deepserve.tools.sandbox.ladder import Sandbox, choose_sandbox
from tests.tools.sandbox.conftest import open_sandbox

SERVER = """
import sys, time
from pathlib import Path
from deepserve.config import CodeLimits
from deepserve.tools.sandbox.ladder import choose_sandbox

tier, folder, sessions = sys.argv[1:]
limits = CodeLimits(tier=tier, folder=Path(folder))
sandbox = choose_sandbox(limits, clock=time.monotonic, session_folder=Path(sessions))
process = sandbox.tier.start(0)
process.run("import ctypes; ctypes.CDLL(None).prctl(1, 0)", timeout_s=20)
print(process.pid, flush=True)
process.run("while True: pass", timeout_s=1000)
"""


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_programs_end_with_a_killed_server_and_their_folders_with_the_next(
    tier: SandboxTier, python_folder: Path, readable_folder: Path
) -> None:
    """The program has tried to take back that it dies with its parent."""
    open_sandbox(python_folder, tier)
    sessions = readable_folder
    command = [sys.executable, "-c", SERVER, tier, str(python_folder), str(sessions)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        program = os.pidfd_open(int(server.stdout.readline()))
        server.kill()
    poll = select.poll()
    poll.register(program, select.POLLIN)
    assert poll.poll(20_000) != []
    os.close(program)
    assert len(list(sessions.iterdir())) == (tier == "landlock")
    limits = CodeLimits(tier=tier, folder=python_folder)
    assert isinstance(choose_sandbox(limits, clock=time.monotonic, session_folder=sessions), Sandbox)
    assert list(sessions.iterdir()) == []
