"""What is refused as a schema before anybody asks whether it can be enforced, and how the refusal is worded."""

import json
import sys
import time
from pathlib import Path

import pytest

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.schema_reading import SchemaLimits, read_schema
from deepserve.core.schema_tree import SchemaDocument

_DATA = Path(__file__).parents[3] / "shared" / "data" / "json-schema"
_FIELD = "tools[3].function.parameters"


def _nested(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "pointer", "said"),
    [
        ({"properties": {"a": {"type": "text"}}}, "/properties/a/type", "not valid"),
        ({"properties": {"a": {"minLength": -1}}}, "/properties/a/minLength", "minimum"),
        ({"required": True}, "/required", 'not of type "array"'),
        ({"anyOf": []}, "/anyOf", "less than 1 item"),
        ({"$defs": {"x": {"$ref": "#/$defs/y"}}}, "/$defs/x/$ref", "nothing in the schema is called '#/$defs/y'"),
        ({"items": {"pattern": "("}}, "/items/pattern", "no regular expression"),
        ({"patternProperties": {"a/(": {}}}, "/patternProperties/a~1(", "no regular expression"),
        ({"pattern": "a{1001}"}, "/pattern", "at most 1000"),
        ({"pattern": "((a{100}){100}){11}"}, "/pattern", "at most 100000"),
        ({"pattern": "é" * 2049}, "/pattern", "4096 bytes"),
        ({"$schema": "http://example.org/mine"}, "/$schema", "draft is unknown"),
        (
            {"items": {"$schema": "http://json-schema.org/draft-04/schema#"}},
            "/items/$schema",
            "the draft that its top names",
        ),
        ({"$def": {"a": {"properties": 5}}}, "/$def/a/properties", 'not of type "object"'),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "items": {"prefixItems": 5}},
            "/items/prefixItems",
            'not of type "array"',
        ),
        (_nested(32), "/items" * 32, "nested 32 deep"),
        ({"description": "x" * 262_144}, "/", "at most 262144 are allowed"),
        ({"title": "\ud800"}, "/", "JSON cannot carry"),
        ({"minimum": float("nan")}, "/minimum", "not of type"),
    ],
)
def test_a_wrong_schema_is_refused_with_the_field_the_place_and_the_reason(
    schema: object, pointer: str, said: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        read_schema(schema, field=_FIELD)
    assert caught.value.field == _FIELD
    assert f"`{_FIELD}` is wrong at `{pointer}`" in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize("schema", [3, "x", None, [], {"a"}])
def test_what_is_no_object_is_no_schema(schema: object) -> None:
    with pytest.raises(InvalidField, match="must be a JSON schema"):
        read_schema(schema, field=_FIELD)


@pytest.mark.parametrize(
    "reference", ["http://example.org/x", "//example.org/x", "other.json#/a", "file:///etc/passwd", "urn:x:y"]
)
def test_a_reference_to_another_document_is_refused_and_not_followed(reference: str) -> None:
    with pytest.raises(UnsupportedFeature, match="copy what is meant under") as caught:
        read_schema({"properties": {"a": {"$ref": reference}}}, field=_FIELD)
    assert "/properties/a/$ref" in caught.value.message


def test_more_names_or_values_than_allowed_are_refused_and_so_many_are_not() -> None:
    limits = SchemaLimits(properties=6, enum_values=4)
    objects: dict[str, object] = {"a": {"properties": {"x": {}, "y": {}}}, "b": {"properties": {"x": {}, "y": {}}}}
    read_schema({"properties": objects}, field=_FIELD, limits=limits)
    read_schema({"anyOf": [{"enum": [1, 2]}, {"enum": [3, 4]}]}, field=_FIELD, limits=limits)
    with pytest.raises(InvalidField, match="at most 6 properties"):
        read_schema({"properties": {**objects, "c": {}}}, field=_FIELD, limits=limits)
    with pytest.raises(InvalidField, match="at most 4 values"):
        read_schema({"anyOf": [{"enum": [1, 2]}, {"enum": [3, 4, 5]}]}, field=_FIELD, limits=limits)


def test_schemas_at_the_limits_are_read() -> None:
    read_schema(_nested(31), field=_FIELD)
    read_schema({"pattern": "((a{100}){100}){10}"}, field=_FIELD)
    read_schema({"pattern": "a" * 4096}, field=_FIELD)
    read_schema({"properties": {f"p{i}": {"enum": [1, 2]} for i in range(2000)}}, field=_FIELD)


@pytest.mark.parametrize("bomb", ['{"items":' * 5000 + "{}" + "}" * 5000, "[" * 5000 + "]" * 5000])
def test_endless_nesting_is_refused_without_recursion(bomb: str) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        nested = json.loads(bomb)
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(InvalidField, match="levels deep"):
        read_schema({"default": nested}, field=_FIELD)


def test_every_schema_of_the_public_sets_is_read() -> None:
    if not _DATA.exists():
        pytest.skip("the public schema suites are not beside the checkout")
    for file in sorted((_DATA / "maskbench").glob("*.json")):
        read_schema(json.loads(file.read_text())["schema"], field=_FIELD)
    for file in sorted((_DATA / "suite").glob("*.json")):
        for group in json.loads(file.read_text()):
            if "draft/2020-12/schema" in str(group["schema"].get("$ref") if isinstance(group["schema"], dict) else ""):
                continue  # refers to the meta-schema
            read_schema(group["schema"], field=_FIELD)


def test_references_are_understood_in_every_spelling() -> None:
    document = SchemaDocument(
        {
            "$id": "http://example.org/root.json",
            "$defs": {
                "a/b": {"type": "string"},
                "c": {"$anchor": "here", "type": "null"},
                "d": {"$id": "sub/d.json", "$defs": {"e": {"type": "integer"}}},
            },
        }
    )
    base = "http://example.org/root.json"
    pointers = {
        "#": "",
        "#/$defs/a~1b": "/$defs/a~1b",
        "#/%24defs/c": "/$defs/c",
        "#here": "/$defs/c",
        "root.json#here": "/$defs/c",
        "sub/d.json": "/$defs/d",
        "http://example.org/sub/d.json#/$defs/e": "/$defs/d/$defs/e",
    }
    for reference, pointer in pointers.items():
        found = document.resolve(reference, base)
        assert found is not None
        assert found.pointer == pointer
    within = document.resolve("#/$defs/e", "http://example.org/sub/d.json")
    assert within is not None
    assert within.pointer == "/$defs/d/$defs/e"
    assert document.resolve("#/$defs/e", base) is None
    assert document.resolve("http://example.org/other.json", base) is None


def test_old_drafts_name_places_by_id() -> None:
    old = SchemaDocument(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"x": {"$id": "#there"}, "y": {"$ref": "#there", "$id": "http://ignored.example/"}},
        }
    )
    found = old.resolve("#there", "")
    assert found is not None
    assert found.pointer == "/definitions/x"
    beside = old.place("/definitions/y")
    assert beside is not None
    assert beside.base == ""


def test_a_schema_at_the_size_limit_is_refused_quickly() -> None:
    """A request over a limit has 50 ms; only this thread's own time counts, for the machine may be busy."""
    many = {"properties": {f"p{i}": {"enum": list(range(25))} for i in range(2001)}}

    def once() -> float:
        started = time.thread_time()
        with pytest.raises(InvalidField):
            read_schema(many, field=_FIELD)
        return time.thread_time() - started

    assert min(once() for _ in range(3)) < 0.05
