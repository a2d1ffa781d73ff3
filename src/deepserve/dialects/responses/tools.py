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
from deepserve.dialects.deepseek import MAX_TOOL_NAME
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.tool_name import read_tool_name

_SEARCHES = ("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11")


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
    tool = Tool(
        name=flat,
        description=description,
        parameters=None if parameters is None else parameters.mapping(),
        strict=strict is not None and strict.boolean(),
    )
    yield tool, ToolName(name=name, namespace=namespace)


def _shown_format(reading: Reading, node: Node | None) -> str:
    """A grammar is told to the model, since nothing enforces it yet."""
    if node is None or node.required("type").string() != "grammar":
        return ""
    reading.ignore("tools[].format")
    syntax, definition = node.required("syntax").string(), node.required("definition").string()
    return f"\n\nThe input follows this {syntax} grammar:\n{definition}"


def decode_tool_choice(reading: Reading, thinking: Thinking, offered: OfferedTools) -> tuple[ToolChoice, OfferedTools]:
    """The choice, and the tools that are left of those offered (`allowed_tools` leaves out the others)."""
    parallel = reading.extension("parallel_tool_calls")
    is_parallel = parallel is None or parallel.boolean()
    node = reading.root.optional("tool_choice")
    auto = ToolChoice(is_parallel=is_parallel)
    if node is None:
        return auto, offered
    if isinstance(node.value, str):
        mode = node.variant(("none", "auto", "required"))
        if mode != "required":
            return ToolChoice(mode="none" if mode == "none" else "auto", is_parallel=is_parallel), offered
    else:
        kind = node.required("type").string()
        if kind == "allowed_tools" and not reading.is_strict:
            allowed = _allowed(node, offered)
            if node.required("mode").variant(("auto", "required")) == "auto":
                return auto, allowed
        elif kind in ("function", "custom"):
            _named(node, offered)
        elif kind not in _SEARCHES and reading.is_strict:
            return auto, offered
    if reading.is_strict and thinking.enabled:
        raise InvalidField("Thinking mode does not support this tool_choice", field="tool_choice")
    raise UnsupportedFeature(
        "This tool_choice is not supported: this server does not force a tool call yet. Use `auto`, and ask for "
        "the call in the prompt.",
        field="tool_choice",
    )


def _allowed(node: Node, offered: OfferedTools) -> OfferedTools:
    wanted = [
        _named(tool, offered) for tool in node.required("tools").items() if tool.required("type").value not in _SEARCHES
    ]
    return OfferedTools(
        tools=tuple(tool for tool in offered.tools if tool.name in wanted),
        names={flat: name for flat, name in offered.names.items() if flat in wanted},
    )


def _named(node: Node, offered: OfferedTools) -> str:
    """The flat name of the tool that a choice names. Raises InvalidField where it is not offered."""
    space = node.optional("namespace")
    flat = flat_name(node.required("name").string(), None if space is None else space.string())
    if flat not in offered.names:
        raise InvalidField(f"tool_choice names `{flat[:64]}`, which is not in tools.", field="tool_choice")
    return flat


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
        raise UnsupportedFeature(
            "text.format of type `json_schema` is not supported: this server does not enforce a schema yet. Use "
            "`json_object` and describe the schema in the prompt, or a function with `strict: true`, whose arguments "
            "are checked.",
            field="text.format.type",
        )
    reading.ignore_others(node, ("type",), "text.format")
    return ResponseFormat(kind="json_object" if kind == "json_object" else "text")
