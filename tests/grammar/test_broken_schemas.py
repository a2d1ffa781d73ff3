"""Whatever clients send as a schema is compiled or refused: nothing else happens."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import pytest

from deepserve.core.errors import InvalidField, RequestError
from deepserve.core.messages import Json
from deepserve.core.schema_tree import ANNOTATIONS, ASSERTIONS
from deepserve.grammar.answer_form import CallableTool
from tests.grammar.answers import calls_form, compiler, json_form, tool
from tests.grammar.test_ending_in_time import CONTACT, TREE
from tests.grammar.test_tool_calls import compiled, other, takes, text

KEYWORDS = sorted(ASSERTIONS | ANNOTATIONS)
ARGUMENTS: list[Json] = [
    *(None, True, False, 0, -1, 1.5, 1e30, "", "x", "string", "#", "#/", "#/$defs/a", "[", "^a+$", "date", [], {}),
    *(["a"], ["string", "null"], [{}], {"a": {}}, {"type": "string"}, {"$ref": "#"}, {"a": ["b"]}, {"minLength": 2}),
    *([{"type": "object"}, {"type": "string"}], {"enum": ["x", 1, None]}, "http://json-schema.org/draft-04/schema#"),
]


def test_schemas_with_anything_in_them_are_compiled_or_refused() -> None:
    draw = Random(20261123)
    num_compiled = 0
    for _ in range(600):
        schema = copy.deepcopy(draw.choice([TREE, CONTACT, {"type": "object", "properties": {"a": {}}}]))
        for _ in range(draw.randrange(1, 4)):
            draw.choice(objects_in(schema))[draw.choice(KEYWORDS)] = copy.deepcopy(draw.choice(ARGUMENTS))
        own = CallableTool(name="f", parameters=schema, is_strict=draw.random() < 0.3)
        try:
            compiler().compile(draw.choice([json_form(schema), calls_form(own)]))
        except RequestError as refusal:
            assert (refusal.field or "").partition("/")[0] in ("response_format", "tools")  # noqa: PT017
        else:
            num_compiled += 1
    assert 50 < num_compiled < 550


def objects_in(value: Json) -> list[dict[str, Json]]:
    if isinstance(value, dict):
        return [value, *(found for inner in value.values() for found in objects_in(inner))]
    return [found for inner in value for found in objects_in(inner)] if isinstance(value, list) else []


def test_a_reference_that_is_no_text_is_an_error() -> None:
    """Regression: the fourth draft says nothing about references, and one that was an object was an internal error."""
    schema = {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"$ref": {}}}}
    with pytest.raises(InvalidField, match="/properties/a/\\$ref"):
        compiler().compile(json_form(schema))


def test_references_to_places_with_odd_names_are_followed() -> None:
    """Regression: a percent sign in a name was taken for the beginning of an escape."""
    names = ("a%25b", "#", "c/d~", 'e"f', "")
    definitions: dict[str, Any] = {name: {"enum": [f"<{name}>"]} for name in names}
    pointers = ("a%2525b", "%23", "c~1d~0", "e%22f", "")
    properties = {f"p{n}": {"$ref": f"#/$defs/{pointer}"} for n, pointer in enumerate(pointers)}
    lists = {f"l{n}": {"type": "array", "items": schema} for n, schema in enumerate(properties.values())}
    form = compiled(tool(**dict[str, Any](type="object", properties=properties | lists, **{"$defs": definitions})))
    for number, name in enumerate(names):
        assert takes(form, text(f"p{number}", f"<{name}>"))
        assert not takes(form, text(f"p{number}", "x"))
    assert takes(form, other("l0", '["<a%25b>"]'))


def test_what_is_broken_in_a_loose_tool_is_read_by_nobody() -> None:
    """Regression: what required members cost was counted before anybody had looked at the schema."""
    broken = {"type": "object", "properties": {}, "required": [{}]}
    properties: dict[str, Any] = {"a": broken, "b": {"type": "integer"}}
    form = compiled(tool(is_strict=False, type="object", properties=properties, required=["a"]))
    assert takes(form, text("a", "x"), other("b", "1"))
    assert form.relaxed == ("tools[0].parameters/properties/a: not a JSON schema",)
