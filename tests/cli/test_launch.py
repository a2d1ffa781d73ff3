"""`deepserve launch`: printed for a shell, as JSON, as a table, or run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.catalog.launch import LaunchWish, launch_command, load_launch_book
from deepserve.cli import main

FLASH = launch_command(LaunchWish(engine="vllm", model="flash", gpus="4xMI355X"), load_launch_book())


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["launch", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_is_printed_is_what_a_shell_would_run() -> None:
    lines = [line for line in printed("vllm", "--gpus", "4xMI355X").splitlines() if not line.startswith("#")]
    words = shlex.split("\n".join(lines).replace("\\\n", " "))
    assert words == ["VLLM_ROCM_USE_AITER=1", *FLASH.args]


def test_it_says_what_it_comes_from_and_what_comes_next() -> None:
    text = printed("sglang", "--gpus", "4xB200", "--host", "0.0.0.0", "--port", "31000")
    assert "# github.com/sgl-project/sglang" in text
    assert "deepserve serve --upstream sglang=http://127.0.0.1:31000 --upstream-tokenizer" in text


def test_programs_get_it_as_json() -> None:
    found = json.loads(printed("vllm", "--gpus", "4xMI355X", "--json"))
    assert found == {"args": list(FLASH.args), "env": {"VLLM_ROCM_USE_AITER": "1"}}


def test_the_list_shows_what_somebody_runs() -> None:
    text = printed("--list")
    assert all(row.gpus[0] in text and row.source in text for row in load_launch_book().known)
    assert "sglang" not in printed("vllm", "--list").replace("sgl-project", "")


def test_own_arguments_follow_two_hyphens() -> None:
    assert "--seed 1" in printed("vllm", "--gpus", "4xH200", "--", "--seed", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Name what to start: vllm, sglang, nim, llamacpp"),
        (("vllm",), "--gpus 8xH200"),
        (("vllm", "--gpus", "8xMI300X"), "This does not work: vLLM does not run V4 on it"),
        (("llamacpp",), "name it with --gguf"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_told(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(main, ["launch", *arguments])
    assert result.exit_code != 0
    assert words in result.output


def run_with(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deepserve", "launch", *arguments],
        env={**os.environ, "PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="becoming another program is for POSIX systems")
def test_running_becomes_the_program_with_its_arguments_and_environment(tmp_path: Path) -> None:
    program = tmp_path / "vllm"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nprint(sys.argv[1:], os.environ['VLLM_ROCM_USE_AITER'])\nsys.exit(3)\n"
    )
    program.chmod(0o755)
    ended = run_with(tmp_path, "vllm", "--gpus", "4xMI355X", "--run")
    assert (ended.returncode, ended.stdout.strip()) == (3, f"{list(FLASH.args[1:])} 1")


def test_running_what_is_not_installed_says_how_to_get_it(tmp_path: Path) -> None:
    ended = run_with(tmp_path, "vllm", "--gpus", "4xH200", "--run")
    assert ended.returncode == 1
    assert "vllm is not installed here: pip install vllm" in ended.stderr
