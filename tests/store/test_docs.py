"""The page about databases says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.cli import main
from deepserve.config import DatabaseLimits, TaskLimits
from deepserve.store.database import _FILE

PAGE = (Path(__file__).parents[2] / "docs" / "database.md").read_text()


def test_numbers_are_the_defaults() -> None:
    text = " ".join(PAGE.split())
    limits = DatabaseLimits()
    assert f"at most {limits.connections} connections" in text
    assert (
        f"gives up on a connection after {limits.connect_s:g} s, on a statement after {limits.statement_s:g} s" in text
    )
    lease = TaskLimits().lease_s
    assert text.count(f"after {lease:g} s") == 3, "two of a lease, one of a statement that happens to be as long"
    assert f"`{_FILE}`" in text


@pytest.mark.parametrize("option", ["--database", "--secret-file", "--workers"])
def test_options_exist(option: str) -> None:
    assert option in PAGE
    assert option in CliRunner().invoke(main, ["serve", "--help"]).output


def test_commands_exist() -> None:
    for command in set(re.findall(r"`deepserve ([a-z]+ [a-z-]+)`", PAGE)):
        result = CliRunner().invoke(main, [*command.split(), "--help"])
        assert result.exit_code == 0, command
    for name in ("keys", "tasks", "webhooks", "usage"):
        assert f"`{name}`" in PAGE or f"deepserve {name}" in PAGE
