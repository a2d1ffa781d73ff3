"""The page about thinking traces says what the code does."""

from pathlib import Path

from deepserve.config import Settings

_PAGE = (Path(__file__).parents[2] / "docs" / "thinking-traces.md").read_text()


def test_the_numbers_are_those_of_the_settings() -> None:
    settings = Settings()
    assert f"They stay {settings.kept_turns_s / 86_400:g} days" in _PAGE
    assert f"at most {settings.kept_turns_bytes >> 20} MiB for each tenant" in _PAGE
