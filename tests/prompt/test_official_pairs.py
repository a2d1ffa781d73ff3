"""The four conversations published beside the first V4 checkpoints, with the prompts that belong to them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from deepserve.core.messages import Message, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Request, Thinking, Tool
from deepserve.prompt.encoder import encode_transcript
from deepserve.prompt.profile import Profile, load_profile
from deepserve.prompt.segments import SegmentWriter
from deepserve.prompt.tool_markup import write_tools_section
from tests.prompt.requests import request

PAIRS = Path(__file__).parents[2].parent / "shared" / "data" / "encoding"


def read_pair(number: int) -> tuple[list[dict[str, Any]], tuple[Tool, ...], str]:
    source = PAIRS / f"test_input_{number}.json"
    if not source.exists():
        pytest.skip("the official conversations are not beside this checkout (../shared/data/encoding)")
    content = json.loads(source.read_text(encoding="utf-8"))
    messages = content if isinstance(content, list) else content["messages"]
    offered = content["tools"] if isinstance(content, dict) else []
    for message in messages:
        offered = [*offered, *message.get("tools", [])]
    tools = tuple(
        Tool(
            name=tool["function"]["name"],
            description=tool["function"].get("description", ""),
            parameters=tool["function"].get("parameters"),
        )
        for tool in offered
    )
    return messages, tools, (PAIRS / f"test_output_{number}.txt").read_text(encoding="utf-8")


def as_request(messages: list[dict[str, Any]], tools: tuple[Tool, ...], *, thinks: bool) -> Request:
    converted = []
    for message in messages:
        parts: list[Any] = []
        if "reasoning_content" in message:
            parts.append(Reasoning(text=message["reasoning_content"]))
        if message["role"] == "tool":
            parts.append(ToolResult(call_id=message.get("tool_call_id", ""), content=(Text(message["content"]),)))
        elif message.get("content"):
            parts.append(Text(message["content"]))
        for call in message.get("tool_calls", ()):
            parts.append(ToolCall(id=call.get("id", ""), **call["function"]))
        role: Any = "user" if message["role"] == "developer" else message["role"]
        converted.append(Message(role=role, parts=tuple(parts), task=message.get("task")))
    return request(*converted, tools=tools, thinking=Thinking(enabled=thinks))


@pytest.mark.parametrize(("number", "thinks"), [(1, True), (2, True), (4, False)])
def test_an_official_conversation_renders_as_published(recipe: ModuleType, number: int, thinks: bool) -> None:
    messages, tools, expected = read_pair(number)
    assert encode_transcript(as_request(messages, tools, thinks=thinks), load_profile("preview")).text == expected


def test_the_conversation_with_a_developer_renders_as_published_but_for_the_place_of_the_tools(
    recipe: ModuleType,
) -> None:
    """The internal developer role may carry tools in its turn; a request offers them in the system text."""
    messages, tools, expected = read_pair(3)
    profile = load_profile("preview")
    section = "\n\n" + tools_section(tools, profile)
    question = next(message["content"] for message in messages if message["role"] == "developer")
    assert expected.count(section) == 1
    system, _, rest = expected.replace(section, "").partition("<｜latest_reminder｜>")
    moved = f"{system}{section}<｜latest_reminder｜>{rest}"
    assert question + section in expected
    assert encode_transcript(as_request(messages, tools, thinks=True), profile).text == moved


def tools_section(tools: tuple[Tool, ...], profile: Profile) -> str:
    writer = SegmentWriter()
    write_tools_section(writer, tools, profile)
    return "".join(str(msgspec.structs.astuple(segment)[0]) for segment in writer.finish())
