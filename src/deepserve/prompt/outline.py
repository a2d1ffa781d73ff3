"""What a prompt is made of, piece by piece in its order, and where a client wrote each: to tell two prompts apart.

The order is the encoder's; the text of a piece is the client's own, without the markup around it.
"""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec

from deepserve.core.messages import (
    File,
    Image,
    Message,
    OtherPart,
    Part,
    Reasoning,
    Refusal,
    ServerToolCall,
    ServerToolResult,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.core.request import Request
from deepserve.prompt.json_text import write_json

Kind = Literal["thinking", "system", "tool", "form", "text", "reasoning", "call", "result", "hole"]


class Section(msgspec.Struct, frozen=True):
    """path: as clients of Chat spell it, and of Messages where that was asked. name: of a tool."""

    kind: Kind
    path: str
    text: str
    name: str = ""


def outline(request: Request) -> tuple[Section, ...]:
    """The pieces of a request's prompt. The reasoning of past turns is one only where the prompt shows it."""
    if request.infill is not None:
        return (
            Section("text", "prompt", request.infill.prompt),
            *((Section("hole", "suffix", request.infill.suffix),) if request.infill.suffix is not None else ()),
        )
    effort = request.thinking.effort if request.thinking.enabled else "off"
    found = [Section("thinking", "thinking", effort)]
    named = list(_named(request))
    for path, message in named:
        if message.role == "system":
            found += [
                Section("system", inner, text) for inner, text in _texts(message, path) if text or len(named) == 1
            ]
    if request.tool_choice.mode != "none":
        found += [
            Section(
                "tool",
                f"tools[{index}]",
                write_json(
                    {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters or {})}
                ),
                tool.name,
            )
            for index, tool in enumerate(request.tools)
        ]
    form = request.response_format
    if form.kind != "text":
        found.append(Section("form", "response_format", f"{form.kind} {write_json(dict(form.schema or {}))}"))
    shows_reasoning = request.thinking.enabled and (
        (bool(request.tools) and request.tool_choice.mode != "none") or any(message.tools for _, message in named)
    )
    for path, message in named:
        if message.role != "system":
            found += _turn(message, path, shows_reasoning=shows_reasoning)
    return tuple(found)


def _named(request: Request) -> list[tuple[str, Message]]:
    """Messages under their paths. Those of Messages are counted without the system text, which stands beside them."""
    if request.dialect != "messages":
        return [(f"messages[{index}]", message) for index, message in enumerate(request.messages)]
    num_before = 0
    named = []
    for index, message in enumerate(request.messages):
        if message.role == "system" and index == num_before:
            num_before += 1
            named.append(("system", message))
        else:
            named.append((f"messages[{index - num_before}]", message))
    return named


def _texts(message: Message, path: str) -> list[tuple[str, str]]:
    """Each part as a text; a single one is the content itself."""
    content = path if path == "system" else f"{path}.content"
    if len(message.parts) == 1:
        return [(content, _text(message.parts[0]))]
    return [(f"{content}[{index}]", _text(part)) for index, part in enumerate(message.parts)]


def _turn(message: Message, path: str, *, shows_reasoning: bool) -> list[Section]:
    if message.role != "assistant":
        return [
            Section("result" if isinstance(part, ToolResult) else "text", inner, text)
            for part, (inner, text) in zip(message.parts, _texts(message, path), strict=True)
        ]
    found = []
    if shows_reasoning and not message.prefix:
        found.append(Section("reasoning", f"{path}.reasoning_content", message.reasoning or ""))
    texts = [part for part in message.parts if not isinstance(part, (Reasoning, ToolCall))]
    found.append(Section("text", f"{path}.content", "\n\n".join(map(_text, texts))))
    found += [
        Section("call", f"{path}.tool_calls[{index}]", f"{call.name} {call.arguments}", call.name)
        for index, call in enumerate(message.tool_calls)
    ]
    return found


def _text(part: Part) -> str:
    match part:
        case Text(text=text) | Refusal(text=text) | Reasoning(text=text):
            return text
        case ToolResult(content=content):
            return "\n\n".join(map(_text, content))
        case ToolCall(name=name, arguments=arguments) | ServerToolCall(name=name, arguments=arguments):
            return f"{name} {arguments}"
        case ServerToolResult():
            return "[result of the server's tool]"
        case Image() | File() | OtherPart():
            return f"[{part.__struct_config__.tag}]"
        case _:
            assert_never(part)
