"""instructor, unmodified, while the model thinks: typed answers in every mode that leaves the form to the server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "instructor"
PYTHON = FOLDER / ".venv" / "bin" / "python"
IS_INSTALLED = (FOLDER / ".venv" / ".installed").is_file()
NUM_MODES = 9
TIMEOUT_S = 120.0


def test_every_mode_gets_its_answer_at_the_first_attempt(mini_server: str) -> None:
    if not IS_INSTALLED:
        reason = "instructor cannot run here: `make test` installs it, in an environment of its own."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    environment = {**os.environ, "DEEPSERVE_URL": mini_server}
    script = [str(PYTHON), str(FOLDER / "every_mode.py")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert len(told) == NUM_MODES
    assert [one for one in told if "error" in one] == []
    assert [one["mode"] for one in told if not one["trace"]] == []
