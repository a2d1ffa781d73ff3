"""A short text that a regular expression matches, so that a string can be ended where its pattern must be met first.

Reads what JSON Schema patterns are made of and ignores what it does not know: an example is tried before it is used,
so a wrong one costs a moment and no more.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Final

from deepserve.core.messages import Json

FORMAT_EXAMPLES: Final[Mapping[str, str]] = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "email": "a@b.co",
    "hostname": "a",
    "idn-email": "a@b.co",
    "idn-hostname": "a",
    "ipv4": "0.0.0.0",  # noqa: S104 - an example of an address
    "ipv6": "::",
    "iri": "a:b",
    "iri-reference": "a",
    "json-pointer": "",
    "regex": "a",
    "relative-json-pointer": "0",
    "time": "00:00:00Z",
    "uri": "http://a",
    "uri-reference": "a",
    "uri-template": "a",
    "uuid": "00000000-0000-0000-0000-000000000000",
}

_MAX_CHARACTERS: Final = 200
_MAX_EXAMPLES: Final = 24
_CLASSES: Final = {"d": "0", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a"}
_LETTERS: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_PREFERRED: Final = string.ascii_lowercase + string.digits + string.ascii_uppercase + "_-. /:#@" + string.punctuation


def examples_in(schema: Json) -> tuple[str, ...]:
    """Examples for the patterns and formats anywhere in a schema."""
    found: dict[str, None] = {}
    pending: list[Json] = [schema]
    while pending and len(found) < _MAX_EXAMPLES:
        part = pending.pop(0)
        if isinstance(part, Mapping):
            pattern, format_ = part.get("pattern"), part.get("format")
            if isinstance(pattern, str):
                found[example(pattern)] = None
            if isinstance(format_, str) and format_ in FORMAT_EXAMPLES:
                found[FORMAT_EXAMPLES[format_]] = None
            names = part.get("patternProperties")
            if isinstance(names, Mapping):
                found.update((example(name), None) for name in names)
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    found.pop("", None)
    return tuple(found)


def example(pattern: str) -> str:
    """A text that the pattern matches, usually a shortest one."""
    try:
        return _Reader(pattern).alternatives()[:_MAX_CHARACTERS]
    except (IndexError, ValueError, RecursionError):
        return ""


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    @property
    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._pattern[self._at - 1]

    def alternatives(self) -> str:
        found = [self._sequence()]
        while self._next == "|":
            self._at += 1
            found.append(self._sequence())
        return min(found, key=len)

    def _sequence(self) -> str:
        text = ""
        while self._next not in ("", "|", ")"):
            piece = self._atom()
            text += piece * self._least()
        return text

    def _atom(self) -> str:
        character = self._take()
        match character:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case "\\":
                return self._escape()
            case ".":
                return "."  # often meant as itself
            case "^" | "$":
                return ""
            case _:
                return character

    def _group(self) -> str:
        is_look = False
        if self._next == "?":
            self._at += 1
            kind = self._take()
            if kind == "P":
                kind = self._take()
            if kind in "=!" or (kind == "<" and self._next in "=!"):
                is_look = True
            elif kind == "<":
                self._at = self._pattern.index(">", self._at) + 1
            elif kind != ":":
                self._at = min(index for index in (self._pattern.find(mark, self._at) for mark in ":)") if index >= 0)
                if self._take() == ")":
                    return ""
        text = self.alternatives()
        self._at += 1
        return "" if is_look else text

    def _class(self) -> str:
        """One character of a class; of a negated one, any that it does not name."""
        is_negated = self._next == "^"
        self._at += is_negated
        named: list[str] = []
        while self._next != "]" or not named:
            start = self._take()
            if start == "\\":
                start = self._escape()
            if self._next == "-" and self._pattern[self._at + 1] != "]":
                self._at += 1
                end = self._take()
                end = self._escape() if end == "\\" else end
                named.extend(map(chr, range(ord(start), min(ord(end), ord(start) + 255) + 1)))
            else:
                named.append(start)
        self._at += 1
        if is_negated:
            return next(character for character in _PREFERRED if character not in named)
        return next((character for character in _PREFERRED if character in named), named[0])

    def _escape(self) -> str:
        character = self._take()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _LETTERS:
            return _LETTERS[character]
        if character in "bBAzZ":
            return ""
        if character in "xu":
            width = 2 if character == "x" else 4
            self._at += width
            return chr(int(self._pattern[self._at - width : self._at], 16))
        if character in "pP" and self._next == "{":
            self._at = self._pattern.index("}", self._at) + 1
            return "a"
        return character

    def _least(self) -> int:
        """How often the atom just read must stand."""
        least = 1
        match self._next:
            case "*" | "?":
                least = 0
            case "+":
                least = 1
            case "{":
                end = self._pattern.index("}", self._at)
                bounds = self._pattern[self._at + 1 : end].split(",")
                if not bounds[0].strip().isdigit():
                    return 1
                least = min(int(bounds[0]), _MAX_CHARACTERS)
                self._at = end
            case _:
                return 1
        self._at += 1
        if self._next == "?":
            self._at += 1
        return least
