"""What a parameter may hold: strings, which are written raw, and other values, which are JSON. A schema speaks about
both at once; here it is taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Final

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.formats import FORMATS
from deepserve.core.messages import Json
from deepserve.grammar.mask_compiler import problem_with
from deepserve.grammar.raw_text import ANY_TEXT, choice_terminal, is_possible, is_readable, pattern_terminal

OF_OBJECTS: Final = frozenset(
    (
        *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
        *("dependentRequired", "dependentSchemas", "dependencies"),
    )
)
"""Keywords about objects alone, to which the parameters together are not held."""

UNKNOWN_HERE: Final = OF_OBJECTS | {"not", "if", "then", "else", "$dynamicRef", "$recursiveRef"}
"""Keywords that assert something and that neither raw strings nor the parameters together are held to."""

_OTHER_TYPES: Final = ("number", "boolean", "null", "array", "object")
_MAX_CHARACTERS: Final = 100_000

_SIMPLE: Final = re.compile(r"\^?(?:[^\\^$]|\\[dDsSwW.*+?()\[\]{}|/-])*\$?")
"""Anchors at its ends only: the mask compiler knows all of such an expression as raw text if it does as JSON."""


class _Part(msgspec.Struct, frozen=True):
    """A schema of values other than strings. num_characters: roughly, written out."""

    schema: Json
    num_characters: int


class ParameterValues:
    """The strings and the other values of one tool's parameters.

    resolve  what a `$ref` means, always in the same object
    note     told of a keyword that is not enforced, by its JSON pointer and name; may raise

    What a reference means is worked out once: a few of them, each of which names the next one twice, would otherwise
    take more steps than a lifetime has. Raises UnsupportedFeature for what gets too large all the same.
    """

    def __init__(self, resolve: Callable[[str], Json], note: Callable[[str, str], None]) -> None:
        self._resolve = resolve
        self._note = note
        self._strings_of: dict[str, str | None] = {}
        self._others_of: dict[str, _Part | None] = {}

    def strings(self, schema: Json, at: str) -> str | None:
        """The strings that satisfy a schema, as an expression for a terminal; None when no string does.

        at  JSON pointer of the schema
        """
        terminal = self._strings(schema, at)
        if terminal is None or "&" not in terminal or terminal in map(_format_terminal, FORMATS):
            return terminal
        return terminal if is_possible(terminal) else None

    def others(self, schema: Json, at: str) -> Json | None:
        """The schema of the values that are no strings; None when there are none."""
        part = self._others(schema, at)
        return None if part is None else part.schema

    # Strings

    def _strings(self, schema: Json, at: str) -> str | None:
        if schema is False:
            return None
        if not isinstance(schema, Mapping):
            return ANY_TEXT
        if "type" in schema and "string" not in _type_names(schema):
            return None
        return _all_of(self._demand(schema, keyword, argument, at) for keyword, argument in schema.items())

    def _demand(self, schema: Mapping[str, Json], keyword: str, argument: Json, at: str) -> str | None:
        """What one keyword demands of strings."""
        match keyword:
            case "enum" | "const":
                values = argument if keyword == "enum" else [argument]
                texts = [value for value in values if isinstance(value, str)]
                return choice_terminal(texts) if texts else None
            case "$ref":
                if argument not in self._strings_of:
                    self._strings_of[argument] = None  # a string that nothing but the reference itself admits
                    self._strings_of[argument] = self._strings(self._resolve(argument), f"{at}/$ref")
                return self._strings_of[argument]
            case "allOf":
                return _all_of(self._strings(inner, f"{at}/allOf/{index}") for index, inner in enumerate(argument))
            case "anyOf" | "oneOf":
                found = [self._strings(inner, f"{at}/{keyword}/{index}") for index, inner in enumerate(argument)]
                ways = [terminal for terminal in found if terminal is not None]
                return self._checked(_any_of(ways) if keyword == "anyOf" else _one_of(ways), at)
            case "pattern":
                terminal = pattern_terminal(argument)
                if _is_readable(argument, terminal):
                    return terminal
                self._note(at, keyword)
            case "format" if argument in FORMATS:
                return _format_terminal(argument)
            case "minLength":
                most = int(schema["maxLength"]) if "maxLength" in schema else ""
                return f"/(?s:.){{{int(argument)},{most}}}/"
            case "maxLength" if "minLength" not in schema:
                return f"/(?s:.){{0,{int(argument)}}}/"
            case _ if keyword in UNKNOWN_HERE - OF_OBJECTS:
                self._note(at, keyword)
            case _:
                pass  # speaks of other types, or is an annotation
        return ANY_TEXT

    def _checked(self, terminal: str | None, at: str) -> str | None:
        if terminal is not None and len(terminal) > _MAX_CHARACTERS:
            raise _too_large(at)
        return terminal

    # Other values

    def _others(self, schema: Json, at: str) -> _Part | None:
        if schema is False:
            return None
        if not isinstance(schema, Mapping):
            return self._part({"type": list(_OTHER_TYPES)}, at)
        if "type" in schema:
            names = _type_names(schema)
            others = [name for name in names if name != "string"]
            if not others:
                return None
            return self._part(schema if len(others) == len(names) else {**schema, "type": others}, at)
        if "enum" in schema:
            values = [value for value in schema["enum"] if not isinstance(value, str)]
            return self._part({**schema, "enum": values}, at) if values else None
        if "const" in schema:
            return None if isinstance(schema["const"], str) else self._part(schema, at)
        if "$ref" in schema:
            return self._others_behind(schema, at)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword not in schema:
                continue
            found = [self._others(inner, f"{at}/{keyword}/{index}") for index, inner in enumerate(schema[keyword])]
            parts = [part for part in found if part is not None]
            if not parts or (keyword == "allOf" and len(parts) < len(found)):
                return None
            num_characters = sum(part.num_characters for part in parts)
            return self._part({**schema, keyword: [part.schema for part in parts]}, at, num_characters)
        return self._part({**schema, "type": list(_OTHER_TYPES)}, at)

    def _others_behind(self, schema: Mapping[str, Json], at: str) -> _Part | None:
        reference = schema["$ref"]
        target = self._resolve(reference)
        if reference not in self._others_of:
            self._others_of[reference] = None
            self._others_of[reference] = self._others(target, f"{at}/$ref")
        part = self._others_of[reference]
        if part is None or part.schema is target:
            return None if part is None else self._part(schema, at)
        rest = {keyword: argument for keyword, argument in schema.items() if keyword != "$ref"}
        return self._part({"allOf": [part.schema, rest]}, at, part.num_characters) if rest else part

    def _part(self, schema: Json, at: str, num_characters: int | None = None) -> _Part:
        """num_characters: of what the schema is made of, where writing it out to see could take too long."""
        part = _Part(schema, len(msgspec.json.encode(schema)) if num_characters is None else num_characters)
        if part.num_characters > _MAX_CHARACTERS:
            raise _too_large(at)
        return part


@cache
def _format_terminal(name: str) -> str | None:
    return _all_of(map(pattern_terminal, FORMATS[name]))


def _too_large(at: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"The schema at `{at}` is too large once its references are written out: define fewer alternatives inside "
        "each other."
    )


def _is_readable(pattern: str, terminal: str) -> bool:
    """Whether the mask compiler knows all of a pattern, which is asked as JSON first: that is answered much sooner."""
    if _SIMPLE.fullmatch(pattern) and problem_with({"type": "string", "pattern": pattern}) is None:
        return True
    return is_readable(terminal)


def _all_of(terminals: Iterable[str | None]) -> str | None:
    """What satisfies all of them; None when one of them is None."""
    parts: dict[str, None] = {}
    for terminal in terminals:
        if terminal is None:
            return None
        if terminal != ANY_TEXT:
            parts[terminal] = None
    if not parts:
        return ANY_TEXT
    return next(iter(parts)) if len(parts) == 1 else f"({' & '.join(parts)})"


def _any_of(terminals: Sequence[str]) -> str | None:
    ways = list(dict.fromkeys(terminals))
    if not ways or ANY_TEXT in ways:
        return ANY_TEXT if ways else None
    return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})"


def _one_of(terminals: Sequence[str]) -> str | None:
    """What satisfies one of them and none of the others."""
    if len(terminals) < 2:
        return terminals[0] if terminals else None
    ways = []
    for index, terminal in enumerate(terminals):
        rivals = [f"~({rival})" for place, rival in enumerate(terminals) if place != index]
        ways.append(f"({' & '.join((terminal, *rivals))})")
    return f"({' | '.join(ways)})"


def _type_names(schema: Mapping[str, Json]) -> list[str]:
    names = schema["type"]
    return [names] if isinstance(names, str) else list(names)
