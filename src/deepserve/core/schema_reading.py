"""Is what a client sent a JSON Schema, and one small enough to work with? Everything that is wrong without asking
whether it can be enforced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import jsonschema_rs
import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.core.regular_expression import judge_expression, repetitions
from deepserve.core.schema_tree import DRAFTS, Place, SchemaDocument, children, draft_of, step


class SchemaLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a schema may be.

    depth                schemas inside schemas
    properties           declared names, in all objects together
    repetition           the largest bound of a repetition in a `pattern`
    repetition_product   the same of repetitions inside each other, multiplied
    """

    size_bytes: int = 256 * 1024
    depth: int = 32
    properties: int = 2000
    enum_values: int = 5000
    pattern_bytes: int = 4 * 1024
    repetition: int = 1000
    repetition_product: int = 100_000


_DEFAULT_LIMITS: Final = SchemaLimits()

_ONLY_IN: Final[Mapping[str, frozenset[int]]] = {
    "$def": frozenset(),
    "prefixItems": frozenset((2020,)),
    **dict.fromkeys(
        (
            "unevaluatedItems",
            "unevaluatedProperties",
            "dependentRequired",
            "dependentSchemas",
            "minContains",
            "maxContains",
            "$defs",
        ),
        frozenset((2019, 2020)),
    ),
    **dict.fromkeys(("const", "contains", "propertyNames"), frozenset((6, 7, 2019, 2020))),
    **dict.fromkeys(("if", "then", "else"), frozenset((7, 2019, 2020))),
}
"""Keywords that some drafts do not have. They mean in every draft what they mean in the latest."""

_SPELLING: Final[Mapping[str, str]] = {"$def": "$defs"}
_JSON_DEPTH: Final = 200


def read_schema(schema: Json, *, field: str, limits: SchemaLimits = _DEFAULT_LIMITS) -> None:
    """Refuse what is no schema, is too large, or refers to what is not in it.

    field  as the client spelled it; every error names it, the place in the schema and the keyword.
    Raises InvalidField, or UnsupportedFeature for a reference to another document.
    """
    if not isinstance(schema, (Mapping, bool)):
        raise InvalidField(f"`{field}` must be a JSON schema: an object, or true or false.", field=field)
    _check_size(schema, field, limits)
    _check_draft(schema, field)
    document = SchemaDocument(schema)
    for place in document.places():
        if "$schema" in (place.schema if isinstance(place.schema, Mapping) else ()) and (
            draft_of(place.schema) != document.draft
        ):
            raise _fault(field, f"{place.pointer}/$schema", "a schema keeps to the draft that its top names.")
    _check_against_draft(schema, field)
    _Reading(document, field, limits).check()


def _fault(field: str, pointer: str, problem: str) -> InvalidField:
    return InvalidField(f"The schema in `{field}` is wrong at `{pointer or '/'}`: {problem}", field=field)


def _check_size(schema: Json, field: str, limits: SchemaLimits) -> None:
    """Measured before anything walks the schema by recursion."""
    layer: list[Json] = [schema]
    for _ in range(_JSON_DEPTH):
        layer = [inner for outer in layer for inner in _contents(outer)]
        if not layer:
            break
    else:
        raise _fault(field, "", f"it is nested more than {_JSON_DEPTH} levels deep.")
    try:
        size = len(msgspec.json.encode(schema))
    except (UnicodeError, TypeError, ValueError, OverflowError) as error:
        raise _fault(field, "", "it holds text or numbers that JSON cannot carry.") from error
    if size > limits.size_bytes:
        raise _fault(field, "", f"it has {size} bytes; at most {limits.size_bytes} are allowed.")
    pending: list[tuple[str, Json]] = [("", schema)]
    for _ in range(limits.depth):
        pending = [(at + rest, inner) for at, outer in pending for rest, inner in children(outer)]
        if not pending:
            return
    raise _fault(field, pending[0][0], f"schemas may be nested {limits.depth} deep; define parts under `$defs`.")


def _contents(value: Json) -> Iterator[Json]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value


def _check_draft(schema: Json, field: str) -> None:
    if draft_of(schema) is None:
        known = ", ".join(sorted(DRAFTS))
        raise _fault(field, "/$schema", f"the draft is unknown. Known are: {known}.")


def _check_against_draft(schema: Json, field: str, at: str = "", keyword: str | None = None) -> None:
    """Whether every keyword has a value that the draft allows. `$schema` must be one we know: others are fetched.

    keyword  the client's spelling of the schema's only one, where it is not the draft's
    """
    try:
        jsonschema_rs.meta.validate(schema)
    except jsonschema_rs.ValidationError as error:
        path = error.instance_path if keyword is None else [keyword, *error.instance_path[1:]]
        pointer = at + "".join(map(step, path))
        message = error.message if len(error.message) <= 200 else error.message[:200] + "..."
        raise _fault(field, pointer, f"{message}.") from error
    except ValueError as error:
        raise _fault(field, at, f"{error}.") from error


class _Reading:
    """One walk over all places of a document."""

    def __init__(self, document: SchemaDocument, field: str, limits: SchemaLimits) -> None:
        self._document = document
        self._field = field
        self._limits = limits
        self._foreign = frozenset(name for name, drafts in _ONLY_IN.items() if document.draft not in drafts)

    def check(self) -> None:
        num_properties = num_values = 0
        for place in self._document.places():
            schema = place.schema
            if not isinstance(schema, Mapping):
                continue
            for name in self._foreign & schema.keys():
                _check_against_draft({_SPELLING.get(name, name): schema[name]}, self._field, place.pointer, name)
            num_properties += len(schema.get("properties", ()))
            num_values += len(schema.get("enum", ()))
            if num_properties > self._limits.properties:
                raise self._excess(place, "properties", f"{self._limits.properties} properties are allowed in all.")
            if num_values > self._limits.enum_values:
                raise self._excess(place, "enum", f"{self._limits.enum_values} values are allowed in all.")
            self._check_references(place, schema)
            if isinstance(schema.get("pattern"), str):
                self._check_expression(f"{place.pointer}/pattern", schema["pattern"])
            for expression in schema.get("patternProperties", ()):
                self._check_expression(f"{place.pointer}/patternProperties{step(expression)}", expression)

    def _excess(self, place: Place, keyword: str, limit: str) -> InvalidField:
        return _fault(self._field, f"{place.pointer}/{keyword}", f"at most {limit}")

    def _check_references(self, place: Place, schema: Mapping[str, Json]) -> None:
        if "$ref" not in schema:
            return
        reference, at = schema["$ref"], f"{place.pointer}/$ref"
        if not isinstance(reference, str):  # the fourth draft does not say so itself
            raise _fault(self._field, at, "a reference is a text.")
        if self._document.resolve(reference, place.base) is not None:
            return
        if reference.startswith("#"):
            raise _fault(self._field, at, f"nothing in the schema is called {reference[:200]!r}.")
        raise UnsupportedFeature(
            f"The schema in `{self._field}` refers at `{at}` to another document. References stay inside the schema: "
            "copy what is meant under `$defs`.",
            field=self._field,
        )

    def _check_expression(self, at: str, expression: str) -> None:
        limits = self._limits
        if len(expression.encode()) > limits.pattern_bytes:
            raise _fault(self._field, at, f"a regular expression has at most {limits.pattern_bytes} bytes.")
        largest, product = repetitions(expression)
        if largest > limits.repetition:
            raise _fault(self._field, at, f"a repetition in a regular expression is at most {limits.repetition}.")
        if product > limits.repetition_product:
            raise _fault(
                self._field, at, f"repetitions inside each other multiply to at most {limits.repetition_product}."
            )
        if judge_expression(expression) == "malformed":
            raise _fault(self._field, at, f"{expression[:100]!r} is no regular expression, or far too large a one.")
