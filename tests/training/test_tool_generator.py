"""Generated tools, their calls and results, and generated JSON answers."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import jsonschema_rs
import pytest
from training.conversations import Conversation, Effort, Split
from training.mixture import SKILLS, conversation, conversations
from training.phrases import records, roles
from training.skills.keys import camel, key_of, spoken_key
from training.skills.kinds import CLOSED, FREE_KINDS, draw_value, kind_of, said, schema_of
from training.skills.offers import action_offer, question_offer
from training.skills.tool_use import NO_TOOL, calls_thought, offered
from training.values import Draw
from training.vocabulary import copied_words

TOOL_SKILLS = (
    "single_call",
    "parallel_calls",
    "no_tool",
    "unneeded_tools",
    "round_trip",
    "parallel_round_trip",
    "chain",
)
JSON_SKILLS = ("schema_json", "listed_json", "example_json", "quoted_schema", "one_field")
KINDS = sorted({*CLOSED, *FREE_KINDS, *(role.kind for role in roles())} | {s.kind for r in records() for s in r.slots})


def some(skill: str, count: int, split: Split = "train", effort: Effort | None = "high") -> Iterator[Conversation]:
    draw = Draw(Random(f"{skill}:{split}:{effort}"), split)
    return (conversation(draw, skill=skill, effort=effort) for _ in range(count))


def given(one: Conversation) -> str:
    """All that a model is given before its last answer."""
    parts = [one.system or "", json.dumps([(tool.name, tool.parameters) for tool in one.tools], ensure_ascii=False)]
    parts += [json.dumps(one.json_schema, ensure_ascii=False), *(turn.content for turn in one.turns[:-1])]
    return "\n".join(parts)


def leaves(value: Any) -> Iterator[str]:
    """What must be copied of a value (any JSON value, hence Any)."""
    match value:
        case None | bool():
            pass
        case dict():
            for key, inner in value.items():
                yield key
                yield from leaves(inner)
        case list():
            for inner in value:
                yield from leaves(inner)
        case _:
            yield said(value)


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("skill", TOOL_SKILLS)
def test_every_call_fits_the_schema_of_an_offered_tool(skill: str, split: Split) -> None:
    for one in some(skill, 150, split):
        validators = {tool.name: jsonschema_rs.validator_for(dict(tool.parameters)) for tool in one.tools}
        assert len(validators) == len(one.tools)
        for call in (call for turn in one.turns for call in turn.calls):
            validators[call.name].validate(dict(call.arguments))


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("skill", TOOL_SKILLS)
def test_every_argument_stands_in_what_the_model_was_given(skill: str, split: Split) -> None:
    for one in some(skill, 150, split):
        for number, turn in enumerate(one.turns):
            before = given(Conversation(skill="", system=one.system, tools=one.tools, turns=one.turns[: number + 1]))
            for call in turn.calls:
                for leaf in leaves(dict(call.arguments)):
                    assert leaf in before, (leaf, one)


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("skill", JSON_SKILLS)
def test_every_extracted_value_stands_in_what_the_model_was_given(skill: str, split: Split) -> None:
    for one in some(skill, 150, split):
        for leaf in leaves(json.loads(one.turns[-1].content)):
            assert leaf in given(one), (leaf, one)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_json_answers_fit_their_schema_in_the_order_of_its_keys(split: Split) -> None:
    num_nulls = 0
    for one in some("schema_json", 400, split):
        assert one.json_schema is not None
        answer = json.loads(one.turns[-1].content)
        jsonschema_rs.validator_for(dict(one.json_schema)).validate(answer)
        assert list(answer) == list(one.json_schema["properties"])
        assert 1 <= len(answer) <= 6
        num_nulls += any(value is None for value in answer.values())
    assert num_nulls > 20


def test_json_answers_have_one_spelling() -> None:
    for skill in JSON_SKILLS:
        for one in some(skill, 50):
            content = one.turns[-1].content
            assert content == json.dumps(json.loads(content), ensure_ascii=False)


def test_there_are_thousands_of_different_tools_and_keys() -> None:
    drawn = list(itertools.islice(conversations(1, "train"), 5000))
    tools = [tool for one in drawn for tool in one.tools]
    keys = {key for tool in tools for key in tool.parameters["properties"]}
    keys |= {key for one in drawn if one.json_schema is not None for key in one.json_schema["properties"]}
    assert len({tool.name for tool in tools}) > 2000
    assert len(keys) > 2500
    types = {schema["type"] for tool in tools for schema in tool.parameters["properties"].values()}
    assert types == {"string", "integer", "number", "boolean", "array", "object"}
    assert {len(one.tools) for one in drawn} >= {0, 1, 2, 3, 4}


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_each_kind_fits_its_schema(kind: str) -> None:
    draw = Draw(Random(kind), "held_out")
    for _ in range(30):
        jsonschema_rs.validator_for(schema_of(draw, kind)).validate(draw_value(draw, kind))


def test_evaluation_never_draws_an_open_value_that_training_may_draw() -> None:
    open_kinds = [kind for kind in KINDS if kind not in {*CLOSED, "bool", "small", "score", "nouns", "names", "title"}]
    open_kinds = [kind for kind in open_kinds if kind not in ("sentence", "email", "url", "file", "proper")]
    assert len(open_kinds) >= 12
    for kind in open_kinds:
        sides = [Draw(Random(kind), split) for split in ("train", "held_out")]
        seen, unseen = ({str(draw_value(side, kind)).lower() for _ in range(600)} for side in sides)
        assert not {value for value in seen & unseen if not value.isdigit() or int(value) >= 20}, kind


def test_evaluation_never_draws_a_key_that_training_may_draw() -> None:
    sides: tuple[Split, Split] = ("train", "held_out")
    usual = roles()[0].keys
    seen, unseen = ({key_of(draw, usual) for _ in range(1500)} for draw in (Draw(Random(1), side) for side in sides))
    assert not {key.lower() for key in seen} & {key.lower() for key in unseen}


def test_what_the_request_does_not_say_is_left_out() -> None:
    num_left_out = 0
    draw = Draw(Random(3), "train")
    for _ in range(500):
        one = action_offer(draw)
        assert set(one.unsaid) == set(one.tool.parameters["properties"]) - set(one.call.arguments)
        assert not set(one.unsaid) & set(one.tool.parameters.get("required", ()))
        num_left_out += bool(one.unsaid)
    assert num_left_out > 50


def test_no_offered_tool_could_be_taken_for_the_wanted_one() -> None:
    draw = Draw(Random(4), "train")
    for _ in range(300):
        wanted = action_offer(draw) if draw.chance(0.5) else question_offer(draw)
        tools = offered(draw, (wanted,), (3,))
        assert sum(tool == wanted.tool for tool in tools) == 1
        assert len({tool.name for tool in tools}) == len(tools)
        if wanted.by_keys:
            keys = set(wanted.tool.parameters["properties"])
            assert not any(keys & set(tool.parameters["properties"]) for tool in tools if tool != wanted.tool)


def test_a_request_without_its_tool_is_declined_plainly() -> None:
    for one in some("no_tool", 100):
        assert one.turns[-1].content == NO_TOOL
        assert one.tools


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("skill", ["round_trip", "parallel_round_trip"])
def test_an_answer_says_only_what_the_results_and_the_request_say(skill: str, split: Split) -> None:
    known = {
        "the",
        "of",
        "is",
        "a",
        "an",
        "in",
        "it",
        "at",
        "and",
        "result",
        "results",
        "weather",
        "temperature",
        "does",
    }
    known |= {"not", "say", "tool", "returned", "no", "data", "reported", "error", "°c", "°f", "true", "false"}
    for one in some(skill, 150, split):
        if not one.skill.startswith(("tool_use.result", "tool_use.error", "tool_use.parallel_result")):
            continue
        before = spoken_key(given(one)) + given(one).lower()
        for word in one.turns[-1].content.lower().split():
            assert word.strip(".:,") in known or word.strip(".:,") in before, (word, one)


def test_a_thought_is_longer_at_more_effort() -> None:
    def length(skill: str, effort: Effort) -> float:
        return sum(len(one.turns[-1].reasoning) for one in some(skill, 200, effort=effort)) / 200

    for skill in ("single_call", "parallel_calls", "no_tool", "schema_json", "round_trip"):
        assert length(skill, "low") < length(skill, "high") < length(skill, "max")


def test_a_thought_names_the_tools_then_the_values_then_what_is_unsaid() -> None:
    draw = Draw(Random(5), "train")
    one = next(one for one in iter(lambda: action_offer(draw), None) if one.unsaid and one.call.arguments)
    thoughts: dict[Effort, str] = {}
    for effort in ("low", "high", "max"):
        draw.effort = effort
        thoughts[effort] = calls_thought(draw, one.wanted, (one.call,), (one.tool,), one.unsaid)
    assert thoughts["low"] == f"{one.tool.name}."
    assert all(f"{key} = " in thoughts["high"] for key in one.call.arguments)
    assert thoughts["max"].endswith(f"Not said: {', '.join(one.unsaid)}.")


def test_keys_are_said_as_words() -> None:
    assert camel("first_order_id") == "firstOrderId"
    assert spoken_key("first_order_id") == spoken_key("firstOrderId") == "first order id"


def test_a_key_keeps_its_usual_kind_behind_another_word() -> None:
    draw = Draw(Random(6), "train")
    assert kind_of(draw, "main_city") == kind_of(draw, "mainCity") == kind_of(draw, "city") == "city"


def test_no_word_of_a_key_is_joined_to_a_blank_by_the_vocabulary() -> None:
    keys = [key for role in roles() for key in role.keys]
    keys += [key for record in records() for slot in record.slots for key in slot.keys]
    assert {word for key in keys for word in spoken_key(key).split()} <= copied_words()


def test_conversations_are_drawn_faster_than_they_are_learned() -> None:
    """Less than 0.4 ms of processor time each when measured alone; thrice as much is a mistake, not a busy machine."""
    drawing = conversations(7, "train")
    list(itertools.islice(drawing, 200))
    started = time.process_time()
    list(itertools.islice(drawing, 2000))
    assert (time.process_time() - started) / 2000 < 1.2e-3


def test_tools_and_json_are_almost_half_of_all_conversations() -> None:
    ours = sum(weight for name, (_, weight) in SKILLS.items() if name in {*TOOL_SKILLS, *JSON_SKILLS})
    assert 0.38 < ours / sum(weight for _, weight in SKILLS.values()) < 0.52
