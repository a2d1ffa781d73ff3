"""JSON that stands where the tool markup has tags."""

from __future__ import annotations

import re
from typing import Final

from deepserve.core.messages import Json
from deepserve.prompt.json_repair import repair_json
from deepserve.prompt.json_text import write_json


def read_call(value: Json) -> tuple[str, str] | None:
    """The name and the arguments of `{"name": …, "arguments": …}`; None for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments: Json = next((value[key] for key in ("arguments", "parameters", "input") if key in value), {})
    if isinstance(arguments, str):
        inside = repair_json(arguments)
        arguments = None if inside is None else inside.value
    return (value["name"], write_json(arguments)) if isinstance(arguments, dict) else None


class JsonEnd:
    """Finds where a JSON value that begins with a bracket ends, piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = False
        self._is_escaped = False

    def find(self, text: str, at: int) -> int | None:
        """The index after the value, if it ends in this text."""
        if self._is_escaped and at < len(text):
            at, self._is_escaped = at + 1, False
        while True:
            found = (_STRING_SIGNS if self._is_string else _BRACKETS).search(text, at)
            if found is None:
                return None
            at = found.end()
            match found.group():
                case '"':
                    self._is_string = not self._is_string
                case "\\":
                    if at == len(text):
                        self._is_escaped = True
                        return None
                    at += 1
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        return at


_BRACKETS: Final = re.compile(r'["{}\[\]]')
_STRING_SIGNS: Final = re.compile(r'["\\]')
