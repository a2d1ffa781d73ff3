"""The page about the Responses API says what the code does."""

import re
import tomllib
from pathlib import Path

from deepserve.config import Settings
from deepserve.dialects.responses.compaction import MAX_KEPT_CHARACTERS
from deepserve.dialects.responses.errors import CODES
from deepserve.dialects.responses.fields import IGNORED, REFUSED
from deepserve.server.responses import PREFIXES

_PAGE = (Path(__file__).parents[3] / "docs" / "responses-api.md").read_text()


def _table(name: str) -> dict[str, str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", _PAGE, re.DOTALL)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[1].strip().splitlines()[2:]]
    return {field.strip().strip("`"): why.strip() for field, why in rows}


def test_the_ignored_fields_are_exactly_those_of_the_table() -> None:
    assert _table("ignored") == dict(IGNORED)


def test_the_refused_fields_are_exactly_those_of_the_table() -> None:
    assert _table("refused") == dict(REFUSED)


def test_the_numbers_are_those_of_the_settings() -> None:
    settings = Settings()
    for text in (
        f"kept for {settings.kept_responses_s / 86_400:g} days",
        f"at most {settings.kept_responses:,} responses and\n{settings.kept_responses_bytes >> 20} MiB",
        f"to {MAX_KEPT_CHARACTERS:,} characters",
    ):
        assert text in _PAGE, text


def test_every_prefix_and_every_code_on_the_page_exists() -> None:
    assert "{" + ",".join(PREFIXES) + "}/responses" in _PAGE
    listed = re.search(r"OpenAI's codes: (.*?)…", _PAGE, re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) <= {*CODES.values(), "previous_response_not_found"}


def test_the_configuration_of_codex_is_valid() -> None:
    [text] = re.findall(r"```toml\n(.*?)```", _PAGE, re.DOTALL)
    assert tomllib.loads(text)["model_providers"]["local"]["wire_api"] == "responses"
