"""What services that speak Responses are sent: nothing is lost in silence, and they can read it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import File, Image, Message, OtherPart, Reasoning, Refusal, Text, ToolCall, ToolResult
from deepserve.core.request import Infill, ResponseFormat, ServerTool, Thinking, Tool, ToolChoice
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.dialects.responses.upstream_flavour import DEEPSERVE, OPENAI, RESPONSES_FLAVOURS
from deepserve.dialects.responses.upstream_flavour import UpstreamFlavour as Flavour
from deepserve.dialects.responses.upstream_request import encode_count_request, encode_upstream_request
from tests.backends.upstream.setup import request
from tests.dialects.responses.decoding import decode

Json = Any
"""Bodies as they stand on the wire."""

LOOK = Tool(name="look", description="Looks.", parameters={"type": "object", "properties": {}}, strict=True)
CALL = ToolCall(id="call_1", name="look", arguments='{"at": "it"}')
SYSTEM = Message(role="system", parts=(Text("Be brief."),))
USER = Message(role="user", parts=(Text("Hello"),))
CALLED = Message(role="assistant", parts=(Reasoning(text="Hm.", sealed="seal"), Text("Wait."), CALL))
FOUND = Message(role="tool", parts=(ToolResult(call_id="call_1", content=(Text("a"), Text("b"))),))
SCHEMA = ResponseFormat(kind="json_schema", schema={"type": "object"}, strict=True)
flavours = pytest.mark.parametrize("flavour", RESPONSES_FLAVOURS.values(), ids=list(RESPONSES_FLAVOURS))


def _body(flavour: Flavour = OPENAI, **fields: Any) -> Json:  # Any: fields of Request
    return json.loads(encode_upstream_request(request(**fields), flavour, model="m", user="u").body)


def _left_out(flavour: Flavour, **fields: Any) -> tuple[str, ...]:  # Any: fields of Request
    return encode_upstream_request(request(**fields), flavour, model="m").left_out


def test_a_question_is_a_body_of_the_dialect() -> None:
    asked = encode_upstream_request(request(max_output_tokens=9), OPENAI, model="theirs", user="u")
    assert asked.path == "/responses"
    assert json.loads(asked.body) == {
        "model": "theirs",
        "input": [{"type": "message", "role": "user", "content": "Hello"}],
        "reasoning": {"effort": "high"},
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 9,
        "stream": True,
        "store": False,
        "user": "u",
    }


@flavours
def test_our_own_server_reads_what_each_service_is_sent(flavour: Flavour) -> None:
    """The same conversation, and the same wishes."""
    asked = request(
        messages=(SYSTEM, USER, CALLED, FOUND, USER),
        tools=(LOOK,),
        tool_choice=ToolChoice(mode="required", names=("look",), is_parallel=False),
        response_format=SCHEMA,
        thinking=Thinking(effort="max"),
        sampling=Sampling(temperature=0.5, num_top_logprobs=2),
        max_output_tokens=100,
    )
    body = encode_upstream_request(asked, flavour, model="deepseek-v4-flash", user="u").body
    decoded = decode(json.loads(body))
    read = decoded.request
    assert not decoded.ignored
    assert not decoded.is_kept
    assert (read.tools, read.tool_choice, read.thinking) == (asked.tools, asked.tool_choice, asked.thinking)
    assert (read.sampling, read.max_output_tokens, read.user_id) == (asked.sampling, 100, "u")
    assert read.response_format == msgspec.structs.replace(SCHEMA, name="answer")
    assert [message.role for message in read.messages] == ["system", "user", "assistant", "tool", "user"]
    trace, *rest = read.messages[2].parts
    assert isinstance(trace, Reasoning)
    assert (trace.text, trace.sealed) == ("Hm.", "seal")
    assert tuple(rest) == CALLED.parts[1:]
    joined = "".join(part.text for part in read.messages[3].tool_results[0].content if isinstance(part, Text))
    assert joined == "ab"


@flavours
@pytest.mark.parametrize("is_stream", [False, True])
def test_the_sdk_knows_every_body_by_its_types(flavour: Flavour, is_stream: bool) -> None:
    """And every member: nothing is sent that OpenAI does not document, but to our own server."""
    parts = (
        Text("See"),
        Image(url="https://example.com/a.png"),
        File(data="data:text/plain;base64,QQ==", filename="a"),
    )
    said = Message(role="assistant", parts=(Text("One."), Refusal("No."), Text("Two."), CALL))
    asked = request(
        messages=(SYSTEM, Message(role="user", parts=parts), CALLED, FOUND, said, FOUND, USER),
        tools=(LOOK, Tool(name="bare")),
        tool_choice=ToolChoice(mode="named", names=("look",)),
        response_format=SCHEMA,
        sampling=Sampling(temperature=0.5, top_p=0.9, num_top_logprobs=0),
    )
    body = json.loads(encode_upstream_request(asked, flavour, model="m", user="u", is_stream=is_stream).body)
    params = ResponseCreateParamsStreaming if is_stream else ResponseCreateParamsNonStreaming
    adapter = TypeAdapter(params)  # lives as long as its iterators
    _check(adapter.validate_python(body))
    assert set(body) <= set(params.__annotations__)


def _check(value: Json) -> None:
    """Some of the SDK's types are iterables, whose members are only looked at one by one."""
    if isinstance(value, dict):
        for inner in value.values():
            _check(inner)
    elif not isinstance(value, str) and hasattr(value, "__iter__"):
        for inner in value:
            _check(inner)


def test_a_turn_of_the_assistant_keeps_its_order() -> None:
    said = Message(role="assistant", parts=(Text("One."), Refusal("No."), Reasoning(text="Hm.", id="rs_own"), CALL))
    empty = Message(role="assistant", parts=(Text(""),))
    items = _body(DEEPSERVE, messages=(said, empty, USER))["input"]
    assert [item["type"] for item in items] == ["message", "reasoning", "function_call", "message", "message"]
    assert items[0]["content"] == [
        {"type": "output_text", "text": "One.", "annotations": []},
        {"type": "refusal", "refusal": "No."},
    ]
    assert items[1] == {
        "type": "reasoning",
        "id": "rs_own",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }
    assert items[3] == {"type": "message", "role": "assistant", "content": ""}


def test_a_signature_of_another_dialect_is_no_sealed_trace() -> None:
    signed = Message(role="assistant", parts=(Reasoning(text="Hm.", signature="sig"), Reasoning(signature="sig"), CALL))
    items = _body(messages=(USER, signed, FOUND))["input"]
    assert [item["type"] for item in items[1:]] == ["reasoning", "function_call", "function_call_output"]
    assert "encrypted_content" not in items[1]


def test_results_come_before_what_the_user_says_with_them() -> None:
    mixed = Message(role="user", parts=(Text("So?"), *FOUND.parts, OtherPart(kind="k", value={"type": "k"})))
    items = _body(messages=(USER, CALLED, mixed))["input"]
    assert items[-2] == {
        "type": "function_call_output",
        "call_id": "call_1",
        "output": "ab",
    }
    literal = _body(DEEPSERVE, messages=(USER, CALLED, mixed))["input"]
    assert literal[-2]["output"] == [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert items[-1]["content"] == [{"type": "input_text", "text": "So?"}, {"type": "k"}]


def test_a_reminder_is_a_word_of_the_system_in_its_place() -> None:
    items = _body(messages=(USER, Message(role="latest_reminder", parts=(Text("Now."),))))["input"]
    assert items[-1] == {"type": "message", "role": "system", "content": "Now."}


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (ToolChoice(mode="none"), "none"),
        (ToolChoice(), "auto"),
        (ToolChoice(mode="required"), "required"),
        (ToolChoice(mode="named", names=("look",)), {"type": "function", "name": "look"}),
        (
            ToolChoice(mode="named", names=("look", "bare")),
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "look"}, {"type": "function", "name": "bare"}],
            },
        ),
        (
            ToolChoice(names=("look",)),
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
        ),
    ],
)
def test_every_choice_among_tools_has_a_field(choice: ToolChoice, wanted: Json) -> None:
    body = _body(tools=(LOOK, Tool(name="bare")), tool_choice=choice)
    assert body["tool_choice"] == wanted
    assert "parallel_tool_calls" not in body
    assert body["tools"][1] == {
        "type": "function",
        "name": "bare",
        "strict": False,
        "parameters": {"type": "object", "properties": {}},
    }


def test_forms_have_a_field_or_are_asked_for_in_words() -> None:
    assert _body(response_format=SCHEMA)["text"]["format"]["name"] == "answer"
    in_json = _body(response_format=ResponseFormat(kind="json_object"))
    assert in_json["text"] == {"format": {"type": "json_object"}}
    assert in_json["input"][0]["content"] == "Answer with JSON."
    assert len(_body(DEEPSERVE, response_format=ResponseFormat(kind="json_object"))["input"]) == 1
    for form, said in (
        (ResponseFormat(kind="regex", pattern="a+"), "a+"),
        (ResponseFormat(kind="choice", choices=("yes",)), "- yes"),
    ):
        body = _body(response_format=form)
        assert "text" not in body
        assert said in body["input"][0]["content"]


def test_knobs_that_are_not_carried_are_named() -> None:
    values: dict[str, Any] = {name: knob.low + 0.5 * (not knob.integer) + knob.integer for name, knob in KNOBS.items()}
    sampling = Sampling(**values, seed=7, logit_bias={7: 1.0}, num_top_logprobs=3)
    asked = {"sampling": sampling, "thinking": Thinking(budget_tokens=9)}
    assert _left_out(DEEPSERVE, **asked) == ("logit_bias", "thinking.budget_tokens")
    assert set(_left_out(OPENAI, **asked)) == {
        *(set(KNOBS) - {"temperature", "top_p"}),
        *("seed", "logit_bias", "thinking.budget_tokens"),
    }
    body = _body(DEEPSERVE, **asked)
    assert (body["seed"], body["top_logprobs"]) == (7, 3)
    assert {name: body[name] for name in KNOBS} == values
    assert "message.output_text.logprobs" in body["include"]
    neutral: dict[str, Any] = {name: knob.neutral for name, knob in KNOBS.items()}
    assert _left_out(OPENAI, sampling=Sampling(**neutral)) == ()


def test_without_thinking_no_trace_is_asked_for() -> None:
    body = _body(thinking=Thinking(enabled=False))
    assert body["reasoning"] == {"effort": "none"}
    assert "include" not in body


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"infill": Infill(prompt="a")}, "prompt"),
        ({"num_results": 2}, "n"),
        ({"stop": ("END",)}, "stop"),
        ({"messages": (USER, Message(role="assistant", parts=(Text("a"),), prefix=True))}, "messages[1]"),
        ({"messages": (USER, CALLED)}, "messages[1]"),
        ({"messages": (Message(role="user", parts=(Image(file_id="file-1"),)),)}, "messages[0]"),
        ({"server_tools": (ServerTool(tool="web_search", name="search"),)}, "tools"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        _body(**fields)
    assert caught.value.field == field


@flavours
def test_a_count_asks_for_the_same_prompt(flavour: Flavour) -> None:
    asked = request(
        messages=(SYSTEM, USER),
        tools=(LOOK,),
        response_format=SCHEMA,
        sampling=Sampling(temperature=0.5, seed=7),
        max_output_tokens=9,
    )
    count = encode_count_request(asked, flavour, model="m")
    assert count.path == "/responses/input_tokens"
    counted, told = json.loads(count.body), json.loads(encode_upstream_request(asked, flavour, model="m").body)
    assert counted == {name: told[name] for name in ("model", "input", "reasoning", "text", "tools", "tool_choice")}
