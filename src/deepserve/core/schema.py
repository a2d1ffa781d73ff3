"""Does a JSON value satisfy a JSON schema? Yes, no, or a keyword we do not judge.

The assertions of JSON Schema 2020-12 that clients use for tools and answers. Regular expressions and formats are not
judged: a client's pattern must not be run by a backtracking matcher on the server's thread. Nothing is fetched: a
`$ref` points into the schema itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec

from deepserve.core.messages import Json

Verdict = Literal["valid", "invalid", "unjudged"]


class SchemaReport(msgspec.Struct, frozen=True, kw_only=True):
    """problems: JSON pointer and text of what is wrong; unjudged: keywords that were skipped, sorted."""

    problems: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """invalid is certain; valid only when nothing was skipped."""
        if self.problems:
            return "invalid"
        return "unjudged" if self.unjudged else "valid"


ANNOTATIONS = frozenset(
    (
        *("$schema", "$id", "$comment", "$anchor", "$defs", "$def", "definitions"),
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "strict"),
    )
)
"""Keywords that assert nothing about a value."""

_MAX_STEPS = 20_000
_MAX_DEPTH = 200


def check_schema(schema: Json, value: Json) -> SchemaReport:
    """Judge value. Work is bounded: a schema that branches without end is reported as unjudged (`steps`)."""
    check = _Check(schema)
    try:
        problems = tuple(check.problems(schema, value, "", 0))
    except _TooMuch:
        return SchemaReport(unjudged=("steps",))
    return SchemaReport(problems=problems, unjudged=tuple(sorted(check.unjudged)))


class _TooMuch(Exception):
    """The step or depth budget is spent."""


def type_of(value: Json) -> str:
    """The JSON Schema name of a decoded value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
        case _:
            return "object"


def _equal(left: Json, right: Json) -> bool:
    """JSON equality: 1 equals 1.0, true does not equal 1, keys have no order."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(item, right[key]) for key, item in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


def _is_multiple(value: float, of: float) -> bool:
    if isinstance(value, int) and isinstance(of, int):
        return value % of == 0
    quotient = value / of
    return math.isfinite(quotient) and math.isclose(quotient, round(quotient), rel_tol=1e-12)


_BOUNDS: Mapping[str, tuple[tuple[str, ...], Callable[[Json, Json], bool], str]] = {
    "minimum": (("integer", "number"), lambda value, bound: value >= bound, "is less than {}"),
    "maximum": (("integer", "number"), lambda value, bound: value <= bound, "is more than {}"),
    "exclusiveMinimum": (("integer", "number"), lambda value, bound: value > bound, "is not more than {}"),
    "exclusiveMaximum": (("integer", "number"), lambda value, bound: value < bound, "is not less than {}"),
    "multipleOf": (("integer", "number"), _is_multiple, "is not a multiple of {}"),
    "minLength": (("string",), lambda value, bound: len(value) >= bound, "is shorter than {}"),
    "maxLength": (("string",), lambda value, bound: len(value) <= bound, "is longer than {}"),
    "minItems": (("array",), lambda value, bound: len(value) >= bound, "has fewer than {} items"),
    "maxItems": (("array",), lambda value, bound: len(value) <= bound, "has more than {} items"),
    "minProperties": (("object",), lambda value, bound: len(value) >= bound, "has fewer than {} members"),
    "maxProperties": (("object",), lambda value, bound: len(value) <= bound, "has more than {} members"),
}
"""Keyword -> the types it speaks about, its test, and what to say when the test fails."""


class _Check:
    def __init__(self, root: Json) -> None:
        self._root = root
        self._steps = 0
        self.unjudged: set[str] = set()

    def problems(self, schema: Json, value: Json, at: str, depth: int) -> Iterator[str]:
        self._steps += 1
        if self._steps > _MAX_STEPS or depth > _MAX_DEPTH:
            raise _TooMuch
        if schema is True:
            return
        if schema is False:
            yield f"{at or '/'} is not allowed"
            return
        if not isinstance(schema, dict):
            self.unjudged.add("schema")
            return
        kind = type_of(value)
        for keyword, argument in schema.items():
            try:
                yield from self._keyword(schema, keyword, argument, value, kind, at, depth + 1)
            except (TypeError, AttributeError, ArithmeticError):  # the argument is not what the keyword takes
                self.unjudged.add(keyword)

    def _keyword(
        self, schema: Mapping[str, Json], keyword: str, argument: Json, value: Json, kind: str, at: str, depth: int
    ) -> Iterator[str]:
        here = at or "/"
        match keyword:
            case "type":
                allowed = [argument] if isinstance(argument, str) else list(argument)
                if kind not in allowed and not (kind == "integer" and "number" in allowed):
                    yield f"{here} is of type {kind}, not {' or '.join(allowed)}"
            case "enum":
                if not any(_equal(value, choice) for choice in argument):
                    yield f"{here} is none of the allowed values"
            case "const":
                if not _equal(value, argument):
                    yield f"{here} is not the required value"
            case "properties" if kind == "object":
                for name, inner in argument.items():
                    if name in value:
                        yield from self.problems(inner, value[name], f"{at}/{name}", depth)
            case "required" if kind == "object":
                for name in argument:
                    if name not in value:
                        yield f"{here} lacks {name}"
            case "additionalProperties" if kind == "object":
                if "patternProperties" in schema:
                    self.unjudged.add(keyword)
                    return
                for name in value.keys() - schema.get("properties", {}).keys():
                    yield from self.problems(argument, value[name], f"{at}/{name}", depth)
            case "propertyNames" if kind == "object":
                for name in value:
                    yield from self.problems(argument, name, f"{at}/{name}", depth)
            case "items" if kind == "array":
                start = len(schema.get("prefixItems", ()))
                for index, item in enumerate(value[start:], start):
                    yield from self.problems(argument, item, f"{at}/{index}", depth)
            case "prefixItems" if kind == "array":
                for index, (inner, item) in enumerate(zip(argument, value, strict=False)):
                    yield from self.problems(inner, item, f"{at}/{index}", depth)
            case "uniqueItems" if kind == "array":
                if argument and len(value) > 200:
                    self.unjudged.add(keyword)
                elif argument and any(_equal(value[i], value[j]) for i in range(len(value)) for j in range(i)):
                    yield f"{here} has equal items"
            case "allOf":
                for inner in argument:
                    yield from self.problems(inner, value, at, depth)
            case "anyOf":
                if not any(self._holds(inner, value, at, depth) for inner in argument):
                    yield f"{here} matches none of the alternatives"
            case "oneOf":
                if sum(self._holds(inner, value, at, depth) for inner in argument) != 1:
                    yield f"{here} does not match exactly one of the alternatives"
            case "not":
                if self._holds(argument, value, at, depth):
                    yield f"{here} matches what it must not"
            case "$ref":
                found, target = self._target(argument)
                if not found:
                    self.unjudged.add(keyword)
                else:
                    yield from self.problems(target, value, at, depth)
            case _ if keyword in _BOUNDS:
                kinds, holds, text = _BOUNDS[keyword]
                if kind in kinds and not holds(value, argument):
                    yield f"{here} {text.format(argument)}"
            case "properties" | "required" | "additionalProperties" | "propertyNames" | "items" | "prefixItems":
                pass  # speaks about another type
            case "uniqueItems":
                pass
            case _ if keyword not in ANNOTATIONS:
                self.unjudged.add(keyword)

    def _holds(self, schema: Json, value: Json, at: str, depth: int) -> bool:
        return next(self.problems(schema, value, at, depth), None) is None

    def _target(self, reference: str) -> tuple[bool, Json]:
        """What a `#/...` pointer means; (False, None) when it leads nowhere or outside."""
        if not reference.startswith("#"):
            return False, None
        target: Json = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdigit() and int(name) < len(target):
                target = target[int(name)]
            else:
                return False, None
        return True, target
