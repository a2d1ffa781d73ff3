"""DSML, the markup in which the model reads and writes tools: the tools section and the calls in past turns.

Values are written raw, nothing can be escaped. What keeps a value that spells a closing tag from being one is that
our tags contain a special token and text never does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from deepserve.core.messages import Json, ToolCall
from deepserve.core.request import Tool
from deepserve.prompt.json_text import read_json, write_json
from deepserve.prompt.profile import Profile
from deepserve.prompt.segments import SegmentWriter
from deepserve.prompt.special_tokens import DSML

CALLS_OPEN: Final = f"<{DSML}tool_calls>"
CALLS_CLOSE: Final = f"</{DSML}tool_calls>"
INVOKE_OPEN: Final = f"<{DSML}invoke"
INVOKE_CLOSE: Final = f"</{DSML}invoke>"
PARAMETER_OPEN: Final = f"<{DSML}parameter"
PARAMETER_CLOSE: Final = f"</{DSML}parameter>"

FORCED_CALL: Final = f"\n\n{CALLS_OPEN}\n"
"""What the answer is made to begin with when a call is demanded."""

CUSTOM_PARAMETERS: Final[Mapping[str, Json]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}
"""A custom tool takes free text: to the model it is a function with one string."""


def tool_name(name: str, namespace: str | None) -> str:
    """The name the model sees and writes; the vendor joins namespaces the same way."""
    return f"{namespace}__{name}" if namespace else name


def write_tools_section(writer: SegmentWriter, tools: Sequence[Tool], profile: Profile) -> None:
    """Append the section that offers `tools`."""
    writer.markup(profile.tools_head)
    writer.text("\n".join(_tool_line(tool) for tool in tools))
    writer.markup(profile.tools_tail)


def write_calls(writer: SegmentWriter, calls: Sequence[ToolCall]) -> None:
    """Append the calls of a past turn."""
    writer.markup(FORCED_CALL)
    for index, call in enumerate(calls):
        writer.markup(("\n" if index else "") + INVOKE_OPEN)
        writer.text(f' name="{tool_name(call.name, call.namespace)}">\n')
        for name, value in _arguments(call).items():
            is_string = isinstance(value, str)
            writer.markup(PARAMETER_OPEN)
            writer.text(f' name="{name}" string="{"true" if is_string else "false"}">')
            writer.text(value if is_string else write_json(value))
            writer.markup(PARAMETER_CLOSE + "\n")
        writer.markup(INVOKE_CLOSE)
    writer.markup("\n" + CALLS_CLOSE)


def _tool_line(tool: Tool) -> str:
    parameters: Mapping[str, Json] = tool.parameters if tool.parameters is not None else {}
    if tool.kind == "custom" and tool.parameters is None:
        parameters = CUSTOM_PARAMETERS
    shown = _ordered_schema(parameters) if tool.strict else parameters
    name = tool_name(tool.name, tool.namespace)
    return write_json({"name": name, "description": tool.description, "parameters": dict(shown)})


_SCHEMA_ORDER: Final = (
    "type",
    "properties",
    "additionalProperties",
    "required",
    "items",
    "anyOf",
    "$ref",
    "description",
    "pattern",
    "format",
    "enum",
    "const",
    "default",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "$def",
    "$defs",
)


def _ordered_schema(schema: Mapping[str, Json]) -> Mapping[str, Json]:
    """A strict tool's schema with its keywords in the vendor's order; unlike there, none is left out."""
    known = [key for key in _SCHEMA_ORDER if key in schema]
    ordered: dict[str, Json] = {}
    for key in (*known, *(key for key in schema if key not in _SCHEMA_ORDER)):
        value = schema[key]
        if key in ("properties", "$def", "$defs") and isinstance(value, Mapping):
            value = {name: _ordered_schema(item) if isinstance(item, Mapping) else item for name, item in value.items()}
        elif key == "anyOf" and isinstance(value, list):
            value = [_ordered_schema(item) if isinstance(item, Mapping) else item for item in value]
        elif key == "items" and isinstance(value, Mapping):
            value = _ordered_schema(value)
        ordered[key] = value
    return ordered


def _arguments(call: ToolCall) -> Mapping[str, Json]:
    """The call's arguments as named values; text that is no JSON object becomes one argument of its own."""
    if call.kind == "custom":
        return {"input": call.arguments}
    try:
        value = read_json(call.arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": call.arguments}
