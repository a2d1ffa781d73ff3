"""Strings that are written raw, without quotes or escapes, as terminals of a grammar.

A string parameter of a tool call ends where its closing tag begins; until then it may hold anything that its schema
allows. This is the schema's string part as a regular expression; JSON strings are the business of `json_schema`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from deepserve.core.messages import Json

ANY_TEXT: Final = "/(?s:.*)/"

Resolve = Callable[[str], Json]
"""What a `$ref` means."""

Note = Callable[[str, str], None]
"""Told of a keyword that cannot be enforced here, by its JSON pointer and name; may raise."""

_MAX_DEPTH = 32

UNKNOWN_HERE: Final = frozenset(
    (
        *("not", "if", "then", "else", "$dynamicRef", "$recursiveRef"),
        *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
        *("dependentRequired", "dependentSchemas", "dependencies"),
    )
)
"""Keywords that assert something and that neither raw strings nor the parameters of a tool are held to."""

_OF_OBJECTS: Final = UNKNOWN_HERE - {"not", "if", "then", "else", "$dynamicRef", "$recursiveRef"}

_TIME: Final = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_DATE: Final = (
    r"\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
)
_HOURS: Final = r"T(?:\d+S|\d+M(?:\d+S)?|\d+H(?:\d+M(?:\d+S)?)?)"
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LABEL: Final = r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,30}"
FORMATS: Final[Mapping[str, str]] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": rf"P(?:\d+W|(?:\d+D|\d+M(?:\d+D)?|\d+Y(?:\d+M(?:\d+D)?)?)(?:{_HOURS})?|{_HOURS})",
    "email": rf"[A-Za-z0-9_+-]{{1,30}}(?:\.[A-Za-z0-9_+-]{{1,15}}){{0,2}}@{_LABEL}(?:\.{_LABEL}){{1,2}}",
    "hostname": rf"{_LABEL}(?:\.{_LABEL}){{0,2}}",
    "ipv4": rf"{_OCTET}(?:\.{_OCTET}){{3}}",
    "ipv6": r"(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|::(?:[0-9a-fA-F]{1,4}:){0,6}[0-9a-fA-F]{1,4}|::",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:(?://)?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})+",
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
}
"""What is enforced of each format: always valid strings, though not every valid one (no 29th of February)."""


def text_terminal(schema: Json, resolve: Resolve, note: Note, *, at: str = "", depth: int = 0) -> str | None:
    """The strings that satisfy a schema, as an expression for a terminal; None when no string does."""
    if schema is False or depth > _MAX_DEPTH:
        return None
    if schema is True or not isinstance(schema, Mapping):
        return ANY_TEXT
    if "type" in schema and "string" not in type_names(schema["type"]):
        return None
    parts: list[str] = []
    for keyword, argument in schema.items():
        match keyword:
            case "enum" | "const":
                values = argument if keyword == "enum" and isinstance(argument, Sequence) else [argument]
                strings = [value for value in values if isinstance(value, str)]
                if not strings:
                    return None
                parts.append(choice_terminal(strings))
            case "$ref" | "allOf":
                inners = [resolve(argument)] if keyword == "$ref" else argument
                for index, inner in enumerate(inners):
                    part = text_terminal(inner, resolve, note, at=f"{at}/{keyword}/{index}", depth=depth + 1)
                    if part is None:
                        return None
                    parts.append(part)
            case "anyOf" | "oneOf":
                found = [
                    text_terminal(inner, resolve, note, at=f"{at}/{keyword}/{index}", depth=depth + 1)
                    for index, inner in enumerate(argument)
                ]
                branches = list(dict.fromkeys(part for part in found if part is not None))
                if not branches:
                    return None
                if keyword == "oneOf" and len(branches) < len([part for part in found if part is not None]):
                    note(at, keyword)
                if ANY_TEXT not in branches:
                    parts.append("(" + " | ".join(branches) + ")")
            case "pattern":
                terminal = pattern_terminal(argument)
                if _is_readable(terminal):
                    parts.append(terminal)
                else:
                    note(at, keyword)
            case "format":
                if argument in FORMATS:
                    parts.append(regex_terminal(FORMATS[argument]))
            case "minLength" | "maxLength":
                if keyword == "maxLength" and "minLength" in schema:
                    continue
                parts.append(f"/(?s:.){{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}/")
            case _ if keyword in UNKNOWN_HERE - _OF_OBJECTS:
                note(at, keyword)
            case _:
                pass  # speaks of other types, or is an annotation
    bounded = [part for part in dict.fromkeys(parts) if part != ANY_TEXT]
    if not bounded:
        return ANY_TEXT
    return bounded[0] if len(bounded) == 1 else "(" + " & ".join(bounded) + ")"


def other_values(schema: Json, resolve: Resolve, *, depth: int = 0) -> Json | None:
    """The schema of the values that are no strings; None when there are none."""
    if schema is False or depth > _MAX_DEPTH:
        return None
    if schema is True or not isinstance(schema, Mapping):
        return {"type": list(_OTHER_TYPES)}
    if "type" in schema:
        names = type_names(schema["type"])
        others = [name for name in names if name != "string"]
        if not others:
            return None
        narrowed = schema if len(others) == len(names) else {**schema, "type": others if len(others) > 1 else others[0]}
        return dict(narrowed)
    if "enum" in schema:
        others = [value for value in schema["enum"] if not isinstance(value, str)]
        return {**schema, "enum": others} if others else None
    if "const" in schema:
        return None if isinstance(schema["const"], str) else dict(schema)
    if "$ref" in schema:
        target = other_values(resolve(schema["$ref"]), resolve, depth=depth + 1)
        if target is None:
            return None
        rest = {key: value for key, value in schema.items() if key not in ("$ref", "$defs", "definitions", "$id")}
        return {"allOf": [target, rest]} if rest else target
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            found = [other_values(inner, resolve, depth=depth + 1) for inner in schema[keyword]]
            branches = [inner for inner in found if inner is not None]
            return {**schema, keyword: branches} if branches else None
    if "allOf" in schema:
        parts = [other_values(inner, resolve, depth=depth + 1) for inner in schema["allOf"]]
        return None if None in parts else {**schema, "allOf": parts}
    return {**schema, "type": list(_OTHER_TYPES)}


_OTHER_TYPES: Final = ("number", "boolean", "null", "array", "object")


def _is_readable(terminal: str) -> bool:
    """Whether the mask compiler knows all of an expression: no look-around, no references back, no word boundaries."""
    from llguidance import LLMatcher

    return not LLMatcher.validate_grammar(f"start: TEXT\nTEXT: {terminal}")


def type_names(names: Json) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def literal(text: str) -> str:
    """A text as the grammar language quotes it."""
    return json.dumps(text, ensure_ascii=False)


def choice_terminal(texts: Sequence[str]) -> str:
    return "(" + " | ".join(literal(text) for text in dict.fromkeys(texts)) + ")"


def regex_terminal(regex: str) -> str:
    """A whole text that matches; classes mean what they mean in JSON Schema."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(spelled_for_masks(regex), use_ascii='dw')}/"


_SPACES: Final = r"\t-\r \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}"
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def spelled_for_masks(pattern: str) -> str:
    """A pattern whose blanks are JSON Schema's: the mask compiler's own class has U+0085 in it and not U+FEFF."""
    blanks = {"s": f"[{_SPACES}]", "S": f"[^{_SPACES}]"}
    return _ESCAPE.sub(lambda escape: blanks.get(escape[1], escape[0]), pattern)


def pattern_terminal(pattern: str) -> str:
    """A text in which the pattern is found somewhere, as JSON Schema has it."""
    branches = []
    for branch in _alternatives(pattern):
        starts, ends = branch.startswith("^"), _ends_anchored(branch)
        core = branch[1 if starts else 0 : len(branch) - 1 if ends else None]
        branches.append(f"{'' if starts else '(?s:.*)'}(?:{core}){'' if ends else '(?s:.*)'}")
    return regex_terminal("|".join(branches))


def whole_terminal(pattern: str) -> str:
    """A text that matches as a whole; anchors at its ends are welcome and change nothing."""
    branches = []
    for branch in _alternatives(pattern):
        branches.append(f"(?:{branch[branch.startswith('^') : len(branch) - 1 if _ends_anchored(branch) else None]})")
    return regex_terminal("|".join(branches))


def _ends_anchored(branch: str) -> bool:
    if not branch.endswith("$"):
        return False
    before = branch[:-1]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 0


def _alternatives(pattern: str) -> list[str]:
    """The parts between the bars that stand outside of groups and classes."""
    parts, depth, in_class, start, index = [], 0, False, 0, 0
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            index += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
            if pattern[index + 1 : index + 2] == "]":
                index += 1
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "|" and depth == 0:
            parts.append(pattern[start:index])
            start = index + 1
        index += 1
    return [*parts, pattern[start:]]
