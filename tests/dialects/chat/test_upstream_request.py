"""What other services are sent: by a field, in words, named as left out, or refused; never lost."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import Image, Message, Part, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Infill, Request, ServerTool, ToolChoice
from deepserve.dialects.chat.upstream_flavour import (
    DEEPSEEK,
    DEEPSERVE,
    EFFORT,
    OPENAI,
    OPENROUTER,
    TEMPLATE,
    UPSTREAM_FLAVOURS,
    UpstreamFlavour,
)
from deepserve.dialects.chat.upstream_request import encode_upstream_request
from deepserve.dialects.upstream_request import LOST_TRACE, UpstreamRequest
from tests.dialects.chat.decoding import WEATHER, body, decode

Json = Any
"""A body on its way out."""

FLAVOURS = tuple(UPSTREAM_FLAVOURS.values())
USER = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def _encode(request: Request, flavour: UpstreamFlavour) -> UpstreamRequest:
    return encode_upstream_request(request, flavour, model="their-name", user="somebody")


def _sent(flavour: UpstreamFlavour, **fields: Json) -> Json:
    return json.loads(_encode(decode(body(messages=[USER], **fields)).request, flavour).body)


def _conversation(*messages: Message, **fields: Json) -> Request:
    return msgspec.structs.replace(decode(body(**fields)).request, messages=messages)


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
def test_every_service_is_asked_for_its_own_model_a_stream_and_usage(flavour: UpstreamFlavour) -> None:
    sent = _sent(flavour)
    assert sent["model"] == "their-name"
    assert sent["messages"] == [USER]
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})
    assert sent[flavour.user_field] == "somebody"


@pytest.mark.parametrize(
    ("flavour", "off", "low", "most"),
    [
        (
            DEEPSEEK,
            {"thinking": {"type": "disabled"}},
            {"thinking": {"type": "enabled"}, "reasoning_effort": "low"},
            {"thinking": {"type": "enabled"}, "reasoning_effort": "max"},
        ),
        (
            OPENROUTER,
            {"reasoning": {"enabled": False}},
            {"reasoning": {"effort": "low"}},
            {"reasoning": {"effort": "xhigh"}},
        ),
        (EFFORT, {"reasoning_effort": "none"}, {"reasoning_effort": "low"}, {"reasoning_effort": "xhigh"}),
        (
            TEMPLATE,
            {"chat_template_kwargs": {"thinking": False}},
            {"chat_template_kwargs": {"thinking": True, "reasoning_effort": "low"}},
            {"chat_template_kwargs": {"thinking": True, "reasoning_effort": "max"}},
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_thinking_is_spelled_as_the_service_spells_it(
    flavour: UpstreamFlavour, off: Json, low: Json, most: Json
) -> None:
    for given, wanted in (
        ({"thinking": {"type": "disabled"}}, off),
        ({"reasoning_effort": "low"}, low),
        ({"reasoning_effort": "max"}, most),
    ):
        sent = _sent(flavour, **given)
        members = ("thinking", "reasoning_effort", "reasoning", "chat_template_kwargs")
        assert {name: sent[name] for name in members if name in sent} == wanted


KNOBS = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "top_a": 0.1,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "seed": 1,
    "logit_bias": {"3": 1.0},
    "logprobs": True,
    "top_logprobs": 2,
}


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
@pytest.mark.parametrize("is_thinking", [True, False])
def test_every_knob_is_sent_or_named(flavour: UpstreamFlavour, is_thinking: bool) -> None:
    thinking = {"type": "enabled" if is_thinking else "disabled"}
    request = decode(body(thinking=thinking, **KNOBS)).request
    encoded = _encode(request, flavour)
    sent = json.loads(encoded.body)
    for name, value in KNOBS.items():
        if sent.get(name) != value:
            assert ("logprobs" if name == "top_logprobs" else name) in encoded.left_out
        else:
            assert name not in encoded.left_out


def test_a_knob_that_does_nothing_is_not_named() -> None:
    request = decode(body(top_k=0, frequency_penalty=0)).request
    assert _encode(request, DEEPSEEK).left_out == ()


def test_a_schema_is_a_field_or_words_that_hold_it() -> None:
    assert _sent(OPENROUTER, response_format=FORM)["response_format"]["json_schema"]["schema"] == SCHEMA
    sent = _sent(DEEPSEEK, response_format=FORM)
    assert sent["response_format"] == {"type": "json_object"}
    assert json.dumps(SCHEMA, separators=(",", ":")) in sent["messages"][0]["content"]
    assert sent["messages"][0]["role"] == "system"


def test_a_schema_of_no_object_is_not_asked_for_as_one() -> None:
    sent = _sent(DEEPSEEK, guided_json={"type": "array"})
    assert "response_format" not in sent
    assert "array" in sent["messages"][0]["content"]


def test_the_word_json_is_only_added_where_it_is_missing() -> None:
    form = {"type": "json_object"}
    assert len(_sent(DEEPSEEK, response_format=form)["messages"]) == 2
    said = decode(body(messages=[{"role": "user", "content": "As JSON!"}], response_format=form)).request
    assert len(json.loads(_encode(said, DEEPSEEK).body)["messages"]) == 1
    assert len(_sent(DEEPSERVE, response_format=form)["messages"]) == 1


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
@pytest.mark.parametrize(("name", "form"), [("guided_regex", "a+b"), ("guided_choice", ["yes", "no"])])
def test_other_forms_are_fields_or_words(flavour: UpstreamFlavour, name: str, form: Json) -> None:
    sent = _sent(flavour, **{name: form})
    if name in sent:
        assert sent[name] == form
    else:
        said = sent["messages"][0]["content"]
        assert all(piece in said for piece in ([form] if isinstance(form, str) else form))


def test_words_go_to_the_system_message_that_is_there() -> None:
    messages = [{"role": "system", "content": "Be brief."}, USER]
    request = decode(body(messages=messages, guided_choice=["yes", "no"])).request
    sent = json.loads(_encode(request, DEEPSEEK).body)["messages"]
    assert [message["role"] for message in sent] == ["system", "user"]
    assert sent[0]["content"].startswith("Be brief.\n\nYour whole answer")


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("is_thinking", [True, False])
def test_a_demanded_call_is_a_field_or_words(flavour: UpstreamFlavour, choice: Json, is_thinking: bool) -> None:
    thinking = {"type": "enabled" if is_thinking else "disabled"}
    sent = _sent(flavour, tools=[WEATHER], tool_choice=choice, thinking=thinking)
    if is_thinking and not flavour.forces_while_thinking:
        assert "tool_choice" not in sent
        assert "Call" in sent["messages"][0]["content"]
    else:
        assert sent["tool_choice"] == choice


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
def test_an_allowed_list_leaves_only_these_tools_to_be_called(flavour: UpstreamFlavour) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}
    sent = _sent(flavour, tools=[WEATHER, other], tool_choice=choice)
    names = [tool["function"]["name"] for tool in sent["tools"]]
    assert sent["tool_choice"] == choice if flavour.has_tool_lists else names == ["get_weather"]


def test_strict_tools_are_only_asked_for_where_that_works() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]  # JSON
    assert _sent(DEEPSERVE, tools=[strict])["tools"][0]["function"]["strict"] is True
    assert "strict" not in _sent(DEEPSEEK, tools=[strict])["tools"][0]["function"]


ASKED = Message(role="user", parts=(Text("Weather?"),))
CALL = ToolCall(id="c", name="get_weather", arguments="{}")
RESULT = Message(role="tool", parts=(ToolResult(call_id="c", content=(Text("a"), Text("b"))),))


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
def test_traces_go_back_under_the_services_name(flavour: UpstreamFlavour) -> None:
    called = Message(role="assistant", parts=(Reasoning(text="think"), CALL))
    sent = json.loads(_encode(_conversation(ASKED, called, RESULT, tools=[WEATHER]), flavour).body)["messages"][1]
    assert sent[flavour.trace_field] == "think"
    assert sent["tool_calls"][0]["id"] == "c"


@pytest.mark.parametrize("parts", [(CALL,), (Reasoning(text=""), CALL)])
def test_words_stand_for_a_lost_trace_where_its_lack_would_be_refused(parts: tuple[Part, ...]) -> None:
    called = Message(role="assistant", parts=parts)
    request = _conversation(ASKED, called, RESULT, tools=[WEATHER])
    assert json.loads(_encode(request, DEEPSEEK).body)["messages"][1]["reasoning_content"] == LOST_TRACE


def test_no_words_stand_for_a_trace_where_nobody_thinks() -> None:
    called = Message(role="assistant", parts=(CALL,))
    off = _conversation(ASKED, called, RESULT, tools=[WEATHER], thinking={"type": "disabled"})
    assert "reasoning_content" not in json.loads(_encode(off, DEEPSEEK).body)["messages"][1]


def test_texts_beside_each_other_are_one_for_services_that_take_no_lists() -> None:
    request = _conversation(ASKED, Message(role="assistant", parts=(CALL,)), RESULT, tools=[WEATHER])
    assert json.loads(_encode(request, DEEPSEEK).body)["messages"][2]["content"] == "ab"


def test_a_budget_for_thinking_is_sent_or_named() -> None:
    asked = decode(body(reasoning={"max_tokens": 5})).request
    assert _encode(asked, DEEPSEEK).left_out == ("thinking.budget_tokens",)
    assert json.loads(_encode(asked, DEEPSERVE).body)["thinking_budget"] == 5
    assert _encode(asked, DEEPSERVE).left_out == ()


def test_an_answer_that_was_begun_goes_to_the_address_that_goes_on() -> None:
    begun = Message(role="assistant", parts=(Text("Once"),), prefix=True)
    encoded = _encode(_conversation(ASKED, begun), DEEPSEEK)
    assert encoded.path == "/beta/chat/completions"
    assert json.loads(encoded.body)["messages"][1]["prefix"] is True
    last = json.loads(_encode(_conversation(ASKED, begun), OPENROUTER).body)["messages"][1]
    assert last == {"role": "assistant", "content": "Once"}


def _refusals() -> list[tuple[Request, str]]:
    plain = decode(body()).request
    replace = msgspec.structs.replace
    return [
        (replace(plain, infill=Infill(prompt="p")), "prompt"),
        (replace(plain, server_tools=(ServerTool(tool="web_search", name="s"),)), "tools"),
        (replace(plain, num_results=2), "n"),
        (_conversation(ASKED, Message(role="assistant", parts=(Text("x"),), prefix=True)), "messages[1].prefix"),
        (_conversation(msgspec.structs.replace(ASKED, task="title")), "messages[0]"),
        (_conversation(Message(role="user", parts=(Image(file_id="f"),))), "messages[0]"),
    ]


@pytest.mark.parametrize(("request_", "field"), _refusals(), ids=lambda value: value if isinstance(value, str) else "")
def test_what_would_change_the_answer_is_refused_by_name(request_: Request, field: str) -> None:
    flavour = EFFORT if field != "messages[1].prefix" else OPENAI
    with pytest.raises(UnsupportedFeature) as caught:
        _encode(request_, flavour)
    assert caught.value.field == field


def test_calls_one_at_a_time_are_a_field_or_words() -> None:
    choice = ToolChoice(is_parallel=False)
    request = msgspec.structs.replace(decode(body(tools=[WEATHER])).request, tool_choice=choice)
    assert json.loads(_encode(request, DEEPSERVE).body)["parallel_tool_calls"] is False
    assert "at most one" in json.loads(_encode(request, DEEPSEEK).body)["messages"][0]["content"]
