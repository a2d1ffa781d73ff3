"""Tools and the choice among them: wire to core."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.request import ServerTool, Thinking, Tool, ToolChoice
from deepserve.dialects.answer_form import read_parameters
from deepserve.dialects.deepseek import MAX_TOOL_NAME
from deepserve.dialects.messages.server_tools import decode_mcp_servers, decode_server_tool, kind_of_type
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading
from deepserve.dialects.tool_choice import required_choice
from deepserve.dialects.tool_name import read_tool_name

_MEMBERS = ("type", "name", "description", "input_schema", "strict")
_TOOL_SEARCH = "tool_search_tool_"


def decode_tools(reading: Reading) -> tuple[tuple[Tool, ...], tuple[ServerTool, ...]]:
    """The functions that the client offers, and the tools that the server is to run."""
    mcp_servers = decode_mcp_servers(reading)
    node = reading.root.optional("tools")
    if node is None:
        return (), mcp_servers
    num_tools = len(node.sequence())
    if num_tools > reading.limits.tools:
        raise InvalidField(
            f"Invalid 'tools': array too long. Expected an array with maximum length {reading.limits.tools}, "
            f"but got an array with length {num_tools} instead.",
            field="tools",
        )
    tools: list[Tool] = []
    server_tools: list[ServerTool] = []
    for item in node.items():
        kind = item.optional("type")
        declared = "custom" if kind is None else kind.string()
        server_tool = kind_of_type(declared)
        if server_tool is not None:
            server_tools.append(decode_server_tool(reading, item, server_tool))
        elif declared.startswith(_TOOL_SEARCH):
            reading.ignore(f"tools[].{declared[:64]}")
        else:
            tools.append(_function(reading, item, declared))
    names = [tool.name for tool in tools] + [tool.name for tool in server_tools]
    if len(set(names)) < len(names):
        raise InvalidField("tools: Tool names must be unique.", field="tools")
    return tuple(tools), (*server_tools, *mcp_servers)


def _function(reading: Reading, node: Node, declared: str) -> Tool:
    schema = node.optional("input_schema")
    if declared != "custom":
        if schema is None:
            raise UnsupportedFeature(
                f"Tools of type `{declared[:64]}` are not supported: the model does not know them. Offer a tool with "
                "a description and an `input_schema`.",
                field=f"{node.field}.type",
            )
        reading.ignore("tools[].type")
    if schema is None and reading.is_strict:
        raise node.missing("input_schema")
    reading.ignore_others(node, _MEMBERS, "tools[]")
    description, strict = node.optional("description"), node.optional("strict")
    is_strict_tool = strict is not None and strict.boolean()
    if is_strict_tool and reading.is_strict:  # the vendor's service does not know the flag
        reading.ignore("tools[].strict")
        is_strict_tool = False
    name = read_tool_name(node.required("name"), MAX_TOOL_NAME)
    return Tool(
        name=name,
        description="" if description is None else description.string(),
        parameters=None if schema is None else read_parameters(reading, schema, name, is_strict=is_strict_tool),
        strict=is_strict_tool,
    )


def decode_tool_choice(reading: Reading, thinking: Thinking, tools: Sequence[Tool | ServerTool]) -> ToolChoice:
    """disable_parallel_tool_use is honoured, where the vendor ignores it; strict mode ignores it too."""
    node = reading.root.optional("tool_choice")
    if node is None:
        return ToolChoice()
    kind = node.required("type").variant(("auto", "any", "tool", "none"))
    known = ("type", "name") if reading.is_strict else ("type", "name", "disable_parallel_tool_use")
    reading.ignore_others(node, known, "tool_choice")
    single = None if reading.is_strict else node.optional("disable_parallel_tool_use")
    is_parallel = single is None or not single.boolean()
    if kind in ("auto", "none"):
        return ToolChoice(mode="none" if kind == "none" else "auto", is_parallel=is_parallel)
    offered = [tool.name for tool in tools]
    if kind == "tool" and (name := node.required("name").string()) not in offered:
        raise InvalidField(f"tool_choice.name: Tool '{name[:64]}' not found in provided tools", field="tool_choice")
    choice = required_choice(offered) if kind == "any" else ToolChoice(mode="named", names=(name,))
    if reading.is_strict and thinking.enabled:
        raise InvalidField("Thinking mode does not support this tool_choice", field="tool_choice")
    return msgspec.structs.replace(choice, is_parallel=is_parallel)
