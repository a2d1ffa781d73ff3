"""Tools, the choice among them, and the form of the answer: wire to core and back."""

from __future__ import annotations

from typing import Literal

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json, Message, Text
from deepserve.core.request import ResponseFormat, Thinking, Tool, ToolChoice
from deepserve.dialects.chat.reading import ChatReading
from deepserve.dialects.chat.strict_schema import check_strict_tools
from deepserve.dialects.node import Node
from deepserve.dialects.tool_name import read_tool_name


def decode_tools(reading: ChatReading) -> tuple[Tool, ...]:
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
    tools = tuple(_tool(reading, tool) for tool in node.items())
    if len({tool.name for tool in tools}) < num_tools:
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
    strict = function.optional("strict")
    return Tool(
        name=name,
        description="" if description is None else description.string(),
        parameters=None if parameters is None else parameters.mapping(),
        strict=strict is not None and strict.boolean(),
    )


def decode_tool_choice(reading: ChatReading, thinking: Thinking, tools: tuple[Tool, ...]) -> ToolChoice:
    parallel = reading.extension("parallel_tool_calls")
    is_parallel = parallel is None or parallel.boolean()
    node = reading.root.optional("tool_choice")
    if node is None:
        return ToolChoice(is_parallel=is_parallel)
    if isinstance(node.value, str):
        mode = node.variant(("none", "auto", "required"))
        if mode != "required":
            return ToolChoice(mode="none" if mode == "none" else "auto", is_parallel=is_parallel)
    else:
        kind = node.required("type")
        if isinstance(kind.value, str) and kind.value != "function" and not reading.is_strict:
            raise UnsupportedFeature(
                f"tool_choice of type `{kind.value[:64]}` is not supported: use `auto` or `none`.", field=kind.field
            )
        kind.variant(("function",))
        name = node.required("function").required("name").string()
        if name not in [tool.name for tool in tools]:
            raise InvalidField(f"tool_choice names `{name[:64]}`, which is not in tools.", field="tool_choice")
    if reading.is_strict and thinking.enabled:
        raise InvalidField("Thinking mode does not support this tool_choice", field="tool_choice")
    raise UnsupportedFeature(
        "This tool_choice is not supported: this server does not force a tool call yet. Use `auto`, and ask for "
        "the call in the prompt.",
        field="tool_choice",
    )


def decode_response_format(reading: ChatReading, messages: tuple[Message, ...]) -> ResponseFormat:
    node = reading.root.optional("response_format")
    if node is None:
        return ResponseFormat()
    kind: Literal["text", "json_object"]
    match node.required("type").variant(("text", "json_object", "json_schema")):
        case "text":
            kind = "text"
        case "json_object" if node.optional("schema") is not None and not reading.is_strict:
            raise UnsupportedFeature(
                "`response_format.schema` is not supported: this server does not enforce a schema yet. Leave it out "
                "and describe the schema in the prompt.",
                field="response_format.schema",
            )
        case "json_object":
            kind = "json_object"
        case _ if reading.is_strict:
            raise InvalidField("This response_format type is unavailable now", field="response_format.type")
        case _:
            raise UnsupportedFeature(
                "response_format of type `json_schema` is not supported: this server does not enforce a schema "
                "yet. Use `json_object` and describe the schema in the prompt, or a function with `strict: true`, "
                "whose arguments are checked.",
                field="response_format.type",
            )
    if kind == "json_object" and reading.is_strict and not any(map(_says_json, messages)):
        raise InvalidField(
            "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.",
            field="response_format",
        )
    reading.ignore_others(node, ("type",), "response_format")
    return ResponseFormat(kind=kind)


def _says_json(message: Message) -> bool:
    texts = [message.text]
    texts += [part.text for result in message.tool_results for part in result.content if isinstance(part, Text)]
    return "json" in "".join(texts).lower()


def encode_tool(tool: Tool) -> Json:
    function: dict[str, Json] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}
