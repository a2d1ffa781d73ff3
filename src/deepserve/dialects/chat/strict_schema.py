"""What the vendor refuses in the schemas of strict tools, reproduced for strict mode.

Source: api-docs.deepseek.com/guides/tool_calls (Beta, strict mode) and texts seen in public reports. Tolerant mode
takes all of this: its schemas are checked against the finished arguments instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.core.errors import InvalidField
from deepserve.core.request import Tool
from deepserve.dialects.node import Node

_TYPES = ("object", "string", "number", "integer", "boolean", "array", "null")
_FORMATS = ("email", "hostname", "ipv4", "ipv6", "uuid")
_UNSUPPORTED = (
    *("allOf", "oneOf", "not", "patternProperties"),
    *("minLength", "maxLength", "minItems", "maxItems"),
)


def check_strict_tools(node: Node, tools: Sequence[Tool]) -> None:
    """Nothing when no tool is strict; otherwise all must be, and keep to the supported schemas."""
    if not any(tool.strict for tool in tools):
        return
    if not all(tool.strict for tool in tools):
        raise InvalidField("All functions must have `strict` set to true when one of them has.", field="tools")
    for tool in node.items():
        function = tool.child("function")
        parameters = function.optional("parameters")
        if parameters is None:
            raise InvalidField("An object with no properties is not allowed.", field=function.field)
        if "anyOf" in parameters.mapping():
            raise parameters.refuse("`anyOf` is not allowed at the root")
        _check(parameters)


def _check(schema: Node) -> None:
    members = schema.mapping()
    for keyword in _UNSUPPORTED:
        if keyword in members:
            raise schema.refuse(f"unsupported keyword `{keyword}`")
    for keyword in ("$defs", "$def"):
        if keyword in members:
            for name in schema.child(keyword).keys():  # noqa: SIM118 - a Node, not a dict
                _check(schema.child(keyword).child(name))
    if "$ref" in members:
        return
    if "anyOf" in members:
        for branch in schema.child("anyOf").items():
            _check(branch)
        return
    if "enum" in members and "type" not in members:
        return
    kind_node = schema.required("type")
    if not isinstance(kind_node.value, str):
        raise kind_node.refuse(f"unknown variant, expected one of {', '.join(f'`{name}`' for name in _TYPES)}")
    match kind_node.variant(_TYPES):
        case "object":
            _check_object(schema)
        case "array":
            _check(schema.required("items"))
        case "string" if "format" in members:
            schema.child("format").variant(_FORMATS)


def _check_object(schema: Node) -> None:
    properties = schema.optional("properties")
    if properties is None or not properties.mapping():
        raise InvalidField("An object with no properties is not allowed.", field=schema.field)
    closed = schema.required("additionalProperties")
    if closed.boolean():
        raise closed.refuse("additionalProperties must be false")
    required = schema.required("required").sequence()
    for name in properties.keys():  # noqa: SIM118 - a Node, not a dict
        if name not in required:
            raise schema.refuse(f"property `{name}` must be in `required`")
        _check(properties.child(name))
