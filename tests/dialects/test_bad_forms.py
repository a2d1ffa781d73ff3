"""Tools, choices and schemas that make no sense: each dialect refuses them by name, and goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import msgspec
import pytest

from deepserve.core.messages import Message, Text, ToolCall, ToolResult
from deepserve.core.request import ResponseFormat, Tool, ToolChoice
from tests.dialects.speakers import SPEAKERS, Conversation, Speaker, wishes
from tests.server.live import live_server

QUESTION = Message(role="user", parts=(Text("What is the weather in Paris, as json?"),))
ASKED = Conversation(messages=(QUESTION,), effort=None)
WEATHER = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
CALL = ToolCall(id="call_00_abcdefghijklmnopqrstuvwx", name="get_weather", arguments='{"city": "Paris"}')
CALLED = Message(role="assistant", parts=(CALL,))
RESULT = Message(role="tool", parts=(ToolResult(call_id=CALL.id, content=(Text("Sunny"),)),))
FOREIGN = Message(role="tool", parts=(ToolResult(call_id="call_00_nobody", content=(Text("Sunny"),)),))

Schema = Any
"""Schemas, and what is none."""

SCHEMAS: Mapping[str, tuple[Schema, str]] = {
    "no schema": ("x", "expected a map"),
    "a list": ([], "expected a map"),
    "a type that is none": ({"type": "objct"}, "/type"),
    "a keyword of the wrong type": ({"type": "object", "properties": []}, "/properties"),
    "another document": ({"properties": {"a": {"$ref": "https://example.com/s.json"}}}, "$ref"),
    "a reference to nowhere": ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "$ref"),
    "an unknown draft": ({"$schema": "https://example.com/draft", "type": "object"}, "/$schema"),
    "too many bytes": ({"description": "x" * 300_000}, "bytes"),
    "too many properties": ({"properties": {f"p{number}": {} for number in range(2001)}}, "2000"),
    "too many values": ({"enum": list(range(5001))}, "5000"),
    "a long pattern": ({"type": "string", "pattern": "a" * 5000}, "pattern"),
    "a huge repetition": ({"type": "string", "pattern": "(a{900}){900}"}, "pattern"),
    "no regular expression": ({"type": "string", "pattern": "(a"}, "pattern"),
}
DEEP: Schema = {}
for _ in range(40):
    DEEP = {"items": DEEP}
"""Deeper than schemas may be, and less deep than bodies may."""


def asked(**changes: Any) -> Conversation:  # Any: fields of Conversation
    return msgspec.structs.replace(ASKED, **changes)


def asked_for(schema: Schema) -> Conversation:
    return asked(form=ResponseFormat(kind="json_schema", schema=schema, strict=True))


def called_with(schema: Schema) -> Conversation:
    return asked(tools=(Tool(name="get_weather", parameters=schema, strict=True),))


def named(name: str) -> ToolChoice:
    return ToolChoice(mode="named", names=(name,))


BAD: Mapping[str, tuple[Conversation, str]] = {
    "a call of a tool that is not offered": (asked(tools=(WEATHER,), choice=named("other")), "tools"),
    "a call without tools": (asked(choice=ToolChoice(mode="required")), "no tools"),
    "a call of one tool without tools": (asked(choice=named("other")), "other"),
    "an allowed tool that is not offered": (asked(tools=(WEATHER,), choice=ToolChoice(names=("other",))), "tools"),
    "two tools of one name": (asked(tools=(WEATHER, WEATHER)), ""),
    "a name with a blank": (asked(tools=(Tool(name="a b", parameters={}),)), "name"),
    "a name with a dot": (asked(tools=(Tool(name="a.b", parameters={}),)), "name"),
    "no name": (asked(tools=(Tool(name="", parameters={}),)), "name"),
    "a name of 129 letters": (asked(tools=(Tool(name="a" * 129, parameters={}),)), "name"),
    "129 tools": (asked(tools=tuple(Tool(name=f"t{number}", parameters={}) for number in range(129))), "128"),
    "a result of a call that was never made": (asked(messages=(QUESTION, FOREIGN), tools=(WEATHER,)), ""),
    "a result of another call": (asked(messages=(QUESTION, CALLED, FOREIGN), tools=(WEATHER,)), ""),
    **{f"the answer's schema: {name}": (asked_for(schema), said) for name, (schema, said) in SCHEMAS.items()},
    **{f"a tool's schema: {name}": (called_with(schema), said) for name, (schema, said) in SCHEMAS.items()},
    "the answer's schema: too deep": (asked_for(DEEP), "32"),
    "a tool's schema: too deep": (called_with(DEEP), "32"),
}
"""What is asked, and what its refusal must name."""

SERVED: Mapping[tuple[str, str], str] = {
    ("runware", "a call without tools"): "the service documents that a choice without tools has no effect",
    ("runware", "a call of one tool without tools"): "the same",
}


OTHER_WORDS: Mapping[tuple[str, str], str] = {
    ("runware", "expected a map"): "jsonSchema",
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with live_server() as live, httpx.Client(base_url=live.address, timeout=30) as client:
        yield client


def post(client: httpx.Client, speaker: Speaker, conversation: Conversation) -> httpx.Response:
    return client.post(speaker.path, json=speaker.body(conversation, is_stream=False))


@pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda speaker: speaker.name)
def test_what_makes_no_sense_is_refused_by_name_and_does_no_harm(client: httpx.Client, speaker: Speaker) -> None:
    for name, (conversation, said) in BAD.items():
        if wishes(conversation) & speaker.unsayable:
            continue
        answer = post(client, speaker, conversation)
        if (speaker.name, name) in SERVED:
            assert answer.status_code == 200, (name, answer.text)
            continue
        assert answer.status_code == 400, (name, answer.text)
        assert OTHER_WORDS.get((speaker.name, said), said) in answer.text, (name, answer.text)
        assert len(answer.content) < 2_000, (name, answer.text)
    good = asked(messages=(QUESTION, CALLED, RESULT), tools=(WEATHER,))
    assert post(client, speaker, good).status_code == 200


def test_recursion_is_no_fault(client: httpx.Client) -> None:
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"],
        "additionalProperties": False,
    }
    for speaker in SPEAKERS:
        for conversation in (asked_for(tree), called_with(tree)):
            if not wishes(conversation) & speaker.unsayable:
                assert post(client, speaker, conversation).status_code == 200, speaker.name
