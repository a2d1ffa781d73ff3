from __future__ import annotations

import pytest

from deepserve.core.messages import Json
from deepserve.grammar.answer_form import AnswerForm, CallableTool, Content
from deepserve.grammar.growth import LEAST_GROWTH, growth_tokens, has_free_strings

LONG: dict[str, Json] = {
    "type": "object",
    "properties": {f"member_number_{number}": {"type": "string"} for number in range(10)},
    "required": [f"member_number_{number}" for number in range(10)],
}


def form_of(schema: Json) -> AnswerForm:
    return AnswerForm(content=Content(kind="json", schema=schema))


def test_what_is_required_adds_nothing_because_every_completion_has_it() -> None:
    schema: Json = {"type": "object", "properties": {"all": LONG}, "required": ["all"]}
    assert growth_tokens(form_of(LONG)) == LEAST_GROWTH
    assert growth_tokens(form_of(schema)) == LEAST_GROWTH


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"maybe": LONG}},
        {"type": "array", "items": LONG},
        {"type": "object", "additionalProperties": LONG},
        {"anyOf": [{"type": "null"}, LONG]},
        {"$defs": {"long": LONG}, "type": "array", "items": {"$ref": "#/$defs/long"}},
        {"type": "object", "properties": {"named": {"items": LONG}}, "required": ["named"]},
        {"enum": ["no", "member" * 40]},
        {"type": "array", "items": {"type": "string", "minLength": 200}},
        {"type": "string", "pattern": "a|" + "b" * 100},
    ],
)
def test_what_a_choice_adds_is_counted(schema: Json) -> None:
    assert growth_tokens(form_of(schema)) > 75


def test_members_that_demand_others_count_as_if_nothing_were_written() -> None:
    """A tool's schema let a flag demand a file; the search came too late and the answer was cut off."""
    schema: dict[str, Json] = {**LONG, "dependencies": {"member_number_1": {"required": ["member_number_2"]}}}
    assert growth_tokens(form_of(schema)) > 75


def test_another_call_counts_with_what_its_tool_requires() -> None:
    tool = CallableTool(name="long", parameters=LONG)
    assert growth_tokens(AnswerForm(tools=(tool,), calls="optional")) > 75


@pytest.mark.parametrize(
    ("schema", "is_free"),
    [
        (LONG, True),
        ({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"}, True),
        ({"type": "string", "pattern": "^(a|b{500})$"}, False),
        ({"type": "object", "patternProperties": {"x|y": {}}}, False),
        ({"type": "array", "items": {"type": "string", "format": "uuid"}}, False),
        ({"type": "object", "properties": {"word": {"not": {"const": "x"}}}}, False),
    ],
)
def test_strings_are_free_unless_their_text_decides_their_end(schema: Json, is_free: bool) -> None:
    assert has_free_strings(form_of(schema)) is is_free
    assert not has_free_strings(AnswerForm(content=Content(kind="regex", pattern="a|b")))
