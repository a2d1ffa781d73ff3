"""The page about this service says what the code does, and its example runs."""

import contextlib
import io
import re
from pathlib import Path

from deepserve.dialects.chat.openrouter.flavour import IGNORED, PARAMETERS, REFUSED
from deepserve.dialects.chat.openrouter.plugins import HARMLESS
from deepserve.dialects.openrouter.provider import EXCLUDED_BY
from tests.server.live import live_server

_PAGE = (Path(__file__).parents[4] / "docs" / "openrouter-api.md").read_text()


def _table(name: str) -> dict[str, str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", _PAGE, re.DOTALL)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[1].strip().splitlines()[2:]]
    return {field.strip().strip("`"): why.strip() for field, why in rows}


def test_the_tables_are_those_of_the_code() -> None:
    assert _table("ignored") == dict(IGNORED)
    assert _table("refused") == dict(REFUSED)
    assert {f"plugins[].{name}" for name in HARMLESS} <= IGNORED.keys()


def test_every_wish_that_is_checked_is_on_the_page() -> None:
    for field in EXCLUDED_BY:
        assert f"`{field.removeprefix('provider.')}`" in _PAGE


def test_what_is_refused_is_not_listed_as_a_parameter() -> None:
    assert not REFUSED.keys() & set(PARAMETERS)
    assert "top_a" not in PARAMETERS  # the embedded engine does not know it


def test_the_example_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    printed = io.StringIO()
    with live_server() as live, contextlib.redirect_stdout(printed):
        exec(program.replace("http://127.0.0.1:8000", live.address), {})
    assert printed.getvalue().startswith("You said: Hello!")
