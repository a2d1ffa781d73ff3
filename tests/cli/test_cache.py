"""`deepserve cache explain` on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deepserve.cli import main

CHAT = {
    "model": "deepseek-v4-flash",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count to three"}],
}
BODIES: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "messages": {
        "model": "deepseek-v4-flash",
        "max_tokens": 9,
        "system": "Be brief.",
        "messages": CHAT["messages"][1:],
    },
    "responses": {"model": "deepseek-v4-flash", "instructions": "Be brief.", "input": "Count to three"},
    "completions": {"model": "deepseek-v4-flash", "prompt": "Count to three"},
}


def compare(folder: Path, one: object, other: object, *options: str) -> tuple[int, str]:
    paths = [folder / "one.json", folder / "other.json"]
    for path, body in zip(paths, (one, other), strict=True):
        path.write_text(body if isinstance(body, str) else json.dumps(body))
    result = CliRunner().invoke(main, ["cache", "explain", *map(str, paths), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("dialect", BODIES)
def test_bodies_of_every_dialect_are_told_by_their_members(tmp_path: Path, dialect: str) -> None:
    one = BODIES[dialect]
    other = json.loads(json.dumps(one).replace("three", "twelve"))
    code, output = compare(tmp_path, one, other)
    assert code == 0, output
    assert "Count to three" in output
    assert "Count to twelve" in output
    assert "prompt tokens stand in both" in output
    assert compare(tmp_path, one, other, "--dialect", dialect) == (code, output)


def test_the_diff_shows_place_texts_tokens_and_price(tmp_path: Path) -> None:
    other = {**CHAT, "messages": [{"role": "system", "content": "Be brie."}, CHAT["messages"][1]]}
    code, output = compare(tmp_path, CHAT, other)
    assert code == 0
    assert "messages[0].content, after 7 characters:" in output
    assert "  - Be brief." in output
    assert "  + Be brie." in output
    assert "deepseek/deepseek-v4-flash@" in output
    assert "in the one and" in output


def test_what_a_terminal_would_obey_is_spelled_out(tmp_path: Path) -> None:
    other = {**CHAT, "messages": [{"role": "system", "content": "\x1b[2J\n"}]}
    assert "+ \\x1b[2J\\n" in compare(tmp_path, CHAT, other)[1]


def test_programs_get_json(tmp_path: Path) -> None:
    code, output = compare(tmp_path, CHAT, {**CHAT, "thinking": {"type": "disabled"}}, "--json")
    assert code == 0
    found = json.loads(output)
    assert (found["reason"], found["difference"]["path"]) == ("differs", "thinking")
    assert not found["is_estimated"]


def test_a_body_that_no_server_would_take_is_named(tmp_path: Path) -> None:
    code, output = compare(tmp_path, CHAT, {**CHAT, "temperature": "hot"})
    assert code == 1
    assert "other.json is not a request" in output
    assert "temperature" in output
    assert compare(tmp_path, "{", CHAT)[0] == 1


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cache-explained.md").read_text()
    shown = page.split("second.json\n", 1)[1].split("…", 1)[0]
    user = {"role": "user", "content": "hi"}
    one, other = (
        {**CHAT, "messages": [{"role": "system", "content": f"You are kind. Now: {moment}. Be brief."}, user]}
        for moment in ("2026-05-01 10:00:03", "2026-05-01 10:00:07")
    )
    assert compare(tmp_path, one, other)[1].startswith(shown)
