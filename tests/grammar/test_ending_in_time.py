"""Whatever the model wants: an answer whose shortest form fits its limit ends in that form within it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.schema import check_schema
from deepserve.grammar.answer_form import AnswerForm, Content
from deepserve.grammar.compiler import CompiledForm
from tests.grammar.answers import (
    Pick,
    at_random,
    calls_form,
    compiler,
    ids_of,
    json_form,
    read,
    tokenizer,
    tool,
    written,
)

EOS = tokenizer().eos_id
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "minLength": 1, "maxLength": 12},
        "size": {"type": "integer", "minimum": 3, "maximum": 4_711},
        "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 4},
    },
    "required": ["label", "size"],
    "additionalProperties": False,
}
CONTACT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "note": {"type": "string"},
        "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4,8}$"},
        "mail": {"type": "string", "format": "email"},
        "found": {"type": "string", "pattern": "needle"},
        "when": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        "points": {"type": "array", "items": {"type": "number"}, "minItems": 2},
        "kind": {"enum": ["a", "b", 3]},
        "more": {
            "type": "object",
            "properties": {f"field_{index}": {"type": "boolean"} for index in range(12)},
            "required": [f"field_{index}" for index in range(12)],
        },
    },
    "required": ["code", "found", "points"],
    "additionalProperties": False,
}
SCHEMAS = [TREE, CONTACT, {"type": "object"}, {"type": "array", "items": {"type": "array"}}, {"type": "string"}]
TOOLS = (
    tool("tree", **TREE),
    tool("contact", **CONTACT),
    tool("now"),
    tool("anything", type="object", is_strict=False),
)


def always(token: int) -> Pick:
    """A model that has one wish; where it may not have it, the first token that it may."""
    return lambda allowed: token if allowed >> token & 1 else (allowed & -allowed).bit_length() - 1


def never_ending(allowed: int) -> int:
    """The last allowed token that does not end the answer."""
    others = allowed & ~(1 << EOS)
    return (others or allowed).bit_length() - 1


PICKS: list[Pick] = [
    always(ids_of("[")[0]),
    always(ids_of('"')[0]),
    always(ids_of("0")[0]),
    always(ids_of("\\")[0]),
    always(ids_of("<")[0]),
    always(ids_of(" the")[0]),
    never_ending,
]
picks = st.one_of(st.integers(0, 1 << 32).map(at_random), st.sampled_from(PICKS))


@settings(max_examples=150, deadline=None)
@given(schema=st.sampled_from(SCHEMAS), pick=picks, room=st.integers(0, 300), skips_ahead=st.booleans())
def test_json_is_complete_within_any_limit_that_it_fits(
    schema: dict[str, Any], pick: Pick, room: int, skips_ahead: bool
) -> None:
    form = compiler().compile(json_form(schema))
    output = written(form, pick, max_tokens=form.shortest_tokens + room, skips_ahead=skips_ahead)
    assert output[-1] == EOS
    value = json.loads(tokenizer().decode(output[:-1]))
    assert check_schema(schema, value).verdict == "valid"


@settings(max_examples=150, deadline=None)
@given(
    pick=picks,
    room=st.integers(0, 400),
    is_parallel=st.booleans(),
    skips_ahead=st.booleans(),
    tools=st.lists(st.sampled_from(TOOLS), min_size=1, max_size=3, unique_by=lambda tool: tool.name),
)
def test_calls_are_complete_within_any_limit_that_one_fits(
    pick: Pick, room: int, is_parallel: bool, skips_ahead: bool, tools: list[Any]
) -> None:
    form = compiler().compile(calls_form(*tools, is_parallel=is_parallel))
    told = read(check_ended(form, pick, room, skips_ahead=skips_ahead))
    assert told.damage is None, (told.damage, [call[1] for call in told.calls])
    assert told.text == ""
    assert told.calls
    assert is_parallel or len(told.calls) == 1
    schemas = {tool.name: tool.parameters or {"type": "object", "maxProperties": 0} for tool in tools}
    for name, arguments in told.calls:
        assert check_schema(dict(schemas[name]), json.loads(arguments)).verdict == "valid", arguments


def check_ended(form: CompiledForm, pick: Pick, room: int, **rules: Any) -> list[int]:
    output = written(form, pick, max_tokens=form.shortest_tokens + room, **rules)
    assert output[-1] == EOS
    return output


@settings(max_examples=60, deadline=None)
@given(pick=picks, limit=st.integers(120, 400), thinking=st.integers(0, 60))
def test_calls_begun_anywhere_are_complete(pick: Pick, limit: int, thinking: int) -> None:
    """A text without a call may be as long as the limit; with one it is well-formed and ends."""
    form = compiler().compile(calls_form(*TOOLS, calls="optional"))
    output = written(form, pick, max_tokens=limit, beginning="thinking", thinking_tokens=thinking)
    told = read(output, beginning="thinking")
    assert told.damage is None
    assert "DSML" not in told.text
    assert told.text.strip() or told.calls
    if told.calls:
        assert output[-1] == EOS


@pytest.mark.parametrize("pick", PICKS)
def test_patterns_and_choices_are_complete(pick: Pick) -> None:
    for pattern in ("[a-z]+[0-9]{3}", "(ab|c)*d", "yes|no|maybe", r"\d{4}-\d\d", "(.|\n)*END"):
        form = compiler().compile(AnswerForm(content=Content(kind="regex", pattern=pattern)))
        for room in (0, 3, 40):
            output = check_ended(form, pick, room)
            assert re.fullmatch(pattern, tokenizer().decode(output[:-1])), pattern


def test_a_limit_below_the_shortest_answer_is_reached_honestly() -> None:
    form = compiler().compile(json_form(CONTACT))
    output = written(form, at_random(3), max_tokens=form.shortest_tokens - 4)
    assert len(output) == form.shortest_tokens - 4
    assert EOS not in output


def test_required_members_that_a_deep_answer_opens_are_counted() -> None:
    """Regression: how often to look for a completion did not follow from what one token may open."""
    inner: dict[str, Any] = {"type": "object", "properties": {f"n{i}": {"type": "integer"} for i in range(40)}}
    inner["required"] = list(inner["properties"])
    schema = {"type": "object", "properties": {"s": {"type": "string"}, "o": inner}, "required": ["s"]}
    form = compiler().compile(json_form(schema))
    assert form.growth_tokens > 160
    for seed in range(30):
        check_ended(form, at_random(seed), 150 + seed)


def test_a_form_without_any_short_answer_is_refused() -> None:
    with pytest.raises(UnsupportedFeature) as refused:
        compiler().compile(json_form({"type": "array", "items": {"type": "integer"}, "minItems": 9_000}))
    assert refused.value.field == "response_format"
