"""Tools, the choice among them, and the form of the answer: wire to core.

A namespace is a container of tools. The model knows only flat names, so its tools are offered as `namespace__name`,
and a call of one is split again by `ToolNames`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.request import ResponseFormat, Thinking, Tool, ToolChoice
from deepserve.dialects.answer_form import read_named_schema, read_schema_at
from deepserve.dialects.deepseek import MAX_TOOL_NAME
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.tool_choice import allowed_choice, named_choice, required_choice
from deepserve.dialects.tool_name import read_tool_name

_SEARCHES = ("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11")

_NOT_WHILE_THINKING = "Thinking mode does not support this tool_choice"


class ToolName(msgspec.Struct, frozen=True, kw_only=True):
    """What a client calls a tool."""

    name: str
    namespace: str | None = None
    kind: Literal["function", "custom"] = "function"


ToolNames = Mapping[str, ToolName]
"""The flat name, which the model sees and writes -> the client's."""


class OfferedTools(msgspec.Struct, frozen=True, kw_only=True):
    tools: tuple[Tool, ...]
    names: ToolNames


def flat_name(name: str, namespace: str | None) -> str:
    """The vendor joins namespaces the same way."""
    return f"{namespace}__{name}" if namespace else name


def decode_tools(reading: Reading) -> OfferedTools:
    node = reading.root.optional("tools")
    tools: list[Tool] = []
    names: dict[str, ToolName] = {}
    for tool, name in () if node is None else _offered(reading, node):
        if tool.name in names:
            raise InvalidField("Tool names must be unique.", field="tools")
        tools.append(tool)
        names[tool.name] = name
    if len(tools) > reading.limits.tools:
        raise InvalidField(
            f"Invalid 'tools': array too long. Expected an array with maximum length {reading.limits.tools}, "
            f"but got an array with length {len(tools)} instead.",
            field="tools",
        )
    return OfferedTools(tools=tuple(tools), names=names)


def _offered(reading: Reading, node: Node) -> Iterator[tuple[Tool, ToolName]]:
    for item in node.items():
        kind = item.required("type").string()
        if kind != "namespace" or reading.is_strict:
            yield from _tool(reading, item, kind, None)
            continue
        reading.ignore_others(item, ("type", "name", "description", "tools"), "tools[]")
        space = read_tool_name(item.required("name"), MAX_TOOL_NAME)
        for inner in item.required("tools").items():
            yield from _tool(reading, inner, inner.required("type").string(), space)


def _tool(reading: Reading, node: Node, kind: str, namespace: str | None) -> Iterator[tuple[Tool, ToolName]]:
    """One tool, or none where it is of a kind that the model is not told of."""
    if kind == "custom":
        if reading.is_strict and node.required("name").value != "apply_patch":
            raise InvalidField("Only the custom tool `apply_patch` is supported.", field=node.field)
    elif kind != "function":
        reading.ignore("tools[].web_search" if kind in _SEARCHES else f"tools[].{kind[:64]}")
        return
    name_node = node.required("name")
    name = read_tool_name(name_node, MAX_TOOL_NAME)
    flat = flat_name(name, namespace)
    if len(flat) > MAX_TOOL_NAME:
        raise InvalidField(
            f"Invalid '{name_node.field}': with its namespace it has {len(flat)} characters, and {MAX_TOOL_NAME} are "
            "the most.",
            field=name_node.field,
        )
    description_node = node.optional("description")
    description = "" if description_node is None else description_node.string()
    if kind == "custom":
        reading.ignore_others(node, ("type", "name", "description", "format"), "tools[]")
        description += _shown_format(reading, node.optional("format"))
        tool = Tool(name=flat, description=description, kind="custom")
        yield tool, ToolName(name=name, namespace=namespace, kind="custom")
        return
    reading.ignore_others(node, ("type", "name", "description", "parameters", "strict"), "tools[]")
    parameters, strict = node.optional("parameters"), node.optional("strict")
    is_strict_tool = strict is not None and strict.boolean()
    if is_strict_tool and reading.is_strict:  # the vendor's service knows the flag at Chat's beta address only
        reading.ignore("tools[].strict")
        is_strict_tool = False
    if is_strict_tool and parameters is not None:
        read_schema_at(parameters)
    tool = Tool(
        name=flat,
        description=description,
        parameters=None if parameters is None else parameters.mapping(),
        strict=is_strict_tool,
    )
    yield tool, ToolName(name=name, namespace=namespace)


def _shown_format(reading: Reading, node: Node | None) -> str:
    """A grammar is told to the model, since nothing enforces it yet."""
    if node is None or node.required("type").string() != "grammar":
        return ""
    reading.ignore("tools[].format")
    syntax, definition = node.required("syntax").string(), node.required("definition").string()
    return f"\n\nThe input follows this {syntax} grammar:\n{definition}"


def decode_tool_choice(reading: Reading, thinking: Thinking, offered: OfferedTools) -> ToolChoice:
    parallel = reading.extension("parallel_tool_calls")
    is_parallel = parallel is None or parallel.boolean()
    node = reading.root.optional("tool_choice")
    choice = ToolChoice() if node is None else _choice(reading, node, offered, is_thinking=thinking.enabled)
    if choice.mode in ("required", "named") and reading.is_strict and thinking.enabled:
        raise InvalidField(_NOT_WHILE_THINKING, field="tool_choice")
    return msgspec.structs.replace(choice, is_parallel=is_parallel)


def _choice(reading: Reading, node: Node, offered: OfferedTools, *, is_thinking: bool) -> ToolChoice:
    if isinstance(node.value, str):
        match node.variant(("none", "auto", "required")):
            case "none":
                return ToolChoice(mode="none")
            case "auto":
                return ToolChoice()
            case _:
                return required_choice(offered.names)
    match node.required("type").string():
        case "function" | "custom":
            return named_choice(_named(node), offered.names)
        case "allowed_tools" if not reading.is_strict:
            return _allowed(node, offered)
        case kind if kind in _SEARCHES and reading.is_strict and is_thinking:
            raise InvalidField(_NOT_WHILE_THINKING, field="tool_choice")
        case kind if kind in _SEARCHES or not reading.is_strict:
            raise UnsupportedFeature(
                f"tool_choice of type `{kind[:64]}` is not supported: this server runs no such tool. Use `auto`.",
                field="tool_choice",
            )
        case _:
            return ToolChoice()


def _allowed(node: Node, offered: OfferedTools) -> ToolChoice:
    is_required = node.required("mode").variant(("auto", "required")) == "required"
    names = [_named(tool) for tool in node.required("tools").items() if tool.required("type").value not in _SEARCHES]
    return allowed_choice("required" if is_required else "auto", names, offered.names)


def _named(node: Node) -> str:
    """The flat name of the tool that a choice names."""
    space = node.optional("namespace")
    return flat_name(node.required("name").string(), None if space is None else space.string())


def decode_response_format(reading: Reading) -> ResponseFormat:
    text = reading.root.optional("text")
    if text is None:
        return ResponseFormat()
    reading.ignore_others(text, ("format",), "text")
    node = text.optional("format")
    if node is None:
        return ResponseFormat()
    kind = node.required("type").variant(("text", "json_object", "json_schema"))
    if kind == "json_schema":
        return read_named_schema(reading, node, "text.format", own=("type",))
    reading.ignore_others(node, ("type",), "text.format")
    return ResponseFormat(kind="json_object" if kind == "json_object" else "text")
