"""JSON of an answer, judged while it streams: what cannot become valid any more is known before the answer ends."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from deepserve.core.messages import Json
from deepserve.core.schema import check_schema
from deepserve.prompt.json_text import read_json

_Expected = Literal["value", "first value", "name", "first name", "colon", "comma", "nothing"]


class JsonStream:
    """Reads a JSON text piece by piece.

    schema      what the value has to satisfy; members of the outermost object are judged as soon as they are whole
    is_lenient  forgive what can be repaired afterwards: prose around the value, a comma before a bracket, line breaks
                in strings, Python's words
    """

    def __init__(self, schema: Mapping[str, Json] | None = None, *, is_lenient: bool = False) -> None:
        self._schema = schema
        self._is_lenient = is_lenient
        self._open: list[str] = []
        self._expects: _Expected = "value"
        self._word = ""  # of a number, true, false or null
        self._is_string = False
        self._is_escaped = False
        self._has_begun = False
        self._name = ""  # of the member of the outermost object that is being read
        self._member: list[str] = []  # its text, or that of its name
        self.problem: str | None = None
        """What makes it certain that the text will not be valid."""

    def feed(self, text: str) -> str | None:
        """Read on; returns `problem`."""
        at = 0
        while at < len(text) and self.problem is None:
            at = self._read_string(text, at) if self._is_string else self._read_sign(text, at)
        return self.problem

    # Characters

    def _read_string(self, text: str, at: int) -> int:
        start = at
        if self._is_escaped:
            at, self._is_escaped = at + 1, False
        found = (_IN_LENIENT_STRING if self._is_lenient else _IN_STRING).search(text, at)
        if found is None:
            self._collect(text[start:])
            return len(text)
        self._collect(text[start : found.end()])
        match found.group():
            case '"':
                self._is_string = False
                self._ended()
            case "\\":
                self._is_escaped = True
            case _:
                self.problem = "a line break or another control character inside a string"
        return found.end()

    def _read_sign(self, text: str, at: int) -> int:
        sign = text[at]
        if not self._has_begun:
            if self._is_lenient:
                found = _BRACKET.search(text, at)
                if found is None:
                    return len(text)
                at, sign = found.start(), found.group()
            if not sign.isspace():
                self._has_begun = True
                self._check_root(sign)
        if self._word and (sign in _ENDS_WORD or sign.isspace()):
            self._end_word()
            if self.problem is not None:
                return at
        if sign.isspace():
            if sign not in " \t\r\n":
                self.problem = "a blank that JSON does not know"
            self._collect(sign)
        elif sign in '{["' or sign in "}],:":
            self._read_punctuation(sign)
        else:
            if not self._word:
                self._begin_value()
            if self._expects != "nothing":
                self._word += sign
                self._collect(sign)
            if len(self._word) > _MAX_WORD_CHARACTERS:
                self.problem = "a word that is no JSON"
        return at + 1

    def _read_punctuation(self, sign: str) -> None:
        match sign:
            case '"':
                if self._expects in ("name", "first name"):
                    if len(self._open) == 1:
                        self._member = []
                else:
                    self._begin_value()
                self._is_string = True
                self._collect(sign)
            case "{" | "[":
                self._begin_value()
                self._collect(sign)
                self._open.append(sign)
                self._expects = "first name" if sign == "{" else "first value"
            case "}" | "]":
                self._close(sign)
            case ",":
                if self._expects == "comma":
                    self._end_member()
                    self._expects = "name" if self._open[-1] == "{" else "value"
                    self._collect(sign)
                elif self._expects != "nothing" or not self._is_lenient:
                    self.problem = "a comma where none belongs"
            case _:
                if self._expects == "colon":
                    self._expects = "value"
                    if len(self._open) == 1:
                        self._name, self._member = _text_of("".join(self._member)), []
                        self._check_name()
                    else:
                        self._collect(sign)
                elif self._expects != "nothing" or not self._is_lenient:
                    self.problem = "a colon where none belongs"

    def _begin_value(self) -> None:
        match self._expects:
            case "value" | "first value":
                pass
            case "nothing":
                if not self._is_lenient:
                    self.problem = "text behind the value"
            case _:
                self.problem = "a value where none belongs"

    def _close(self, sign: str) -> None:
        if self._expects == "nothing" and self._is_lenient:
            return
        is_first = self._expects in ("first name", "first value")
        is_late = self._is_lenient and self._expects in ("name", "value") and self._open
        if not self._open or _CLOSERS[self._open[-1]] != sign or not (is_first or is_late or self._expects == "comma"):
            self.problem = f"{sign} where it does not belong"
            return
        if len(self._open) == 1:
            self._end_member()
        self._open.pop()
        if self._open:
            self._collect(sign)
        self._expects = "comma" if self._open else "nothing"

    def _end_word(self) -> None:
        word, self._word = self._word, ""
        if _WORD.fullmatch(word) is None and not (self._is_lenient and word in ("True", "False", "None")):
            self.problem = f"{word[:20]} is no JSON"
            return
        self._ended()

    def _ended(self) -> None:
        """A value is whole, or a name is."""
        if self._expects in ("name", "first name"):
            self._expects = "colon"
        else:
            self._expects = "comma" if self._open else "nothing"

    # What the schema says

    def _collect(self, text: str) -> None:
        if self._open and self._open[0] == "{":
            self._member.append(text)

    def _check_root(self, sign: str) -> None:
        kinds = (self._schema or {}).get("type")
        if kinds is None:
            return
        allowed = [kinds] if isinstance(kinds, str) else kinds
        if sign in "{[" and ("object" if sign == "{" else "array") not in allowed:
            self.problem = f"the answer is no {' or '.join(map(str, allowed))}"

    def _check_name(self) -> None:
        schema = self._schema or {}
        properties = schema.get("properties")
        if schema.get("additionalProperties") is False and not schema.keys() & {"patternProperties", "$ref"}:
            known = properties if isinstance(properties, Mapping) else {}
            if self._name not in known:
                self.problem = f"/{self._name[:80]}: is not allowed"

    def _end_member(self) -> None:
        """Judge a whole member of the outermost object by its own schema."""
        if len(self._open) != 1 or self._open[0] != "{" or not self._member:
            return
        text, self._member = "".join(self._member), []
        properties = (self._schema or {}).get("properties")
        if not isinstance(properties, Mapping) or self._name not in properties:
            return
        inner = properties[self._name]
        if not isinstance(inner, Mapping):
            return
        try:
            value = read_json(text)
        except ValueError:
            return
        definitions = {
            key: self._schema[key] for key in ("$defs", "definitions") if self._schema and key in self._schema
        }
        if _refers_outside(inner):
            return
        report = check_schema({**definitions, **inner}, value)
        if report.problems:
            self.problem = f"/{self._name[:80]}{report.problems[0]}"


_IN_STRING: Final = re.compile(r'["\\\x00-\x1f]')
_IN_LENIENT_STRING: Final = re.compile(r'["\\]')
_BRACKET: Final = re.compile(r"[{\[]")
_WORD: Final = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ENDS_WORD: Final = frozenset('{}[],:"')
_CLOSERS: Final = {"{": "}", "[": "]"}
_MAX_WORD_CHARACTERS: Final = 400


def _text_of(name: str) -> str:
    """A member's name, read from its JSON text."""
    try:
        value = read_json(name.strip())
    except ValueError:
        return name
    return value if isinstance(value, str) else name


def _refers_outside(schema: Json) -> bool:
    """Whether a reference leads elsewhere than into the definitions."""
    return any(not reference.startswith(("#/$defs/", "#/definitions/")) for reference in _references(schema))


def _references(schema: Json) -> Iterator[str]:
    pending: list[Json] = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            found = node.get("$ref")
            if isinstance(found, str):
                yield found
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
