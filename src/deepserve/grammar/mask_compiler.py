"""llguidance, asked whether it takes a schema; its answers in our words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import llguidance
import msgspec

from deepserve.core.messages import Json


class Problem(msgspec.Struct, frozen=True):
    """What the mask compiler says of a schema. text: one line."""

    text: str
    is_contradiction: bool


_PLAINER: Final[Mapping[str, str]] = {
    "Regex is empty": "no text fits all that is asked of it",
    "lookarounds not supported": "anchors and word boundaries inside an expression are not supported",
    "regex parse error": "the expression uses a construct that is not supported",
    "circular references with sibling keys": "a reference of a schema to itself may have nothing beside it",
    "min/maxProperties only supported": "members are counted only where all declared ones are required",
}
"""How the mask compiler's words begin -> our words."""


def problem_with(schema: Mapping[str, Json]) -> Problem | None:
    """What keeps a schema in its spelling from being compiled, or None."""
    text = msgspec.json.encode(schema).decode()
    said = llguidance.LLMatcher.validate_grammar(llguidance.LLMatcher.grammar_from_json_schema(text))
    if not said or said.startswith("WARNING"):
        return None
    line = said.splitlines()[0]
    reason = line.removeprefix("ERROR: ").removeprefix("Unsatisfiable schema: ")
    reason = next((plainer for start, plainer in _PLAINER.items() if reason.startswith(start)), reason)
    return Problem(reason[:200], "nsatisfiable" in line)


def contradicts(schema: Json) -> bool:
    """Whether a schema is known to admit nothing."""
    problem = problem_with(schema)
    return problem is not None and problem.is_contradiction
