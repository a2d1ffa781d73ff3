"""Tools, the choice among them, and the form of the answer: wire to core.

A namespace is a container of tools. The model knows only flat names, so its tools are offered as `namespace__name`,
and a call of one is split again by `ToolNames`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Literal

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.request import ResponseFormat, ServerTool, Thinking, Tool, ToolChoice
from deepserve.dialects import tool_choice
from deepserve.dialects.answer_form import read_named_schema, read_parameters
from deepserve.dialects.deepseek import MAX_TOOL_NAME
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.responses.server_tools import chosen_name, decode_server_tool
from deepserve.dialects.tool_choice import allowed_choice, decode_allowed_mode, named_choice
from deepserve.dialects.tool_name import read_tool_name


class ToolName(msgspec.Struct, frozen=True, kw_only=True):
    """What a client calls a tool."""

    name: str
    namespace: str | None = None
    kind: Literal["function", "custom"] = "function"


ToolNames = Mapping[str, ToolName]
"""The flat name, which the model sees and writes -> the client's."""


class OfferedTools(msgspec.Struct, frozen=True, kw_only=True):
    """tools: the client's functions. server_tools: what the server is to run."""

    tools: tuple[Tool, ...]
    names: ToolNames
    server_tools: tuple[ServerTool, ...] = ()


def flat_name(name: str, namespace: str | None) -> str:
    """The vendor joins namespaces the same way."""
    return f"{namespace}__{name}" if namespace else name


def decode_tools(reading: Reading) -> OfferedTools:
    node = reading.root.optional("tools")
    tools: list[Tool] = []
    names: dict[str, ToolName] = {}
    server_tools: list[ServerTool] = []
    for tool, name in () if node is None else _offered(reading, node, server_tools):
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
    if len({(tool.tool, tool.name) for tool in server_tools}) < len(server_tools):
        raise InvalidField("A tool of the server's is declared twice.", field="tools")
    return OfferedTools(tools=tuple(tools), names=names, server_tools=tuple(server_tools))


def _offered(reading: Reading, node: Node, server_tools: list[ServerTool]) -> Iterator[tuple[Tool, ToolName]]:
    """The client's tools; those of the server's are put into the list."""
    for item in node.items():
        kind = item.required("type").string()
        server_tool = decode_server_tool(reading, item, kind)
        if server_tool is not None:
            server_tools.append(server_tool)
            continue
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
        reading.ignore(f"tools[].{kind[:64]}")
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
    tool = Tool(
        name=flat,
        description=description,
        parameters=None if parameters is None else read_parameters(reading, parameters, flat, is_strict=is_strict_tool),
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
    names = (*offered.names, *(tool.name for tool in offered.server_tools))
    read_object = partial(_choice_in_object, reading, names)
    return tool_choice.decode_tool_choice(reading, thinking, names, read_object=read_object)


def _choice_in_object(reading: Reading, names: Collection[str], node: Node) -> ToolChoice:
    kind = node.required("type").string()
    if kind == "allowed_tools" and not reading.is_strict:
        return allowed_choice(decode_allowed_mode(node), _allowed(node, names), names)
    if kind in ("function", "custom") or chosen_name(kind) is not None:
        return named_choice(_named(node), names)
    if reading.is_strict:
        return ToolChoice()
    raise UnsupportedFeature(
        f"tool_choice of type `{kind[:64]}` is not supported: name a tool of `tools`.", field="tool_choice"
    )


def _allowed(node: Node, offered: Collection[str]) -> Iterator[str]:
    """The names in a list; tools of the server's that are not offered may be listed all the same."""
    for tool in node.required("tools").items():
        name = _named(tool)
        if name in offered or chosen_name(tool.required("type").string()) is None:
            yield name


def _named(node: Node) -> str:
    """The flat name of the tool that a choice names; tools of the server's are named by their type."""
    own = chosen_name(node.required("type").string())
    if own is not None:
        return own
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
