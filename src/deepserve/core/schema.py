"""Does a JSON value satisfy a JSON schema? Yes, no, or a keyword that was not judged.

jsonschema-rs judges. Around it stands what a schema from a client needs: nothing is fetched, regular expressions run
in linear time, and the work is counted before it is done, because a few references that point to each other twice can
ask for more steps than a lifetime has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, Literal

import jsonschema_rs
import msgspec

from deepserve.core.formats import FORMATS
from deepserve.core.messages import Json
from deepserve.core.regular_expression import LINEAR_ENGINE, judge_expression
from deepserve.core.schema_tree import ANNOTATIONS, ASSERTIONS, Place, SchemaDocument, draft_of, step

Verdict = Literal["valid", "invalid", "unjudged"]

_MAX_STEPS: Final = 1_000_000
_MAX_PAIRS: Final = 50_000
_MAX_DEPTH: Final = 100
_MAX_PROBLEMS: Final = 100


class SchemaReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    problems     JSON pointer into the value and text, for each thing that is wrong
    unjudged     keywords that were skipped, sorted
    annotations  names in the schema that assert nothing: unknown keywords, and formats as `format:name`; sorted
    """

    problems: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """invalid is certain; valid only when nothing was skipped."""
        if self.problems:
            return "invalid"
        return "unjudged" if self.unjudged else "valid"


def check_schema(schema: Json, value: Json) -> SchemaReport:
    """Judge value. Work is bounded: more than that is reported as unjudged (`steps`); so is what is no schema
    (`schema`)."""
    if not isinstance(schema, (Mapping, bool)) or draft_of(schema) is None:
        return SchemaReport(unjudged=("schema",))
    try:
        plan = _Plan(schema)
        plan.count_steps(value)
        validator = jsonschema_rs.validator_for(
            plan.schema, validate_formats=True, pattern_options=LINEAR_ENGINE, offline=True, mask="the value"
        )
        found = list(islice(validator.iter_errors(value), _MAX_PROBLEMS))
    except _TooMuch:
        return SchemaReport(unjudged=("steps",))
    except (ValueError, TypeError, AttributeError):  # no schema in the sense of its draft, or no text in the value
        return SchemaReport(unjudged=("schema",))
    return SchemaReport(
        problems=tuple(f"{''.join(map(step, error.instance_path)) or '/'}: {error.message}" for error in found),
        unjudged=tuple(sorted(plan.unjudged)),
        annotations=tuple(sorted(plan.annotations)),
    )


class _TooMuch(Exception):
    """Judging would take too many steps, or not end."""


class _Plan:
    """A schema without what cannot be judged, and how many steps judging takes."""

    def __init__(self, schema: Json) -> None:
        self.unjudged: set[str] = set()
        self.annotations: set[str] = set()
        self._original = SchemaDocument(schema)
        self.schema = self._judgeable(schema, "")
        self._document = SchemaDocument(self.schema)
        self._steps: dict[tuple[int, int], int] = {}
        self._open: set[tuple[int, int]] = set()

    def _judgeable(self, schema: Json, pointer: str) -> Json:
        """The schema without expressions, formats and references that are not judged; each is noted."""
        if isinstance(schema, list):
            return [self._judgeable(inner, pointer + step(index)) for index, inner in enumerate(schema)]
        if not isinstance(schema, Mapping):
            return schema
        place = self._original.place(pointer)
        if place is None:
            return {name: self._judgeable(inner, pointer + step(name)) for name, inner in schema.items()}
        kept: dict[str, Json] = {}
        for keyword, argument in schema.items():
            match keyword:
                case "format" if argument not in FORMATS:
                    self.annotations.add(f"format:{argument}")
                case "pattern" if isinstance(argument, str) and judge_expression(argument) != "linear":
                    self.unjudged.add(keyword)
                case "patternProperties" if any(judge_expression(name) != "linear" for name in argument):
                    self.unjudged.add(keyword)
                case "$ref" if isinstance(argument, str) and self._original.resolve(argument, place.base) is None:
                    self.unjudged.add(keyword)
                case "additionalProperties" | "unevaluatedProperties" if any(
                    judge_expression(name) != "linear" for name in schema.get("patternProperties", ())
                ):
                    self.unjudged.add(keyword)
                case "enum" | "const" | "default" | "examples":
                    kept[keyword] = argument
                case _:
                    if keyword not in ASSERTIONS and keyword not in ANNOTATIONS:
                        self.annotations.add(keyword)
                    kept[keyword] = self._judgeable(argument, pointer + step(keyword))
        return kept

    def count_steps(self, value: Json) -> None:
        """Raise _TooMuch when judging the value visits schemas more often than is allowed, or without end."""
        root = self._document.place("")
        if root is not None and self._count(root, value, 0) > _MAX_STEPS:
            raise _TooMuch

    def _count(self, place: Place, value: Json, depth: int) -> int:
        """How often a schema is visited, at most, to judge one value. Each pair of schema and value is counted once."""
        if not isinstance(place.schema, Mapping):
            return 1
        pair = (id(place.schema), id(value))
        known = self._steps.get(pair)
        if known is not None:
            return known
        if pair in self._open or depth > _MAX_DEPTH or len(self._steps) > _MAX_PAIRS:
            raise _TooMuch
        self._open.add(pair)
        total = 1 + sum(self._count(*visit, depth + 1) for visit in self._visits(place, place.schema, value))
        self._open.discard(pair)
        self._steps[pair] = total
        return total

    def _visits(self, place: Place, schema: Mapping[str, Json], value: Json) -> Iterator[tuple[Place, Json]]:
        for keyword, argument in schema.items():
            at = place.pointer + step(keyword)
            match keyword:
                case "$ref" | "$dynamicRef" | "$recursiveRef":
                    target = self._document.resolve(argument, place.base)
                    if target is not None:
                        yield target, value
                case "allOf" | "anyOf" | "oneOf":
                    for index in range(len(argument)):
                        yield from self._at(at + step(index), value)
                case "not" | "if" | "then" | "else":
                    yield from self._at(at, value)
                case "dependentSchemas" | "dependencies":
                    for name in argument:
                        yield from self._at(at + step(name), value)
                case "properties" if isinstance(value, Mapping):
                    for name in argument.keys() & value.keys():
                        yield from self._at(at + step(name), value[name])
                case "patternProperties" if isinstance(value, Mapping):
                    for name in argument:
                        for member in value.values():
                            yield from self._at(at + step(name), member)
                case "additionalProperties" | "unevaluatedProperties" if isinstance(value, Mapping):
                    for member in value.values():
                        yield from self._at(at, member)
                case "propertyNames" if isinstance(value, Mapping):
                    for member in value:
                        yield from self._at(at, member)
                case "prefixItems" | "items" if isinstance(argument, list) and isinstance(value, (list, tuple)):
                    for index, item in enumerate(value[: len(argument)]):
                        yield from self._at(at + step(index), item)
                case "items" | "additionalItems" | "unevaluatedItems" | "contains" if isinstance(value, (list, tuple)):
                    for item in value:
                        yield from self._at(at, item)

    def _at(self, pointer: str, value: Json) -> Iterator[tuple[Place, Json]]:
        place = self._document.place(pointer)
        if place is not None:
            yield place, value
