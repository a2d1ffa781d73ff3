"""What docs/keys.md says is so."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.cli import main
from deepserve.config import WaitLimits
from deepserve.limits import turnstile
from deepserve.limits.permit import CHUNK_TOKENS
from deepserve.limits.rate import PERIOD_US, Rate
from deepserve.server import known_keys

TEXT = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()
WORDS = " ".join(TEXT.split())


def test_its_numbers_are_those_of_the_code() -> None:
    limits = WaitLimits()
    assert f"up to {limits.wait_s:g} seconds, {limits.places} of them" in WORDS
    assert f"of {CHUNK_TOKENS:,} tokens of output" in WORDS
    assert f"at most once in {known_keys._FRESH_S:g} second" in WORDS
    assert f"after {turnstile._LEASE_S:g} seconds" in WORDS
    long_ago = Rate(1).wait_us(10**18, 0, 1)
    assert long_ago <= 2 * PERIOD_US
    assert "for longer than two minutes" in WORDS


@pytest.mark.parametrize("line", re.findall(r"^deepserve (keys .*)$", TEXT, re.MULTILINE))
def test_its_commands_run(line: str, tmp_path: Path) -> None:
    def run(words: str) -> None:
        result = CliRunner().invoke(main, [*words.split(), "--state-dir", str(tmp_path)])
        assert result.exit_code == 0, result.output

    if "create" not in line:
        run("keys create acme --name ci")
    run(line)


def test_every_option_of_a_key_is_told() -> None:
    for command in ("create", "set"):
        shown = CliRunner().invoke(main, ["keys", command, "--help"]).output
        for option in re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE):
            if option not in ("--help", "--json", "--config", "--state-dir", "--database", "--name"):
                assert f"`{option}`" in TEXT, option
