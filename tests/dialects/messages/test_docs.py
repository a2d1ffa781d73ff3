"""The page about the Messages API says what the code does."""

import contextlib
import io
import re
from pathlib import Path

from deepserve.dialects.messages.fields import IGNORED, REFUSED, REFUSED_BLOCKS
from deepserve.dialects.messages.response import STOP_REASONS
from deepserve.server.messages import PREFIXES

_PAGE = (Path(__file__).parents[3] / "docs" / "messages-api.md").read_text()


def _table(name: str) -> dict[str, str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", _PAGE, re.DOTALL)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[1].strip().splitlines()[2:]]
    return {field.strip().strip("`"): why.strip() for field, why in rows}


def test_the_ignored_fields_are_exactly_those_of_the_table() -> None:
    assert _table("ignored") == dict(IGNORED)


def test_the_refused_fields_are_exactly_those_of_the_table() -> None:
    assert _table("refused") == dict(REFUSED)
    assert all(f"`{kind}`" in _PAGE for kind in REFUSED_BLOCKS)


def test_every_prefix_and_every_reason_is_listed() -> None:
    assert "{" + ",".join(PREFIXES) + "}/messages" in _PAGE
    assert all(f"`{reason}`" in _PAGE for reason in STOP_REASONS.values())


def test_the_example_prints_an_answer(mini_server: str) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program.replace("http://127.0.0.1:8000", mini_server), {})
    assert printed.getvalue().strip()
