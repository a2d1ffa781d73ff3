"""The page about this service says what the code does, and its example runs."""

import contextlib
import io
import re
from pathlib import Path

from deepserve.dialects.chat.fields import IGNORED as CHAT_IGNORED
from deepserve.dialects.chat.oxen.flavour import IGNORED
from tests.server.live import live_server

_PAGE = (Path(__file__).parents[4] / "docs" / "oxen-api.md").read_text()


def test_the_table_is_that_of_the_code() -> None:
    found = re.search(r"<!-- ignored -->\n(.*?)<!-- end -->", _PAGE, re.DOTALL)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[1].strip().splitlines()[2:]]
    listed = {field.strip().strip("`"): why.strip() for field, why in rows}
    assert listed == {name: why for name, why in IGNORED.items() if name not in CHAT_IGNORED}


def test_the_example_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    printed = io.StringIO()
    with live_server() as live, contextlib.redirect_stdout(printed):
        exec(program.replace("http://127.0.0.1:8000", live.address), {})
    assert printed.getvalue().startswith("You said: Hello, what can you do?")
