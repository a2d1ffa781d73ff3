"""The unmodified JavaScript SDKs: each script in js/ is a set of node tests, run against the model that ships."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "js"
NODE = shutil.which("node")
IS_INSTALLED = (FOLDER / "node_modules" / ".installed").is_file()
TIMEOUT_S = 60.0


@pytest.fixture(scope="session")
def node() -> str:
    """Where node is; without it, or without the SDKs, the tests are skipped, and fail where CI is set."""
    if NODE is not None and IS_INSTALLED:
        return NODE
    missing = "there is no node" if NODE is None else "`make test` installs them with npm"
    reason = f"The JavaScript SDKs cannot run here: {missing}."
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
def test_every_node_test_passes(script: str, node: str, mini_server: str) -> None:
    command = [node, "--test-reporter=spec", script]
    environment = {**os.environ, "DEEPSERVE_URL": mini_server}
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    assert re.search(r"\bpass [1-9]", report), report  # a script without tests also ends well
