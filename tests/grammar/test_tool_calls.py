"""The grammar of tool calls: exactly what the format allows and the schemas say."""

from __future__ import annotations

from typing import Any

import pytest

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import ToolCall
from deepserve.grammar.answer_form import CallableTool
from deepserve.grammar.compiler import CompiledForm
from deepserve.prompt.segments import SegmentWriter
from deepserve.prompt.tool_markup import write_calls
from tests.grammar.answers import admits, calls_form, compiler, tokenizer, tool


def compiled(*tools: CallableTool, **options: Any) -> CompiledForm:
    return compiler().compile(calls_form(*tools, **options))


def block(*calls: str) -> str:
    return "\n\n<｜DSML｜tool_calls>\n" + "\n".join(calls) + "\n</｜DSML｜tool_calls>"


def call(*parameters: str, name: str = "f") -> str:
    lines = "".join(f"<｜DSML｜parameter {parameter}</｜DSML｜parameter>\n" for parameter in parameters)
    return f'<｜DSML｜invoke name="{name}">\n{lines}</｜DSML｜invoke>'


def takes(form: CompiledForm, *parameters: str) -> bool:
    return admits(form, block(call(*parameters)))


def text(name: str, value: str) -> str:
    return f'name="{name}" string="true">{value}'


def other(name: str, value: str) -> str:
    return f'name="{name}" string="false">{value}'


STRING = {"type": "string"}
INTEGER = {"type": "integer"}


def test_what_we_write_for_past_turns_is_what_the_grammar_admits() -> None:
    form = compiled(
        tool("get_weather", type="object", properties={"city": STRING, "days": {"type": "array", "items": INTEGER}}),
        tool("get_time", type="object", properties={}),
    )
    writer = SegmentWriter()
    arguments = '{"city": "Köln \\"a\\" </b> \\n2>&1", "days": [1, 2]}'
    write_calls(
        writer,
        [ToolCall(id="1", name="get_weather", arguments=arguments), ToolCall(id="2", name="get_time", arguments="{}")],
    )
    assert form.matcher().admits([*tokenizer().encode(writer.finish()).ids, tokenizer().eos_id])


@pytest.mark.parametrize(
    "damaged",
    [
        block(),
        block(call(), "text"),
        block(call()) + "x",
        block(call()) + block(call()),
        block(call()).lstrip("\n"),
        "Sure." + block(call()),
        block(call()).replace("</｜DSML｜invoke>", ""),
        block(call()).replace("tool_calls", "toolcalls"),
        block(call(name="g")),
        block(call(name="ff")),
        block(call(text("a", "b"))),
        block(call()).removesuffix("</｜DSML｜tool_calls>"),
    ],
)
def test_damaged_markup_cannot_be_written(damaged: str) -> None:
    form = compiled(tool(type="object", properties={}))
    assert admits(form, block(call()))
    assert admits(form, block(call(), call()))
    assert not admits(form, damaged)


def test_without_parallel_calls_there_is_exactly_one() -> None:
    form = compiled(tool(type="object", properties={}), is_parallel=False)
    assert admits(form, block(call()))
    assert not admits(form, block(call(), call()))


def test_parameters_stand_in_the_schemas_order_and_the_required_ones_always() -> None:
    form = compiled(tool(type="object", properties={"a": INTEGER, "b": INTEGER, "c": INTEGER}, required=["b"]))
    a, b, c = other("a", "1"), other("b", "2"), other("c", "3")
    assert takes(form, b)
    assert takes(form, a, b, c)
    assert takes(form, b, c)
    for refused in ([], [a], [b, a], [a, b, b], [a, c], [b, other("d", "4")]):
        assert not takes(form, *refused), refused


def test_a_required_parameter_that_is_not_described_may_be_anything() -> None:
    form = compiled(tool(type="object", properties={"a": INTEGER}, required=["a", "b"]))
    assert takes(form, other("a", "1"), text("b", "x"))
    assert takes(form, other("a", "1"), other("b", "[1]"))
    assert not takes(form, other("a", "1"))


def test_raw_strings_hold_anything_but_the_special_token() -> None:
    form = compiled(tool(type="object", properties={"a": STRING}, required=["a"]))
    for value in (
        "",
        "Berlin",
        "</",
        "</</",
        "a</parameter>",
        "</｜",
        "\n\n",
        '"quoted"',
        "ls 2>&1",
        "日本 😀",
        "<｜User",
    ):
        assert takes(form, text("a", value)), value
    assert not takes(form, other("a", '"Berlin"'))
    assert not admits(form, block(call(text("a", "b<｜User｜>c"))))


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"enum": ["celsius", "a</b", "ü"]}, ["celsius", "a</b", "ü"], ["kelvin", "", "celsius "]),
        ({"type": "string", "const": "x"}, ["x"], ["", "xx"]),
        ({"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "äöü😀", "a\nb"], ["a", "abcde", ""]),
        ({"type": "string", "minLength": 3}, ["abc", "a" * 50], ["ab"]),
        ({"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"}, ["AB1", "AB123"], ["A1", "AB", "xAB1", "AB1x"]),
        ({"type": "string", "pattern": "b+"}, ["b", "abba", "xb\ny"], ["", "aaa"]),
        ({"type": "string", "pattern": "^a|b$"}, ["a", "ac", "xb"], ["xa", "bx"]),
        ({"type": "string", "pattern": "^a", "maxLength": 2}, ["a", "ab"], ["abc", "b"]),
        ({"type": "string", "format": "date"}, ["2026-02-28"], ["2026-02-30", "2026-2-1", "today"]),
        ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "string", "maxLength": 1}]}, ["a", "z", ""], ["zz"]),
        ({"allOf": [{"type": "string", "minLength": 2}, {"pattern": "^x"}]}, ["xy"], ["x", "yy"]),
        ({"$ref": "#/$defs/unit"}, ["m", "km"], ["mile"]),
    ],
)
def test_what_a_schema_demands_of_a_string_holds_for_raw_ones(
    schema: dict[str, Any], valid: list[str], invalid: list[str]
) -> None:
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"a": schema},
        "required": ["a"],
        "$defs": {"unit": {"enum": ["m", "km"]}},
    }
    form = compiled(tool(**parameters))
    for value in valid:
        assert takes(form, text("a", value)), value
    for value in invalid:
        assert not takes(form, text("a", value)), value


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        (INTEGER, ["1", "-7"], ["1.5", '"1"', "", "[1]"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "1"]),
        ({"type": "array", "items": STRING}, ["[]", '["a", "b"]', '["a","b"]'], ["[1]", '"a"']),
        ({"type": "object", "properties": {"k": INTEGER}, "required": ["k"]}, ['{"k": 1}'], ["{}", '{"k": "1"}']),
        ({"enum": [1, 2, None]}, ["1", "null"], ["3"]),
        ({"const": {"a": 1}}, ['{"a": 1}'], ["{}"]),
        ({"$ref": "#/$defs/pair"}, ["[1, 2]"], ["[1]"]),
        ({"type": "array", "items": {"$ref": "#/$defs/pair"}}, ["[[1, 2]]"], ["[1]", "[[1]]"]),
        ({"type": "object", "properties": {"p": {"$ref": "#"}}}, ['{"p": {}}', '{"p": {"a": {}}}'], ['{"p": 1}']),
    ],
)
def test_other_values_are_json_that_their_schema_admits(
    schema: dict[str, Any], valid: list[str], invalid: list[str]
) -> None:
    pair = {"type": "array", "items": INTEGER, "minItems": 2, "maxItems": 2}
    form = compiled(
        tool(type="object", properties={"a": schema}, required=[], **dict[str, Any]({"$defs": {"pair": pair}}))
    )
    for value in valid:
        assert takes(form, other("a", value)), value
    for value in invalid:
        assert not takes(form, other("a", value)), value
    assert not takes(form, text("a", "x"))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "integer", "null"]},
        {"anyOf": [STRING, INTEGER, {"type": "null"}]},
        {"enum": ["x", "y", 1, None]},
        {"oneOf": [{"const": "x"}, {"type": "integer"}, {"type": "null"}]},
    ],
)
def test_where_strings_and_others_fit_the_attribute_says_which(schema: dict[str, Any]) -> None:
    form = compiled(tool(type="object", properties={"a": schema}, required=["a"]))
    assert takes(form, text("a", "x"))
    assert takes(form, other("a", "1"))
    assert takes(form, other("a", "null"))
    assert not takes(form, other("a", '"x"'))
    assert not takes(form, other("a", "true"))


def test_undeclared_parameters_are_written_only_where_the_schema_says_so() -> None:
    declared: dict[str, Any] = {"type": "object", "properties": {"a": INTEGER}}
    assert not takes(compiled(tool(**declared)), other("a", "1"), text("b", "x"))
    loose = compiled(tool(**declared, additionalProperties=INTEGER))
    assert takes(loose, other("a", "1"), other("b", "2"), other("c", "3"))
    assert takes(loose, other("b", "2"))
    assert not takes(loose, other("a", "1"), other("a", "2"))
    assert not takes(loose, text("b", "x"))
    assert takes(compiled(tool(type="object")), text("b", "x"), other("c", "1"))
    assert takes(compiled(tool(type="object")))


def test_a_tool_without_parameters_takes_none() -> None:
    for without in (tool(), tool(type="object", properties={}), tool(type="object", additionalProperties=False)):
        form = compiled(without)
        assert takes(form)
        assert not takes(form, text("a", "b"))


def test_alternatives_at_the_root_exclude_each_other() -> None:
    by_name = {"properties": {"name": STRING}, "required": ["name"]}
    by_id = {"properties": {"id": INTEGER}, "required": ["id"]}
    form = compiled(tool(type="object", anyOf=[by_name, by_id]))
    assert takes(form, text("name", "x"))
    assert takes(form, other("id", "1"))
    assert not takes(form)
    either = compiled(
        tool(type="object", properties={"a": STRING, "b": STRING}, anyOf=[{"required": ["a"]}, {"required": ["b"]}])
    )
    assert takes(either, text("a", "x"))
    assert takes(either, text("b", "x"))
    assert not takes(either)


def test_references_and_intersections_at_the_root_are_followed() -> None:
    place = {"type": "object", "properties": {"city": STRING}, "required": ["city"]}
    form = compiled(tool(**dict[str, Any]({"$ref": "#/$defs/place", "$defs": {"place": place}})))
    assert takes(form, text("city", "x"))
    assert not takes(form)
    both = compiled(tool(allOf=[place, {"properties": {"n": INTEGER}, "required": ["n"]}]))
    assert takes(both, text("city", "x"), other("n", "1"))
    assert not takes(both, text("city", "x"))


def test_tools_whose_names_begin_alike_are_told_apart() -> None:
    form = compiled(tool("get"), tool("get_all", type="object", properties={"a": INTEGER}, required=["a"]))
    assert admits(form, block(call(name="get")))
    assert admits(form, block(call(other("a", "1"), name="get_all")))
    assert not admits(form, block(call(name="get_all")))
    assert not admits(form, block(call(name="get_")))


def test_what_cannot_be_enforced_is_refused_of_a_strict_tool_and_told_of_a_loose_one() -> None:
    for schema, keyword in (
        ({"type": "array", "items": INTEGER, "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "not": {"const": "x"}}, "not"),
        ({"type": "string", "pattern": "^(?=a)"}, "pattern"),
    ):
        parameters: dict[str, Any] = {"type": "object", "properties": {"a": schema}}
        with pytest.raises(UnsupportedFeature, match=keyword) as refused:
            compiled(tool(**parameters))
        assert refused.value.field == "tools[0].parameters/properties/a"
        relaxed = compiled(tool(is_strict=False, **parameters)).relaxed
        assert relaxed == (f"tools[0].parameters/properties/a: {keyword}",)


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "array"},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {
            "type": "object",
            "properties": {"a": {"type": "string", "pattern": "^x$", "minLength": 3}},
            "required": ["a"],
        },
        {"anyOf": [False]},
    ],
)
def test_parameters_that_are_none_are_an_error_of_their_field(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as refused:
        compiled(tool(**parameters))
    assert refused.value.field == "tools[0].parameters"


def test_unknown_keywords_are_annotations() -> None:
    schema = {"type": "string", "_format": "x", "example": "y", "x-order": 1, "readonly": True}
    form = compiled(tool(type="object", id="weather", version="1.0", properties={"a": schema}, links=[]))
    assert takes(form, text("a", "z"))
    assert form.relaxed == ()


def test_an_optional_parameter_that_can_have_no_value_is_never_written() -> None:
    impossible = {"type": "array", "items": False, "minItems": 1}
    form = compiled(tool(type="object", properties={"a": impossible, "b": INTEGER}))
    assert takes(form, other("b", "1"))
    assert not takes(form, other("a", "[1]"))


@pytest.mark.parametrize("keyword", ["const", "enum"])
def test_parameters_that_are_written_down_whole_are_those(keyword: str) -> None:
    """Regression: `enum` and `const` at the root were read by nobody."""
    values: list[Any] = [{"a": "x", "n": 1}, 7, {}]
    known: dict[str, Any] = {keyword: values[0] if keyword == "const" else values}
    form = compiled(tool(**known))
    assert takes(form, text("a", "x"), other("n", "1"))
    assert not takes(form, text("a", "y"), other("n", "1"))
    assert not takes(form, text("a", "x"))
    assert takes(form) is (keyword == "enum")
    no_object: dict[str, Any] = {keyword: 2 if keyword == "const" else [2]}
    with pytest.raises(InvalidField, match="No parameters satisfy"):
        compiled(tool(**no_object))


def test_members_of_several_parts_satisfy_all_of_them() -> None:
    """Regression: what one part said of further members was not asked of another part's own."""
    form = compiled(
        tool(
            type="object", additionalProperties=INTEGER, allOf=[{"properties": {"a": {"type": ["string", "integer"]}}}]
        )
    )
    assert takes(form, other("a", "1"))
    assert not takes(form, text("a", "x"))
    with pytest.raises(InvalidField, match="No parameters satisfy"):
        compiled(tool(allOf=[{"properties": {"a": STRING}, "additionalProperties": False}, {"required": ["b"]}]))


def test_unevaluated_members_are_those_that_no_part_declares() -> None:
    parts: dict[str, Any] = {"allOf": [{"properties": {"a": STRING}, "required": ["a"]}]}
    form = compiled(tool(type="object", properties={"b": INTEGER}, unevaluatedProperties=False, **parts))
    assert takes(form, other("b", "1"), text("a", "x"))
    assert not takes(form, text("a", "x"), text("c", "x"))
    form = compiled(tool(type="object", unevaluatedProperties=INTEGER, **parts))
    assert takes(form, text("a", "x"), other("c", "1"))
    assert not takes(form, text("a", "x"), text("c", "x"))


def test_references_by_name_lead_where_they_say() -> None:
    """Regression: `#name` was taken for the whole schema."""
    definitions: dict[str, Any] = {
        "$defs": {
            "unit": {"$anchor": "unit", "enum": ["m", "km"]},
            "pair": {"$id": "pair", "type": "array", "items": INTEGER, "minItems": 2, "maxItems": 2},
        }
    }
    properties = {"u": {"$ref": "#unit"}, "p": {"$ref": "pair"}, "n": {"type": "array", "items": {"$ref": "#unit"}}}
    form = compiled(tool(type="object", properties=properties, **definitions))
    assert takes(form, text("u", "km"), other("p", "[1, 2]"), other("n", '["m"]'))
    assert not takes(form, text("u", "x"))
    assert not takes(form, other("p", "[1]"))
    assert not takes(form, other("n", '["x"]'))


def test_members_may_be_called_like_keywords() -> None:
    """Regression: in a parameter, members called `definitions` or `$id` were dropped; `enum` was not looked into."""
    unit = {"$ref": "#/$defs/unit"}
    inner = {
        "type": "object",
        "properties": {"definitions": INTEGER, "$id": INTEGER, "enum": unit},
        "required": ["definitions", "$id", "enum"],
        "additionalProperties": False,
    }
    form = compiled(
        tool(type="object", properties={"a": inner}, **dict[str, Any]({"$defs": {"unit": {"enum": ["m"]}}}))
    )
    assert takes(form, other("a", '{"definitions": 1, "$id": 2, "enum": "m"}'))
    assert not takes(form, other("a", '{"definitions": "x", "$id": 2, "enum": "m"}'))
    assert not takes(form, other("a", '{"definitions": 1, "$id": 2, "enum": "x"}'))


def test_exactly_one_alternative_of_a_raw_string_holds() -> None:
    """Regression: strings of which two alternatives admitted some were held to any of them."""
    form = compiled(
        tool(
            type="object",
            properties={"a": {"oneOf": [{"type": "string", "minLength": 2}, {"type": "string", "maxLength": 4}]}},
        )
    )
    for value, is_valid in (("x", True), ("abc", False), ("abcde", True)):
        assert takes(form, text("a", value)) is is_valid, value
    never = compiled(tool(type="object", properties={"a": {"oneOf": [STRING, STRING]}, "b": STRING}))
    assert not takes(never, text("a", "x"))
    assert takes(never, text("b", "x"))


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_references_that_name_each_other_again_and_again_take_no_time(keyword: str) -> None:
    """Regression: each of thirty references was followed four times from the one before."""
    leaf: dict[str, Any] = (
        {"type": "string", "enum": ["x", "y"]} if keyword != "oneOf" else {"type": ["string", "null"]}
    )
    definitions: dict[str, Any] = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 4} for n in range(30)}
    definitions["d30"] = leaf
    root: dict[str, Any] = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions}
    try:
        compiled(tool(is_strict=False, **root))
    except UnsupportedFeature as refusal:
        assert "too large" in refusal.message or keyword == "oneOf"  # noqa: PT017


def test_a_parameter_that_is_not_described_by_a_schema_may_be_anything_in_a_loose_tool() -> None:
    """Tools of real clients say `required: true` of a parameter, as the third draft had it."""
    properties: dict[str, Any] = {"a": {"type": "integer", "required": True}, "b": INTEGER, "c/d": {"pattern": "("}}
    form = compiled(tool(is_strict=False, type="object", properties=properties))
    assert takes(form, text("a", "x"), other("b", "1"))
    assert not takes(form, text("b", "x"))
    assert form.relaxed == (
        "tools[0].parameters/properties/a: not a JSON schema",
        "tools[0].parameters/properties/c~1d: not a JSON schema",
    )
    with pytest.raises(InvalidField, match="/properties/a/required"):
        compiled(tool(type="object", properties=properties))
