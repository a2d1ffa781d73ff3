"""Folders that models may search, as they are written on the command line."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from deepserve.cli.tool_options import name_folders, tool_options
from deepserve.config import Settings


def test_folders_are_named_by_the_operator_or_after_themselves(tmp_path: Path) -> None:
    plain, odd = tmp_path / "My Notes_2", tmp_path / "a=b"
    plain.mkdir()
    odd.mkdir()
    assert name_folders([f"handbook={plain}", str(plain), str(odd)]) == {
        "handbook": plain,
        "my-notes-2": plain,
        "a-b": odd,
    }


@pytest.mark.parametrize("value", ["Upper=.", "a b=.", "-x=.", "=.", "x=/no/such/folder", "/no/such/folder", ""])
def test_what_is_no_named_folder_is_refused(value: str) -> None:
    if value:
        with pytest.raises(click.BadParameter):
            name_folders([value])


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="Two folders"):
        name_folders([f"x={tmp_path}", f"x={tmp_path}"])


def test_every_option_is_a_setting(tmp_path: Path) -> None:
    taken: dict[str, object] = {}

    @click.command()
    @tool_options
    def command(**options: object) -> None:
        taken.update(options)

    (tmp_path / "f").write_text("")
    arguments = (
        f"--search-folder n={tmp_path} --search tavily --search-url https://x --search-key-file {tmp_path}/f --fetch "
        f"--fetch-site a.example --fetch-never b.example --fetch-any-address --allow-fetch-of 127.0.0.1:1 "
        f"--fetch-over-http --code --mcp-config {tmp_path}/f"
    )
    result = CliRunner().invoke(command, arguments.split())
    assert result.exit_code == 0, result.output
    settings = Settings(**taken)  # type: ignore[arg-type]  # what click made of them
    assert settings.search_folders == {"n": tmp_path}
    assert all(taken.values())
