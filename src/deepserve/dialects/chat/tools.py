"""Tools and the choice among them: wire to core and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.core.request import Thinking, Tool, ToolChoice
from deepserve.dialects import tool_choice
from deepserve.dialects.answer_form import read_parameters
from deepserve.dialects.chat.reading import ChatReading
from deepserve.dialects.chat.strict_schema import check_strict_tools
from deepserve.dialects.node import Node
from deepserve.dialects.tool_choice import allowed_choice, decode_allowed_mode, named_choice
from deepserve.dialects.tool_name import read_tool_name


def decode_tools(reading: ChatReading, *, is_own: Callable[[Node], bool] | None = None) -> tuple[Tool, ...]:
    """is_own: whether an entry is a tool that the service runs itself, which its own modules read."""
    node = reading.root.optional("tools")
    if node is None:
        return ()
    num_tools = len(node.sequence())
    if num_tools == 0 and reading.is_strict:
        raise InvalidField("Invalid 'tools': empty array. Expected an array with minimum length 1.", field="tools")
    if num_tools > reading.limits.tools:
        raise InvalidField(
            f"Invalid 'tools': array too long. Expected an array with maximum length {reading.limits.tools}, "
            f"but got an array with length {num_tools} instead.",
            field="tools",
        )
    tools = tuple(_tool(reading, tool) for tool in node.items() if is_own is None or not is_own(tool))
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidField("Tool names must be unique.", field="tools")
    if reading.is_strict and reading.is_beta:
        check_strict_tools(node, tools)
    return tools


def _tool(reading: ChatReading, node: Node) -> Tool:
    kind = node.required("type")
    if kind.value != "function" and isinstance(kind.value, str) and not reading.is_strict:
        raise UnsupportedFeature(
            f"Tools of type `{kind.value[:64]}` are not supported: offer a `function`.", field=kind.field
        )
    kind.variant(("function",))
    function = node.required("function")
    reading.ignore_others(node, ("type", "function"), "tools[]")
    reading.ignore_others(function, ("name", "description", "parameters", "strict"), "tools[].function")
    name = read_tool_name(function.required("name"), reading.flavour.max_tool_name)
    description, parameters = function.optional("description"), function.optional("parameters")
    is_strict_tool = _is_strict(reading, function)
    return Tool(
        name=name,
        description="" if description is None else description.string(),
        parameters=None if parameters is None else read_parameters(reading, parameters, name, is_strict=is_strict_tool),
        strict=is_strict_tool,
    )


def _is_strict(reading: ChatReading, function: Node) -> bool:
    """Away from its beta address the vendor takes the flag without effect; strict mode does the same."""
    node = function.optional("strict")
    if node is None or not node.boolean():
        return False
    if reading.is_strict and not reading.is_beta:
        reading.ignore("tools[].function.strict")
        return False
    return True


def decode_tool_choice(reading: ChatReading, thinking: Thinking, offered: Sequence[str]) -> ToolChoice:
    """offered: the names of all tools."""
    read_object = partial(_choice_in_object, reading, offered)
    return tool_choice.decode_tool_choice(reading, thinking, offered, read_object=read_object)


def _choice_in_object(reading: ChatReading, offered: Sequence[str], node: Node) -> ToolChoice:
    known = ("function",) if reading.is_strict else ("function", "allowed_tools")
    if node.required("type").variant(known) == "function":
        return named_choice(node.required("function").required("name").string(), offered)
    # Written flat, as in the Responses dialect, by some clients.
    allowed = node.optional("allowed_tools") or node
    names: list[str] = []
    for tool in allowed.required("tools").items():
        tool.required("type").variant(("function",))
        names.append((tool.optional("function") or tool).required("name").string())
    return allowed_choice(decode_allowed_mode(allowed), names, offered)


def encode_tool(tool: Tool) -> Json:
    function: dict[str, Json] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def encode_tool_choice(choice: ToolChoice) -> Json:
    """None where the choice is what a request means that says nothing."""
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.names[0]}}
    if choice.names and choice.mode != "none":
        tools = [{"type": "function", "function": {"name": name}} for name in choice.names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}
    return None if choice.mode == "auto" else choice.mode
