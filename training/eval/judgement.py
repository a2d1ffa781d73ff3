"""Whether an answer is right: exactly, each kind of answer by what matters in it."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from training.conversations import Conversation
from training.eval.examinee import Written

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_RESULT = re.compile(r"= -?\d+(?:\.\d+)?\.?$")
"""How the right answer to a sum ends: then the number counts, however it is wrapped in words."""


def is_right(conversation: Conversation, written: Written) -> bool:
    """By calls, values, facts, the number, or the text: whichever the right answer has. The thought is free."""
    wanted = conversation.turns[-1]
    if wanted.calls:
        expected = [(call.name, dict(call.arguments)) for call in wanted.calls]
        return _same_calls(expected, [(call.name, _parsed(call.arguments)) for call in written.calls])
    if written.calls:
        return False
    if conversation.json_object or conversation.json_schema is not None:
        return same_value(_parsed(wanted.content), _parsed(written.text))
    if conversation.facts:
        return all(any(says(written.text, spelling) for spelling in fact) for fact in conversation.facts)
    if conversation.skill.startswith("arithmetic.") and _RESULT.search(wanted.content):
        return _last_number(written.text) == _last_number(wanted.content)
    return normal(written.text) == normal(wanted.content)


def same_value(one: Any, other: Any) -> bool:  # Any: JSON values
    """Equality of JSON values: 1 is 1.0, but not true; order counts in lists only."""
    if isinstance(one, _NotJson) or isinstance(other, _NotJson):
        return False
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    return bool(one == other)


def says(text: str, spelling: str) -> bool:
    """Whether a text contains a fact, as whole words and whole numbers; case and kinds of blanks do not matter."""
    wanted = normal(spelling, strips_marks=False)
    before = r"(?<![a-z0-9])(?<!\d[.,])" if wanted[:1].isascii() and wanted[:1].isalnum() else ""
    after = r"(?![a-z0-9])(?![.,]\d)" if wanted[-1:].isascii() and wanted[-1:].isalnum() else ""
    return re.search(before + re.escape(wanted) + after, normal(text, strips_marks=False)) is not None


def normal(text: str, *, strips_marks: bool = True) -> str:
    """A text without what does not matter: case, kinds and number of blanks, marks at its end."""
    found = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return found.rstrip(" .!。！") if strips_marks else found


class _NotJson:
    """What could not be read as JSON."""


def _parsed(text: str) -> Any:  # Any: JSON values
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NotJson()


def _same_calls(expected: list[tuple[str, Any]], found: list[tuple[str, Any]]) -> bool:  # Any: JSON values
    """In any order: calls of one turn are made side by side."""
    left = list(found)
    for name, arguments in expected:
        for place, (other_name, other_arguments) in enumerate(left):
            if name == other_name and same_value(arguments, other_arguments):
                del left[place]
                break
        else:
            return False
    return not left


def _last_number(text: str) -> float | None:
    numbers = _NUMBER.findall(text.replace(",", ""))
    return float(numbers[-1]) if numbers else None
