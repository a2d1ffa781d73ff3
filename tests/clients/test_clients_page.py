"""docs/clients.md names exactly the clients that are installed for the tests."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text()
NOT_CLIENTS = {"zod"}
"""What a client needs beside it."""


def named_packages() -> set[str]:
    first_table = PAGE.split("\n\n")[2]
    return {name for row in first_table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_javascript_package_of_the_tests_is_on_the_page() -> None:
    wanted = json.loads((ROOT / "tests" / "clients" / "js" / "package.json").read_text())["dependencies"]
    assert set(wanted) - NOT_CLIENTS <= named_packages()


def test_every_package_on_the_page_is_installed_for_the_tests() -> None:
    javascript = json.loads((ROOT / "tests" / "clients" / "js" / "package.json").read_text())["dependencies"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    apart = [line for path in ROOT.glob("tests/clients/*/requirements.txt") for line in path.read_text().splitlines()]
    python = {re.split(r"[<>=\[]", requirement)[0] for requirement in [*extras, *apart]}
    assert len(named_packages()) > 10
    assert named_packages() <= {*javascript, *python}
