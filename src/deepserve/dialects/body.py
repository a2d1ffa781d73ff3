"""A JSON request body: decoded within limits, and able to say where in its text a value stands.

Shared by the dialects that speak JSON. It knows nothing of any dialect's fields or error shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from deepserve.config import Limits
from deepserve.core.errors import MalformedBody
from deepserve.core.messages import Json

Path = tuple[str | int, ...]
"""Keys and indices from the root of the body to a value."""

# Possessive quantifiers: no text can make these backtrack. A string without an end is matched to the end of the body,
# for a search that failed there would begin anew at each escaped quote inside.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_TOKEN = re.compile(
    rb'[ \t\r\n]*+(?:(?P<text>"[^"\\]*+(?:\\.[^"\\]*+)*+")|(?P<mark>[{}\[\],:])|(?P<atom>[^\s{}\[\],:"]++))',
    re.DOTALL,
)
_BRACKET = re.compile(rb"[\[\]{}]")
_BYTE_IN_MESSAGE = re.compile(r" \(byte (\d+)\)")
_LONE_SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
"""Half a character beyond the basic plane, as JavaScript writes when it cuts a string in the middle of an emoji."""


class JsonBody:
    """The decoded body and its text. Raises MalformedBody, with the line and column, for what is not JSON.

    Refused although a JSON parser might take it: more than `json_depth` levels, more than `json_members` members,
    the same key twice in one object (one of the two values would be dropped in silence).
    """

    def __init__(self, raw: bytes, limits: Limits) -> None:
        self.raw = raw
        num_keys = _check_size(raw, limits)
        try:
            self.value: Json = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise _not_json(raw, error) from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise MalformedBody(f"the text is not valid UTF-8 or too deep{at_offset(raw, len(raw))}") from error
        if num_keys != _count_keys(self.value):
            name, end = _first_duplicate(raw)
            raise MalformedBody(f"duplicate field `{name}`{at_offset(raw, end)}")

    def position_of(self, path: Path) -> str:
        """` at line 1 column N`: the end of the value at path, where the vendor's parser stands when it complains."""
        try:
            return at_offset(self.raw, _end_of(self.raw, path))
        except (LookupError, StopIteration):
            return at_offset(self.raw, len(self.raw))


def at_offset(raw: bytes, offset: int) -> str:
    """Lines count from 1; the column is the number of bytes read of the line."""
    line = raw.count(b"\n", 0, offset) + 1
    column = offset - (raw.rfind(b"\n", 0, offset) + 1)
    return f" at line {line} column {column}"


def _check_size(raw: bytes, limits: Limits) -> int:
    """Refuse bodies that are costly to decode; return the number of keys in all objects together."""
    bones = _without_strings(raw, limits)
    num_opened = bones.count(b"{") + bones.count(b"[")
    if bones.count(b",") + num_opened > limits.json_members:
        raise _too_many(limits)
    depth = 0
    for bracket in _BRACKET.finditer(bones) if num_opened > limits.json_depth else ():
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > limits.json_depth:
            raise MalformedBody(f"the JSON is nested deeper than {limits.json_depth} levels")
    return bones.count(b":")


def _without_strings(raw: bytes, limits: Limits) -> bytes:
    """What stands between the strings. Raises MalformedBody where they are too many."""
    most_strings = 2 * limits.json_members
    if b"\\" in raw:
        bones, num_strings = _STRING.subn(b"", raw, count=most_strings + 1)
    else:  # no quote is escaped: nothing has to be looked at letter by letter
        parts = raw.split(b'"', 2 * most_strings + 1)
        bones, num_strings = b"".join(parts[::2]), len(parts) // 2
    if num_strings > most_strings:
        raise _too_many(limits)
    return bones


def _too_many(limits: Limits) -> MalformedBody:
    return MalformedBody(f"the JSON has more than {limits.json_members} members")


def _not_json(raw: bytes, error: msgspec.DecodeError) -> MalformedBody:
    text = str(error)
    match = _BYTE_IN_MESSAGE.search(text)
    if not raw.strip():
        return MalformedBody("EOF while parsing a value" + at_offset(raw, len(raw)))
    if match is None and (half := _LONE_SURROGATE.search(raw)) is not None:
        # The parser calls this a truncated text.
        return MalformedBody("lone leading surrogate in hex escape" + at_offset(raw, half.end()))
    if match is None:
        text = text.partition(" - at ")[0]
        return MalformedBody(text[:1].lower() + text[1:] + at_offset(raw, len(raw)))
    detail = text[: match.start()].removeprefix("JSON is malformed: ")
    return MalformedBody(detail + at_offset(raw, min(int(match[1]) + 1, len(raw))))


def _count_keys(value: Json) -> int:
    """Of all objects together."""
    num_keys = 0
    waiting = [value] if isinstance(value, (dict, list)) else []
    while waiting:
        container = waiting.pop()
        members: Iterable[Json] = container
        if isinstance(container, dict):
            num_keys += len(container)
            members = container.values()
        waiting += [member for member in members if isinstance(member, (dict, list))]
    return num_keys


def _first_duplicate(raw: bytes) -> tuple[str, int]:
    """Name of the first key that its object already has, and the offset behind it."""
    open_keys: list[set[str]] = []
    text, text_end = b"", 0
    for token in _TOKEN.finditer(raw):
        match token.group("mark"):
            case b"{" | b"[":
                open_keys.append(set())
            case b"}" | b"]":
                open_keys.pop()
            case b":":
                name = msgspec.json.decode(text, type=str)
                if name in open_keys[-1]:
                    return name, text_end
                open_keys[-1].add(name)
            case _:
                text, text_end = token.group("text") or b"", token.end()
    raise AssertionError("the counts of keys differ, so one of them stands twice")


def _end_of(raw: bytes, path: Path) -> int:
    """Offset behind the value at path. Raises LookupError where the path leads nowhere."""
    tokens = _TOKEN.finditer(raw)
    token = next(tokens)
    for step in path:
        opened = token.group("mark")
        if isinstance(step, str):
            if opened != b"{":
                raise LookupError(step)
            while True:
                key = next(tokens)
                if key.group("text") is None:
                    raise LookupError(step)
                next(tokens)  # the colon
                token = next(tokens)
                if msgspec.json.decode(key.group("text"), type=str) == step:
                    break
                _skip(tokens, token)
                if next(tokens).group("mark") != b",":
                    raise LookupError(step)
        else:
            if opened != b"[":
                raise LookupError(step)
            token = next(tokens)
            for _ in range(step):
                _skip(tokens, token)
                if next(tokens).group("mark") != b",":
                    raise LookupError(step)
                token = next(tokens)
    return _skip(tokens, token)


def _skip(tokens: Iterator[re.Match[bytes]], first: re.Match[bytes]) -> int:
    """Read on to the end of the value that begins with `first`; return the offset behind it."""
    depth, token = 0, first
    while True:
        mark = token.group("mark")
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
        if depth <= 0:
            return token.end()
        token = next(tokens)
