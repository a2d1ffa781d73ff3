"""What services that speak Messages are sent: nothing is lost in silence, and they can read it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import File, Image, Message, OtherPart, Reasoning, Refusal, Text, ToolCall, ToolResult
from deepserve.core.request import Infill, Request, ResponseFormat, ServerTool, Thinking, Tool, ToolChoice
from deepserve.core.sampling import KNOBS, Sampling
from deepserve.dialects.messages.upstream_flavour import ANTHROPIC, DEEPSEEK, DEEPSERVE, MESSAGES_FLAVOURS
from deepserve.dialects.messages.upstream_flavour import MessagesFlavour as Flavour
from deepserve.dialects.messages.upstream_request import encode_count_request, encode_upstream_request
from deepserve.dialects.upstream_request import LOST_TRACE
from tests.backends.upstream.setup import request
from tests.dialects.messages.decoding import decode

Json = Any
"""Bodies as they stand on the wire."""

LOOK = Tool(name="look", description="Looks.", parameters={"type": "object", "properties": {}}, strict=True)
CALL = ToolCall(id="call_1", name="look", arguments='{"at": "it"}')
USER = Message(role="user", parts=(Text("Hello"),))
CALLED = Message(role="assistant", parts=(Reasoning(text="Hm.", signature="sig"), Text("Wait."), CALL))
FOUND = Message(role="tool", parts=(ToolResult(call_id="call_1", content=(Text("a"), Text("b"))),))
flavours = pytest.mark.parametrize("flavour", MESSAGES_FLAVOURS.values(), ids=list(MESSAGES_FLAVOURS))


def _body(flavour: Flavour = ANTHROPIC, **fields: Any) -> Json:  # Any: fields of Request
    return json.loads(encode_upstream_request(request(**fields), flavour, model="m", user="u").body)


def _left_out(flavour: Flavour, **fields: Any) -> tuple[str, ...]:  # Any: fields of Request
    return encode_upstream_request(request(**fields), flavour, model="m").left_out


def test_a_question_is_a_body_of_the_dialect() -> None:
    asked = encode_upstream_request(request(stop=("END",)), DEEPSEEK, model="theirs", user="u")
    assert asked.path == "/v1/messages"
    assert json.loads(asked.body) == {
        "model": "theirs",
        "messages": [{"role": "user", "content": "Hello"}],
        "thinking": {"type": "enabled"},
        "output_config": {"effort": "high"},
        "max_tokens": 32_768,
        "stop_sequences": ["END"],
        "stream": True,
        "metadata": {"user_id": "u"},
    }


@flavours
def test_our_own_server_reads_what_each_service_is_sent(flavour: Flavour) -> None:
    """The same conversation, and the same wishes."""
    asked = request(
        messages=(Message(role="system", parts=(Text("Be brief."),)), USER, CALLED, FOUND, USER),
        tools=(LOOK,),
        tool_choice=ToolChoice(is_parallel=False),
        thinking=Thinking(effort="max"),
        sampling=Sampling(temperature=0.5),
        max_output_tokens=100,
        stop=("END",),
    )
    body = encode_upstream_request(asked, flavour, model="deepseek-v4-flash").body
    read = decode(json.loads(body)).request
    assert read.tools[0].name == "look"
    assert read.thinking.enabled
    assert read.thinking.effort == "max"
    assert read.max_output_tokens == 100
    assert read.stop == ("END",)
    assert [message.role for message in read.messages] == ["system", "user", "assistant", "tool", "user"]
    assert read.messages[2].reasoning == "Hm."
    assert read.messages[2].tool_calls == (msgspec.structs.replace(CALL, arguments='{"at":"it"}'),)
    joined = "".join(part.text for part in read.messages[3].tool_results[0].content if isinstance(part, Text))
    assert joined == "ab"


def test_results_of_tools_and_what_the_user_says_then_are_one_turn_results_first() -> None:
    other = Message(role="tool", parts=(ToolResult(call_id="call_2", content=(), is_error=True),))
    called = msgspec.structs.replace(
        CALLED, parts=(*CALLED.parts, ToolCall(id="call_2", name="look", arguments="nonsense"))
    )
    body = _body(messages=(USER, called, FOUND, other, USER, USER), tools=(LOOK,))
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user", "user"]
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "text", "text": "Wait."},
        {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": "it"}},
        {"type": "tool_use", "id": "call_2", "name": "look", "input": {"INVALID_JSON": "nonsense"}},
    ]
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "ab"},
        {"type": "tool_result", "tool_use_id": "call_2", "content": "", "is_error": True},
        {"type": "text", "text": "Hello"},
    ]


def test_later_words_of_the_system_stay_or_come_first() -> None:
    messages = (
        Message(role="system", parts=(Text("One."),)),
        USER,
        Message(role="system", parts=(Text("Two."),)),
        Message(role="latest_reminder", parts=(Text("Three."),)),
    )
    there = _body(DEEPSEEK, messages=messages)
    assert there["system"] == "One."
    assert [turn["role"] for turn in there["messages"]] == ["user", "system", "system"]
    elsewhere = _body(ANTHROPIC, messages=messages)
    assert elsewhere["system"] == "One.\n\nTwo."
    assert [turn["role"] for turn in elsewhere["messages"]] == ["user", "user"]


# Traces


def test_a_restored_trace_goes_back_without_a_signature() -> None:
    restored = Message(role="assistant", parts=(Reasoning(text="Hm."), CALL))
    for flavour in MESSAGES_FLAVOURS.values():
        body = _body(flavour, messages=(USER, restored, FOUND), tools=(LOOK,))
        assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": ""}


@pytest.mark.parametrize(
    "lost", [(), (Reasoning(),), (Reasoning(sealed="seal"),), (Reasoning(signature="sig"),)], ids=repr
)
def test_words_stand_for_a_trace_that_deepseek_needs_and_nobody_has(lost: tuple[Reasoning, ...]) -> None:
    messages = (USER, Message(role="assistant", parts=(*lost, CALL)), FOUND)
    body = _body(DEEPSEEK, messages=messages, tools=(LOOK,))
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": LOST_TRACE, "signature": ""}
    resting = _body(DEEPSEEK, messages=messages, tools=(LOOK,), thinking=Thinking(enabled=False))
    assert LOST_TRACE not in json.dumps(resting)
    assert LOST_TRACE not in json.dumps(_body(ANTHROPIC, messages=messages, tools=(LOOK,)))


def test_traces_in_other_forms_go_back_to_those_who_may_open_them() -> None:
    parts = (Reasoning(sealed="seal"), Reasoning(signature="sig"), CALL)
    messages = (USER, Message(role="assistant", parts=parts), FOUND)
    for flavour in (DEEPSERVE, ANTHROPIC):
        assert _body(flavour, messages=messages, tools=(LOOK,))["messages"][1]["content"][:2] == [
            {"type": "redacted_thinking", "data": "seal"},
            {"type": "thinking", "thinking": "", "signature": "sig"},
        ]


# Fields and words


def test_thinking_is_asked_for_as_each_service_wants_it() -> None:
    budget = {"thinking": Thinking(budget_tokens=2000), "max_output_tokens": 9000}
    assert _body(DEEPSERVE, **budget)["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert _body(DEEPSERVE)["thinking"] == {"type": "enabled"}
    assert _body(ANTHROPIC, **budget)["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert _body(ANTHROPIC, max_output_tokens=9000)["thinking"] == {"type": "enabled", "budget_tokens": 8999}
    assert _body(ANTHROPIC, max_output_tokens=9)["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert _body(DEEPSEEK, **budget)["thinking"] == {"type": "enabled"}
    assert _left_out(DEEPSEEK, **budget) == ("thinking.budget_tokens",)
    for flavour in MESSAGES_FLAVOURS.values():
        off = _body(flavour, thinking=Thinking(enabled=False))
        assert off["thinking"] == {"type": "disabled"}
        assert "output_config" not in off


def test_a_limit_is_named_where_one_must_be_and_ours_is_cut_to_what_the_service_can() -> None:
    def limit(flavour: Flavour, most: int | None, **fields: Any) -> object:  # Any: fields of Request
        asked = encode_upstream_request(request(**fields), flavour, model="m", most_output_tokens=most)
        return json.loads(asked.body).get("max_tokens")

    assert limit(DEEPSERVE, 100, default_output_tokens=500) is None
    assert limit(ANTHROPIC, None, default_output_tokens=500) == 500
    assert limit(ANTHROPIC, 100, default_output_tokens=500) == 100
    # What the client asked for is its own: that it is too much, the service says.
    assert limit(ANTHROPIC, 100, max_output_tokens=500) == 500


@flavours
def test_every_knob_is_sent_or_named(flavour: Flavour) -> None:
    """Also while thinking, where some services let none have an effect."""
    values = {name: knob.high for name, knob in KNOBS.items() if knob.high != knob.neutral}
    values |= {"top_p": 0.5}
    sampling = Sampling(**values, seed=7, logit_bias={1: 1.0}, num_top_logprobs=2)  # type: ignore[arg-type]  # top_k
    for is_thinking in (True, False):
        fields = {"sampling": sampling, "thinking": Thinking(enabled=is_thinking)}
        body, left_out = _body(flavour, **fields), _left_out(flavour, **fields)
        assert {*left_out, *(name for name in KNOBS if name in body)} == {*KNOBS, "seed", "logit_bias", "logprobs"}
        assert not any(name in body for name in left_out)
    neutral = Sampling(**{name: knob.neutral for name, knob in KNOBS.items()})  # type: ignore[arg-type]  # as above
    assert _left_out(flavour, sampling=neutral) == ()


def test_forms_are_fields_or_words() -> None:
    form = ResponseFormat(kind="json_schema", schema={"type": "object"}, strict=True)
    there = _body(DEEPSERVE, response_format=form)
    assert there["output_config"]["format"] == {"type": "json_schema", "schema": {"type": "object"}}
    assert "system" not in there
    for flavour in (DEEPSEEK, ANTHROPIC):
        asked = _body(flavour, response_format=form)
        assert "format" not in asked["output_config"]
        assert '{"type":"object"}' in asked["system"]
    for kind in ("json_object", "regex", "choice"):
        other = ResponseFormat(kind=kind, pattern="a+", choices=("yes", "no"))
        for flavour in MESSAGES_FLAVOURS.values():
            assert _body(flavour, response_format=other)["system"]


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (ToolChoice(), {"type": "auto"}),
        (ToolChoice(mode="none"), {"type": "none"}),
        (ToolChoice(mode="required", is_parallel=False), {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice(mode="named", names=("look",)), {"type": "tool", "name": "look"}),
    ],
)
def test_the_choice_of_tools_is_a_field_where_it_can_be(choice: ToolChoice, wire: Json) -> None:
    other = Tool(name="other")
    asked = {"tools": (LOOK, other), "tool_choice": choice}
    there = _body(DEEPSERVE, **asked)
    assert there["tool_choice"] == wire
    assert there["tools"][0]["strict"] is True
    elsewhere = _body(ANTHROPIC, **asked)
    assert "strict" not in elsewhere["tools"][0]
    if choice.mode in ("required", "named"):
        assert elsewhere["tool_choice"]["type"] == "auto"
        assert "Call" in elsewhere["system"]
        resting = _body(ANTHROPIC, **asked, thinking=Thinking(enabled=False))
        assert resting["tool_choice"] == wire
    if choice.names:
        assert [tool["name"] for tool in elsewhere["tools"]] == ["look"]
    else:
        assert elsewhere["tools"][1]["input_schema"] == {"type": "object", "properties": {}}


def test_what_is_no_text_has_a_block_of_its_own() -> None:
    parts = (
        Image(url="data:image/jpeg;base64,QUJD"),
        Image(url="https://example.com/a.png"),
        File(data="QUJD", media_type="application/pdf"),
        File(file_id="file_1"),
        OtherPart(kind="later", value={"type": "later"}),
        Refusal("No."),
        Text(""),
    )
    (turn,) = _body(messages=(Message(role="user", parts=parts),))["messages"]
    base64 = {"type": "base64", "data": "QUJD"}
    assert turn["content"] == [
        {"type": "image", "source": {**base64, "media_type": "image/jpeg"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": {**base64, "media_type": "application/pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "later"},
        {"type": "text", "text": "No."},
    ]


def _begun(*, prefix: bool) -> tuple[Message, ...]:
    return (USER, Message(role="assistant", parts=(Text("So"),), prefix=prefix))


@pytest.mark.parametrize(
    ("flavour", "fields", "field"),
    [
        (ANTHROPIC, {"num_results": 2}, "n"),
        (ANTHROPIC, {"infill": Infill(prompt="x")}, "prompt"),
        (ANTHROPIC, {"server_tools": (ServerTool(tool="datetime", name="d"),)}, "tools"),
        (ANTHROPIC, {"messages": (Message(role="user", parts=(Image(file_id="f"),)),)}, "messages[0]"),
        (ANTHROPIC, {"messages": (Message(role="system", parts=(Text("x"),)),)}, "messages"),
        (ANTHROPIC, {"messages": _begun(prefix=False)}, "messages[1]"),
        (DEEPSEEK, {"messages": _begun(prefix=True)}, "messages[1]"),
    ],
)
def test_what_would_make_another_answer_is_refused_by_name(
    flavour: Flavour, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        encode_upstream_request(request(**fields), flavour, model="m")
    assert caught.value.field == field


def test_an_answer_that_was_begun_stands_last() -> None:
    assert _body(ANTHROPIC, messages=_begun(prefix=True))["messages"][-1] == {"role": "assistant", "content": "So"}


def test_a_count_is_asked_with_what_decides_the_prompt_alone() -> None:
    asked: Request = request(tools=(LOOK,), sampling=Sampling(temperature=0.5), stop=("END",), max_output_tokens=9)
    count = encode_count_request(asked, DEEPSEEK, model="m")
    assert count.path == "/v1/messages/count_tokens"
    assert set(json.loads(count.body)) == {"model", "messages", "thinking", "output_config", "tools", "tool_choice"}
