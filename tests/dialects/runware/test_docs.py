"""The page about this dialect says what the code does."""

import re
from pathlib import Path

from deepserve.config import SocketLimits
from deepserve.dialects.runware import fields
from deepserve.server.runware import endpoint, socket

_PAGE = (Path(__file__).parents[3] / "docs" / "runware-api.md").read_text()


def _table(name: str) -> dict[str, str]:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", _PAGE, re.DOTALL)
    assert found is not None
    rows = [line.strip("|").split("|") for line in found[1].strip().splitlines()[2:]]
    return {field.strip().strip("`"): why.strip() for field, why in rows}


def test_the_tables_are_those_of_the_code() -> None:
    assert _table("ignored") == dict(fields.IGNORED)
    assert _table("refused") == dict(fields.REFUSED)


def test_every_member_is_on_the_page() -> None:
    for name in fields.TASK_FIELDS | fields.SETTINGS_FIELDS:
        assert f"`{name}`" in _PAGE, name


def test_the_numbers_are_those_of_the_code() -> None:
    limits = SocketLimits()
    for said in (
        f"at most {fields.MAX_OUTPUT_TOKENS}, by default {fields.DEFAULT_OUTPUT_TOKENS}",
        f"1 to {fields.MAX_RESULTS};",
        f"After {endpoint.PATIENCE_S:.0f} seconds ({socket.PATIENCE_S:.0f} over a WebSocket)",
        f"comes back within {limits.resume_s:.0f} seconds",
        f"more than {limits.frame_bytes >> 20} MiB do not fit",
        f"for {limits.login_s:.0f} seconds or nothing arrives for {limits.idle_s:.0f}",
        f"messages of more than {limits.message_bytes >> 20} MiB",
        f"at most {limits.num_tasks} unfinished tasks",
        f"at most {endpoint.ANONYMOUS_BODY_BYTES >> 20} MiB",
    ):
        assert said in " ".join(_PAGE.split()), said
