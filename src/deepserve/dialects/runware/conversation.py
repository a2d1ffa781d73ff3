"""Messages and tools of a task: wire to core."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from deepserve.config import Limits
from deepserve.core.messages import Message, Part, Reasoning, Role, Text, ToolCall, ToolResult
from deepserve.core.request import ServerTool, Tool, ToolChoice
from deepserve.core.server_tool import ToolKind
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.fields import MAX_TOOL_NAME_CHARACTERS
from deepserve.dialects.runware.value import Value

_KEYS: Mapping[Role, frozenset[str]] = {
    "system": frozenset(("role", "content")),
    "user": frozenset(("role", "content")),
    "assistant": frozenset(("role", "content", "tools", "toolCalls", "reasoningContent")),
    "tool": frozenset(("role", "content", "id", "toolId", "name")),
}
_CALL_KEYS = frozenset(("id", "name", "input", "type"))
_TOOL_KEYS = frozenset(("type", "name", "description", "schema", "input_schema", "parameters"))
SERVER_TOOLS: Mapping[str, ToolKind] = {"search": "web_search", "codeInterpreter": "code_interpreter"}
"""Run by the server; the caller never sees their calls. They are called by the names of their types."""
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_CHOICES: Mapping[str, ToolChoice] = {
    "auto": ToolChoice(),
    "any": ToolChoice(mode="required"),
    "none": ToolChoice(mode="none"),
    "tool": ToolChoice(mode="named"),
}


def decode_messages(node: Value, system_prompt: str | None, limits: Limits) -> tuple[Message, ...]:
    """system_prompt: of the settings; system messages at the beginning are appended to it."""
    num_messages = len(node.sequence())
    if not 1 <= num_messages <= limits.messages:
        raise node.refuse(f"must hold from 1 to {limits.messages} messages")
    messages = [_message(item) for item in node.items()]
    if messages[-1].role not in ("user", "tool"):
        raise node.refuse("must end with a message of the role `user` or `tool`")
    _check_calls(node, messages)
    leading = 0
    while messages[leading].role == "system":  # the last message is none
        leading += 1
    system = [*([] if system_prompt is None else [system_prompt]), *(message.text for message in messages[:leading])]
    if not system:
        return tuple(messages)
    return (Message(role="system", parts=(Text("\n\n".join(system)),)), *messages[leading:])


def _check_calls(node: Value, messages: list[Message]) -> None:
    known: set[str] = set()
    for index, message in enumerate(messages):
        known.update(call.id for call in message.tool_calls)
        for result in message.tool_results:
            if result.call_id not in known:
                raise TaskRefused(
                    "invalidMessages",
                    f"`messages.{index}.id` names no call of an earlier assistant message.",
                    parameter=node.path,
                )


def _message(node: Value) -> Message:
    role = next(role for role in _KEYS if role == node.required("role", "Messages").choice(_KEYS))
    node.check_keys(_KEYS[role])
    parts: list[Part] = []
    match role:
        case "assistant":
            parts += _reasoning(node)
            content = node.optional("content", "Messages")
            parts += [] if content is None else _texts(content)
            parts += _calls(node)
        case "tool":
            call_id = node.optional("id", "Messages") or node.required("toolId", "Messages")
            name = node.optional("name", "Messages")
            parts.append(
                ToolResult(
                    call_id=call_id.string(),
                    name=None if name is None else name.string(),
                    content=_texts(node.required("content", "Messages")),
                )
            )
        case _:
            parts += _texts(node.required("content", "Messages"))
    return Message(role=role, parts=tuple(parts))


def _texts(node: Value) -> tuple[Text, ...]:
    """A string, or a list of text parts."""
    if not isinstance(node.value, list):
        return (Text(node.string()),)
    for part in node.items():
        if part.required("type", "Messages").value != "text":
            raise part.refuse("must be a part of the type `text`: DeepSeek V4 reads nothing else")
        part.check_keys(("type", "text"))
    return tuple(Text(part.required("text", "Messages").string()) for part in node.items())


def _reasoning(node: Value) -> tuple[Reasoning, ...]:
    trace = node.optional("reasoningContent", "Messages")
    if trace is None:
        return ()
    texts = [item.string() for item in trace.items()] if isinstance(trace.value, list) else [trace.string()]
    return (Reasoning(text="".join(texts)),)


def _calls(node: Value) -> tuple[ToolCall, ...]:
    """Under the documented name, or under the one that results carry them by."""
    calls = node.optional("tools", "Messages") or node.optional("toolCalls", "Messages")
    return () if calls is None else tuple(_call(call) for call in calls.items())


def _call(node: Value) -> ToolCall:
    node.check_keys(_CALL_KEYS)
    given = node.optional("input", "Messages")
    if given is None:
        arguments = "{}"
    elif isinstance(given.value, str):
        arguments = given.value
    else:
        arguments = msgspec.json.encode(given.mapping()).decode()
    return ToolCall(
        id=node.required("id", "Messages").string(low=1),
        name=node.required("name", "Messages").string(low=1),
        arguments=arguments,
    )


def decode_tools(node: Value, limits: Limits) -> tuple[tuple[Tool, ...], tuple[ServerTool, ...]]:
    """The caller's functions, and what the server is to run."""
    if not 1 <= len(node.sequence()) <= limits.tools:
        raise node.refuse(f"must hold from 1 to {limits.tools} tools")
    tools: list[Tool] = []
    server_tools: list[ServerTool] = []
    names: set[str] = set()
    for item in node.items():
        tool = _tool(item)
        if tool.name in names:
            path = f"{item.path}.{'name' if isinstance(tool, Tool) else 'type'}"
            raise TaskRefused("duplicateToolName", f"`{path}`: {tool.name} is offered twice.", parameter=path)
        names.add(tool.name)
        if isinstance(tool, Tool):
            tools.append(tool)
        else:
            server_tools.append(tool)
    return tuple(tools), tuple(server_tools)


def _tool(node: Value) -> Tool | ServerTool:
    kind = node.required("type", "ToolType")
    chosen = kind.choice(("function", *SERVER_TOOLS))
    if chosen in SERVER_TOOLS:
        node.check_keys(("type",))
        return ServerTool(tool=SERVER_TOOLS[chosen], name=chosen)
    node.check_keys(_TOOL_KEYS)
    name = node.required("name", "ToolName")
    if not _TOOL_NAME.fullmatch(name.string(low=1, high=MAX_TOOL_NAME_CHARACTERS)):
        raise name.refuse("may hold letters, digits, `-` and `_` only")
    schema = _schema(node)
    description = node.optional("description", "ToolDescription")
    return Tool(
        name=name.string(),
        description="" if description is None else description.string(),
        parameters=schema.mapping(),
    )


def _schema(node: Value) -> Value:
    """Under the documented name, or another that clients use."""
    found = (node.optional(name, "ToolSchema") for name in ("schema", "input_schema", "parameters"))
    return next((schema for schema in found if schema is not None), None) or node.required("schema", "ToolSchema")


def schema_fields(tools: Value | None) -> dict[str, str]:
    """As in `Request`, for tools that were decoded."""
    functions = [] if tools is None else [item for item in tools.items() if item.required("type").value == "function"]
    named = {f"tools[{item.required('name').string()}]": _schema(item).path for item in functions}
    return {"response_format": "jsonSchema", **named}


def decode_tool_choice(node: Value, tools: Sequence[Tool | ServerTool]) -> ToolChoice:
    """Without tools it has no effect, but must be well-formed even so."""
    node.check_keys(("type", "name"))
    kind = node.required("type", "ToolChoice").choice(_CHOICES)
    if kind != "tool":
        return _CHOICES[kind] if tools else ToolChoice()
    name = node.required("name", "ToolChoiceName")
    if tools and name.string() not in [tool.name for tool in tools]:
        raise name.refuse("names none of the tools")
    return ToolChoice(mode="named", names=(name.string(),)) if tools else ToolChoice()
