"""The four conversations published beside the first V4 checkpoints, with the prompts that belong to them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deepserve.core.messages import Message, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Request, Thinking, Tool
from deepserve.prompt.encoder import encode_transcript
from deepserve.prompt.profile import load_profile
from tests.prompt.requests import request

PAIRS = Path(__file__).parents[2].parent / "shared" / "data" / "encoding"


def read_pair(number: int) -> tuple[list[dict[str, Any]], list[Any], str]:
    source = PAIRS / f"test_input_{number}.json"
    if not source.exists():
        pytest.skip("the official conversations are not beside this checkout (../shared/data/encoding)")
    content = json.loads(source.read_text(encoding="utf-8"))
    messages = content if isinstance(content, list) else content["messages"]
    offered = content["tools"] if isinstance(content, dict) else []
    return messages, offered, (PAIRS / f"test_output_{number}.txt").read_text(encoding="utf-8")


def as_tools(offered: list[Any]) -> tuple[Tool, ...]:
    return tuple(
        Tool(
            name=tool["function"]["name"],
            description=tool["function"].get("description", ""),
            parameters=tool["function"].get("parameters"),
        )
        for tool in offered
    )


def as_request(messages: list[dict[str, Any]], tools: list[Any], *, thinks: bool) -> Request:
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
        # The internal developer role is a user's turn that may bring its own tools; a system message's are everybody's.
        is_developer = message["role"] == "developer"
        own_tools = message.get("tools", [])
        converted.append(
            Message(
                role="user" if is_developer else message["role"],
                parts=tuple(parts),
                task=message.get("task"),
                tools=as_tools(own_tools) if is_developer else (),
            )
        )
        if not is_developer:
            tools = [*tools, *own_tools]
    return request(*converted, tools=as_tools(tools), thinking=Thinking(enabled=thinks))


@pytest.mark.parametrize(("number", "thinks"), [(1, True), (2, True), (3, True), (4, False)])
def test_an_official_conversation_renders_as_published(recipe: ModuleType, number: int, thinks: bool) -> None:
    messages, tools, expected = read_pair(number)
    assert encode_transcript(as_request(messages, tools, thinks=thinks), load_profile("preview")).text == expected
