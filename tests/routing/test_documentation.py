"""docs/routing.md tells of every name and rule, with the numbers of the code."""

import re
from pathlib import Path
from typing import get_args

from deepserve.catalog.presets import AUTO, LaneRow, load_presets
from deepserve.core.routing import CheckName
from deepserve.routing import escalation
from deepserve.routing.policy import policy_of

PAGE = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]


def shown(lane: LaneRow | None) -> str:
    if lane is None:
        return ""
    name = "Pro" if lane.model.endswith("pro") else "Flash"
    return name if lane.thinking is None else f"{name}, {lane.thinking}"


def test_every_preset_has_its_row() -> None:
    rows = {row[0].strip("`"): row[1:] for row in ROWS}
    for preset in load_presets().rows:
        hard = "the rules below" if preset.id == AUTO else shown(preset.hard)
        assert rows[preset.id] == [shown(preset.usual), hard, preset.expected_cost or ""]


def test_the_rules_stand_in_their_order() -> None:
    preset = load_presets().find(AUTO)
    assert preset is not None
    rules = [rule.name for rule in policy_of(preset).rules]
    assert [row[0].strip("`") for row in ROWS if row[0].strip("`") in rules] == rules


def test_every_header_of_the_page_is_one_that_is_read() -> None:
    code = (Path(__file__).parents[2] / "src/deepserve/dialects/routing_wishes.py").read_text()
    read = set(re.findall(r'"(x-deepserve-[a-z-]+)"', code))
    assert set(re.findall(r"x-deepserve-[a-z-]+", PAGE)) == read | {"x-deepserve-route"}


def test_every_check_is_told_and_who_makes_it_unasked() -> None:
    rows = [row[0].strip("`") for row in ROWS]
    assert [name for name in rows if name in get_args(CheckName)] == list(get_args(CheckName))
    unasked = {preset.id: preset.checks for preset in load_presets().rows if preset.checks}
    assert unasked == {"auto:coding-agent": ("form", "arguments")}
    assert "`auto:coding-agent` checks `form` and\n`arguments` by itself" in PAGE
    assert f"below {escalation.LEAST_PROBABILITY}" in PAGE
    assert f"{escalation.EXPECTED_OUTPUT_TOKENS:,} tokens" in PAGE
