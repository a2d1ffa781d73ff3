"""The page about completions says what the code does."""

import re
from pathlib import Path

from deepserve.dialects.completions.fields import DOCUMENTED, EXTENSIONS, IGNORED, MAX_OUTPUT_TOKENS, REFUSED

_PAGE = (Path(__file__).parents[3] / "docs" / "completions-api.md").read_text()


def _table(name: str) -> dict[str, str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", _PAGE, re.DOTALL)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[1].strip().splitlines()[2:]]
    return {field.strip().strip("`"): why.strip() for field, why in rows}


def test_the_tables_are_those_of_the_code() -> None:
    assert _table("ignored") == dict(IGNORED)
    assert _table("refused") == dict(REFUSED)


def test_every_field_is_on_the_page_and_the_default_limit_is_right() -> None:
    for name in (DOCUMENTED | EXTENSIONS) - {"model"}:
        assert f"`{name}`" in _PAGE, name
    assert f"default {MAX_OUTPUT_TOKENS};" in _PAGE
