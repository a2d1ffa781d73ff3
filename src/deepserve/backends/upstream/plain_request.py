"""What only we know of tools, as every service knows it: free-text tools and namespaces become plain functions."""

from __future__ import annotations

import msgspec

from deepserve.core.messages import Message, Part, ToolCall
from deepserve.core.request import Request, Tool
from deepserve.prompt.tool_markup import CUSTOM_PARAMETERS, tool_name


def plain_request(request: Request) -> Request:
    """The same question; who asked knows how to read the calls, for our own model is asked the same way."""
    if not request.tools and not any(message.tool_calls for message in request.messages):
        return request
    return msgspec.structs.replace(
        request,
        tools=tuple(_function(tool) for tool in request.tools),
        messages=tuple(_message(message) for message in request.messages),
    )


def _function(tool: Tool) -> Tool:
    if tool.kind == "function" and tool.namespace is None:
        return tool
    parameters = tool.parameters
    if tool.kind == "custom" and parameters is None:
        parameters = CUSTOM_PARAMETERS
    return msgspec.structs.replace(
        tool, name=tool_name(tool.name, tool.namespace), namespace=None, kind="function", parameters=parameters
    )


def _message(message: Message) -> Message:
    if all(call.kind == "function" and call.namespace is None for call in message.tool_calls):
        return message
    return msgspec.structs.replace(message, parts=tuple(_part(part) for part in message.parts))


def _part(part: Part) -> Part:
    if not isinstance(part, ToolCall):
        return part
    arguments = part.arguments
    if part.kind == "custom":
        arguments = msgspec.json.encode({"input": arguments}).decode()
    name = tool_name(part.name, part.namespace)
    return msgspec.structs.replace(part, name=name, arguments=arguments, namespace=None, kind="function")
