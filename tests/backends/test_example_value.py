"""Examples satisfy the schemas they are examples of."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from deepserve.backends.example_value import example_value

Json = Any
"""Schemas."""

SCHEMAS: tuple[Json, ...] = (
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]},
    {"properties": {"a": {"type": "boolean"}}, "required": ["a"]},
    {"type": "object"},
    {"type": ["string", "null"]},
    {"type": "null"},
    {"enum": [3, 4]},
    {"const": {"a": 1}},
    {"type": "array", "items": {"type": "number", "minimum": 5}, "minItems": 2},
    {"type": "integer", "maximum": -3},
    {"type": "string", "minLength": 20},
    {"type": "string", "maxLength": 2},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "integer"}}}]},
    {"$ref": "#/$defs/city", "$defs": {"city": {"type": "object", "properties": {}, "required": []}}},
    {"$defs": {"a/b": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/a~1b"}, "minItems": 1},
)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_example_satisfies_its_schema(schema: Json) -> None:
    jsonschema_rs.validator_for(schema).validate(example_value(schema))


def test_a_schema_without_an_end_has_an_example_all_the_same() -> None:
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert isinstance(example_value(endless), dict)
    assert example_value({"$ref": "#/nowhere"}) == "example"
