"""The newest Runware SDK for Python, unmodified: later by default, over WebSocket and HTTP, with streams over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from deepserve.config import Settings
from tests.server.live import live_server

FOLDER = Path(__file__).parent / "runware_sdk"
PYTHON = FOLDER / ".venv" / "bin" / "python"
IS_INSTALLED = (FOLDER / ".venv" / ".installed").is_file()
NUM_CONVERSATIONS = 14
TIMEOUT_S = 120.0


def test_every_call_is_answered(mini_server: str) -> None:
    if not IS_INSTALLED:
        reason = "runware-sdk cannot run here: `make test` installs it, in an environment of its own."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with live_server(settings=Settings(api_keys=("sk-right",))) as keyed:
        environment = {**os.environ, "DEEPSERVE_URL": mini_server, "DEEPSERVE_KEYED_URL": keyed.address}
        script = [str(PYTHON), str(FOLDER / "every_call.py")]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in told if "error" in one] == []
    assert len({one["name"] for one in told}) == NUM_CONVERSATIONS
