"""The input of a custom tool, out of the JSON in which the model writes it, piece by piece.

To the model a custom tool is a function with one string, `input`; to the client its input is plain text.
"""

from __future__ import annotations

import re

import msgspec

from deepserve.core.messages import Json

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_WHOLE = re.compile(
    r"""(?: [^"\\]
        | \\ ["\\/bfnrt]
        | \\u [dD][89abAB][0-9a-fA-F]{2} \\u [dD][c-fC-F][0-9a-fA-F]{2}
        | \\u (?! [dD][89abAB]) [0-9a-fA-F]{4} )*+""",
    re.VERBOSE,
)
"""Characters and escapes that are complete; half a surrogate pair is not."""


def whole_input(arguments: str) -> str:
    """The input of a complete call. What is not of the expected form is passed on as it is."""
    try:
        value: Json = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


class InputReader:
    """`feed` with pieces of the arguments gives pieces of the input; `finish` what is still missing of it."""

    def __init__(self) -> None:
        self._arguments = ""
        self._position = 0
        self._told = ""

    def feed(self, piece: str) -> str:
        self._arguments += piece
        if self._position == 0:
            opening = _OPENING.match(self._arguments)
            if opening is None:
                return ""
            self._position = opening.end()
        found = _WHOLE.match(self._arguments, self._position)
        assert found is not None, "the pattern matches the empty text"
        if not found.group():
            return ""
        try:
            text = msgspec.json.decode(f'"{found.group()}"', type=str)
        except msgspec.DecodeError:
            return ""  # a bare control character, which JSON does not allow; `finish` decides
        self._position = found.end()
        self._told += text
        return text

    def finish(self) -> str:
        whole = self.whole
        return whole[len(self._told) :] if whole.startswith(self._told) else ""

    @property
    def whole(self) -> str:
        """The input so far; of a call that was cut off, what was told of it."""
        whole = whole_input(self._arguments)
        return self._told if self._told and not whole.startswith(self._told) else whole
