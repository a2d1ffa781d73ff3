"""Tasks: what is honoured, what is refused, and by which name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepserve.config import Limits
from deepserve.core.errors import InvalidField, MalformedBody, MissingField
from deepserve.core.messages import Message, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import ResponseFormat, Thinking, ToolChoice
from deepserve.dialects.runware import fields
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.request import read_task_type, read_tasks
from tests.dialects.runware.decoding import TASK_UUID, decode, task_of

TOOL = {"type": "function", "name": "look", "description": "Looks.", "schema": {"type": "object"}}
CALL = {"id": "c1", "name": "look", "input": {"at": 1}}
USER = {"role": "user", "content": "hi"}


def refused(**given: Any) -> tuple[str, str | None]:  # Any: JSON
    with pytest.raises(TaskRefused) as raised:
        decode(**given)
    assert raised.value.message
    return raised.value.code, raised.value.parameter


def test_all_documented_settings_reach_the_request() -> None:
    request = decode(
        settings={
            "systemPrompt": "Be brief.",
            "temperature": 0.5,
            "topP": 0.9,
            "frequencyPenalty": 0.25,
            "presencePenalty": 1.5,
            "maxTokens": 300,
            "stopSequences": ["END", "."],
            "thinkingLevel": "max",
        },
        seed=12,
        numberResults=3,
        outputFormat="JSON",
        model="deepseek-v4-flash",
    ).request
    assert request.messages[0] == Message(role="system", parts=(Text("Be brief."),))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 12)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.25, 1.5)
    assert (request.max_output_tokens, request.stop, request.num_results) == (300, ("END", "."), 3)
    assert request.thinking == Thinking(effort="max")
    assert (request.response_format.kind, request.model) == ("json_object", "deepseek-v4-flash")


def test_what_is_left_out_is_the_vendors_default() -> None:
    inference = decode(settings=None, tools=None, seed=None, numberResults=None)
    request = inference.request
    assert not request.thinking.enabled
    assert (request.max_output_tokens, request.default_output_tokens) == (None, 32_768)
    assert (request.num_results, request.sampling.seed, request.sampling.temperature) == (1, 7, None)
    assert (inference.delivery, inference.is_later) == ("sync", False)
    assert (inference.include_cost, inference.include_usage) == (False, False)


@pytest.mark.parametrize("name", ["deepseek:v4@pro", "deepseek-v4-pro", "DeepSeek:V4@Pro"])
def test_models_are_known_by_both_their_names(name: str) -> None:
    assert decode(model=name).request.model == "deepseek-v4-pro"


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(TaskRefused) as raised:
        decode(model="google:gemma@4")
    assert (raised.value.code, raised.value.status) == ("modelNotFound", 404)


@pytest.mark.parametrize(
    ("given", "code", "parameter"),
    [
        ({"taskUUID": None}, "missingTaskUUID", "taskUUID"),
        ({"taskUUID": "abc"}, "invalidTaskUUID", "taskUUID"),
        ({"taskUUID": TASK_UUID.replace("-4d0e", "-1d0e")}, "invalidTaskUUID", "taskUUID"),
        ({"model": None}, "missingModel", "model"),
        ({"model": 4}, "invalidModel", "model"),
        ({"messages": None}, "missingMessages", "messages"),
        ({"messages": []}, "invalidMessages", "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "invalidMessages", "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "invalidMessages", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "missingMessages", "messages.0.content"),
        ({"messages": [{**USER, "mood": "x"}]}, "unsupportedParameter", "messages.0.mood"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            "invalidMessages",
            "messages.0.content.0",
        ),
        ({"messages": [{"role": "tool", "id": "c9", "content": "x"}]}, "invalidMessages", "messages"),
        ({"settings": []}, "invalidSettings", "settings"),
        ({"settings": {"temperature": 2.5}}, "invalidTemperature", "settings.temperature"),
        ({"settings": {"temperature": True}}, "invalidTemperature", "settings.temperature"),
        ({"settings": {"topP": -0.1}}, "invalidTopP", "settings.topP"),
        ({"settings": {"frequencyPenalty": -1}}, "invalidFrequencyPenalty", "settings.frequencyPenalty"),
        ({"settings": {"presencePenalty": 3}}, "invalidPresencePenalty", "settings.presencePenalty"),
        ({"settings": {"maxTokens": 100_001}}, "invalidMaxTokens", "settings.maxTokens"),
        ({"settings": {"maxTokens": 0}}, "invalidMaxTokens", "settings.maxTokens"),
        ({"settings": {"stopSequences": ["x"] * 6}}, "invalidStopSequences", "settings.stopSequences"),
        ({"settings": {"stopSequences": [""]}}, "invalidStopSequences", "settings.stopSequences.0"),
        ({"settings": {"stopSequences": ["x" * 51]}}, "invalidStopSequences", "settings.stopSequences.0"),
        ({"settings": {"thinkingLevel": "deep"}}, "invalidThinkingLevel", "settings.thinkingLevel"),
        ({"settings": {"systemPrompt": ""}}, "invalidSystemPrompt", "settings.systemPrompt"),
        ({"settings": {"topK": 4}}, "unsupportedParameter", "settings.topK"),
        ({"colour": 1}, "unsupportedParameter", "colour"),
        ({"inputs": {"images": ["x"]}}, "unsupportedParameter", "inputs"),
        ({"jsonSchema": 3}, "invalidJsonSchema", "jsonSchema"),
        ({"jsonSchema": "{"}, "invalidJsonSchema", "jsonSchema"),
        ({"jsonSchema": {"schema": 3}}, "invalidJsonSchema", "jsonSchema.schema"),
        ({"jsonSchema": {"schema": {}, "name": "n" * 65}}, "invalidName", "jsonSchema.name"),
        ({"providerSettings": {"google": {}}}, "mismatchProviderSettingsProvider", "providerSettings.google"),
        ({"numberResults": 5}, "invalidNumberResults", "numberResults"),
        ({"numberResults": 2, "deliveryMethod": "stream"}, "invalidNumberResults", "numberResults"),
        ({"seed": -1}, "invalidSeed", "seed"),
        ({"seed": 1.5}, "invalidSeed", "seed"),
        ({"seed": fields.HIGHEST_SEED + 1}, "invalidSeed", "seed"),
        ({"deliveryMethod": "later"}, "invalidDeliveryMethod", "deliveryMethod"),
        ({"includeCost": "yes"}, "invalidIncludeCost", "includeCost"),
        ({"includeUsage": 1}, "invalidIncludeUsage", "includeUsage"),
        ({"outputFormat": "XML"}, "invalidOutputFormat", "outputFormat"),
        ({"webhookURL": ""}, "invalidWebhookURL", "webhookURL"),
        ({"tools": []}, "invalidTools", "tools"),
        ({"tools": [{**TOOL, "type": "magic"}]}, "invalidToolType", "tools.0.type"),
        ({"tools": [{"type": "search"}, {"type": "search"}]}, "duplicateToolName", "tools.1.type"),
        ({"tools": [{"type": "search", "name": "x"}]}, "unsupportedParameter", "tools.0.name"),
        ({"tools": [{"type": "search"}], "numberResults": 2}, "invalidNumberResults", "numberResults"),
        ({"tools": [{**TOOL, "name": None}]}, "missingToolName", "tools.0.name"),
        ({"tools": [{**TOOL, "name": "a b"}]}, "invalidToolName", "tools.0.name"),
        ({"tools": [{**TOOL, "name": "a" * 65}]}, "invalidToolName", "tools.0.name"),
        ({"tools": [{**TOOL, "schema": None}]}, "missingToolSchema", "tools.0.schema"),
        ({"tools": [TOOL, TOOL]}, "duplicateToolName", "tools.1.name"),
        ({"tools": [TOOL], "toolChoice": "auto"}, "invalidToolChoice", "toolChoice"),
        ({"tools": [TOOL], "toolChoice": {"type": "must"}}, "invalidToolChoice", "toolChoice.type"),
        ({"tools": [TOOL], "toolChoice": {"type": "tool"}}, "missingToolChoiceName", "toolChoice.name"),
        ({"tools": [TOOL], "toolChoice": {"type": "tool", "name": "x"}}, "invalidToolChoiceName", "toolChoice.name"),
    ],
)
def test_what_is_wrong_is_refused_by_name(given: dict[str, Any], code: str, parameter: str) -> None:
    assert refused(**given) == (code, parameter)


def test_every_member_is_honoured_refused_or_ignored_with_a_reason() -> None:
    """A member that is added to the tables must be placed here too."""
    given: dict[str, Any] = {
        "taskType": "textInference",
        "taskUUID": TASK_UUID,
        "model": "deepseek:v4@pro",
        "messages": [USER],
        "settings": {},
        "tools": [TOOL],
        "toolChoice": {"type": "auto"},
        "numberResults": 1,
        "seed": 1,
        "deliveryMethod": "sync",
        "webhookURL": "https://example.com/",
        "includeCost": True,
        "includeUsage": True,
        "outputFormat": "TEXT",
        "jsonSchema": {"type": "object"},
        "providerSettings": {"deepseek": {"anything": 1}},
        "routing": {"anything": 1},
    }
    decode(**given)
    assert given.keys() | fields.REFUSED.keys() == fields.TASK_FIELDS | {"routing", "inputs"}
    assert all(fields.IGNORED.values())
    assert all(fields.REFUSED.values())


@pytest.mark.parametrize(
    ("level", "thinking"),
    [
        ("off", Thinking(enabled=False)),
        ("none", Thinking(enabled=False)),
        ("low", Thinking(effort="high")),
        ("adaptive", Thinking(effort="high")),
        ("high", Thinking(effort="high")),
        ("xhigh", Thinking(effort="max")),
        ("max", Thinking(effort="max")),
    ],
)
def test_thinking_levels_of_other_models_mean_the_nearest(level: str, thinking: Thinking) -> None:
    assert decode(settings={"thinkingLevel": level}).request.thinking == thinking
    if level not in fields.LEVELS:
        assert refused(is_strict=True, settings={"thinkingLevel": level}) == (
            "invalidThinkingLevel",
            "settings.thinkingLevel",
        )


def test_json_is_refused_for_pro_in_strict_mode_only() -> None:
    assert decode(outputFormat="JSON").request.response_format.kind == "json_object"
    assert refused(is_strict=True, outputFormat="JSON") == ("invalidOutputFormat", "outputFormat")
    assert decode(is_strict=True, outputFormat="JSON", model="deepseek:v4@flash").model.id == "deepseek-v4-flash"


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("given", "name", "is_strict"),
    [
        (SCHEMA, None, True),
        (json.dumps(SCHEMA), None, True),
        ({"schema": SCHEMA}, None, True),
        ({"name": "n", "strict": False, "schema": SCHEMA}, "n", False),
        (json.dumps({"name": "n", "schema": SCHEMA}), "n", True),
    ],
)
@pytest.mark.parametrize("output", ["JSON", "TEXT", None])
def test_a_schema_is_taken_in_every_form_seen_in_the_wild(
    given: object, name: str | None, is_strict: bool, output: str | None
) -> None:
    form = decode(jsonSchema=given, outputFormat=output).request.response_format
    assert form == ResponseFormat(kind="json_schema", name=name, schema=SCHEMA, strict=is_strict)


def test_a_schema_is_refused_for_pro_in_strict_mode_only() -> None:
    assert refused(is_strict=True, jsonSchema=SCHEMA) == ("unsupportedParameter", "jsonSchema")
    flash = decode(is_strict=True, jsonSchema=SCHEMA, model="deepseek:v4@flash")
    assert flash.request.response_format.schema == SCHEMA


def test_the_description_in_the_envelope_is_read_by_the_model() -> None:
    form = decode(jsonSchema={"schema": SCHEMA, "description": "Counts."}).request.response_format
    assert form.schema == {**SCHEMA, "description": "Counts."}


def test_the_highest_documented_seed_is_taken_and_shown_as_it_came() -> None:
    """It is above 64 signed bits: the documentation rounded it."""
    inference = decode(seed=fields.HIGHEST_SEED, numberResults=2)
    assert inference.request.sampling.seed == fields.HIGHEST_SEED - 2**63
    assert [inference.seed_of(result) for result in range(2)] == [fields.HIGHEST_SEED, fields.HIGHEST_SEED - 2**63 + 1]


def test_members_are_found_where_other_clients_put_them() -> None:
    request = decode(
        temperature=0.5, maxTokens=9, settings={"maxTokens": 8, "tools": [TOOL], "toolChoice": {"type": "none"}}
    ).request
    assert (request.sampling.temperature, request.max_output_tokens) == (0.5, 8)
    assert [tool.name for tool in request.tools] == ["look"]
    assert request.tool_choice.mode == "none"


@pytest.mark.parametrize("key", ["schema", "input_schema", "parameters"])
def test_a_tools_schema_has_several_names(key: str) -> None:
    tool = {"type": "function", "name": "look", key: {"type": "object"}}
    assert decode(tools=[tool]).request.tools[0].parameters == {"type": "object"}


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice(mode="required")),
        ({"type": "none"}, ToolChoice(mode="none")),
        ({"type": "tool", "name": "look"}, ToolChoice(mode="named", names=("look",))),
    ],
)
def test_the_choice_among_tools_has_no_effect_without_tools(choice: dict[str, str], meant: ToolChoice) -> None:
    assert decode(tools=[TOOL], toolChoice=choice).request.tool_choice == meant
    assert decode(toolChoice=choice).request.tool_choice == ToolChoice()


@pytest.mark.parametrize("calls_key", ["tools", "toolCalls"])
@pytest.mark.parametrize("id_key", ["id", "toolId"])
def test_a_tool_loop_is_read(calls_key: str, id_key: str) -> None:
    messages = decode(
        messages=[
            USER,
            {"role": "assistant", calls_key: [CALL], "reasoningContent": ["I ", "look."], "content": "Wait."},
            {"role": "tool", id_key: "c1", "content": "seen"},
        ],
    ).request.messages
    assert messages[1].parts == (
        Reasoning(text="I look."),
        Text("Wait."),
        ToolCall(id="c1", name="look", arguments='{"at":1}'),
    )
    assert messages[2].parts == (ToolResult(call_id="c1", content=(Text("seen"),)),)


def test_system_messages_at_the_beginning_follow_the_system_prompt() -> None:
    messages = decode(
        messages=[
            {"role": "system", "content": "Two."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "system", "content": "Later."},
            USER,
        ],
        settings={"systemPrompt": "One."},
    ).request.messages
    assert [(message.role, message.text) for message in messages] == [
        ("system", "One.\n\nTwo."),
        ("user", "ab"),
        ("system", "Later."),
        ("user", "hi"),
    ]


def test_a_webhook_makes_any_task_one_for_later() -> None:
    assert decode(webhookURL="https://example.com/hook").is_later
    assert decode(deliveryMethod="async").is_later


def test_bodies_are_arrays_of_objects_and_one_object_is_an_array_of_one() -> None:
    limits = Limits()
    assert read_tasks(json.dumps(task_of()).encode(), limits) == [task_of()]
    assert len(read_tasks(json.dumps([task_of()] * 100).encode(), limits)) == 100
    with pytest.raises(MissingField):
        read_tasks(b"[]", limits)
    for raw in (b'"x"', b"[1]", b"3", b"null", json.dumps([task_of()] * 101).encode()):
        with pytest.raises(InvalidField):
            read_tasks(raw, limits)
    for raw in (b"", b"[{]", b"\xff", b'[{"a":1,"a":2}]'):
        with pytest.raises(MalformedBody):
            read_tasks(raw, limits)


def test_a_body_without_tasks_says_where_chat_requests_go() -> None:
    with pytest.raises(TaskRefused, match="/chat/completions") as raised:
        read_task_type({"messages": []})
    assert raised.value.code == "missingTaskType"
