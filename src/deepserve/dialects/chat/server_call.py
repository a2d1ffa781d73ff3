"""Calls of tools that a server ran, among the details of a trace, as clients send them back.

OpenRouter puts them there: openrouter.ai/docs, "Reasoning tokens", the type `reasoning.server_tool_call`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deepserve.core.messages import Part, Reasoning, ServerToolCall, ServerToolResult
from deepserve.core.server_tool import PlainOutput, ToolKind, ToolOutput
from deepserve.dialects.node import Node

PREFIX = "openrouter:"
PREFIXED: tuple[ToolKind, ...] = ("web_search", "web_fetch", "datetime")
"""Tools whose names have the service's prefix."""

_TYPE = "reasoning.server_tool_call"
_MAX_NAME = 128


def decode_details(details: Node | None) -> Sequence[Part]:
    """Traces and calls in order; nothing where there are no calls, so that the trace is read as ever."""
    if details is None or not any(_is_call(item) for item in details.items()):
        return ()
    parts: list[Part] = []
    for number, item in enumerate(details.items()):
        if _is_call(item):
            parts.extend(_decode_call(item, number))
        elif (text := item.optional("text")) is not None:
            parts.append(Reasoning(text=text.string()))
    return parts


def _is_call(node: Node) -> bool:
    kind = node.optional("type")
    return kind is not None and kind.value == _TYPE


def _decode_call(node: Node, number: int) -> tuple[ServerToolCall, ServerToolResult]:
    """number: names a call that has no id."""
    plain = node.required("tool_name").string().removeprefix(PREFIX)
    tool: ToolKind = "mcp"
    for kind in (*PREFIXED, "code_interpreter"):
        if kind == plain:
            tool = kind
    given_id = node.optional("tool_call_id")
    call_id = f"server_call_{number}" if given_id is None else given_id.string()
    arguments = node.required("arguments").string()
    call = ServerToolCall(id=call_id, tool=tool, name=plain[:_MAX_NAME], arguments=arguments)
    return call, ServerToolResult(call_id=call_id, tool=tool, output=_output(node.required("result").string()))


def _output(text: str) -> ToolOutput:
    """What this server wrote, or whatever another one did."""
    try:
        output: ToolOutput = msgspec.json.decode(text, type=ToolOutput)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return PlainOutput(text=text)
    return output
