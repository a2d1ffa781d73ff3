"""Serving natively needs a small installation only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deepserve.engine.native.shared_library import find_library

ANSWER_NATIVELY = """
import sys
from click.testing import CliRunner
from deepserve.cli import main
result = CliRunner().invoke(main, ["chat", "Count to 3.", "--engine", "native", "--max-tokens", "4"])
assert result.exit_code == 0, result.output
print(sorted({"torch", "numpy", "safetensors"} & sys.modules.keys()))
"""


@pytest.mark.skipif(find_library() is None, reason="this installation has no native core")
def test_an_answer_of_the_native_engine_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", ANSWER_NATIVELY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
