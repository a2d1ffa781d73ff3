"""The name of a function that a client offers."""

from __future__ import annotations

import re

from deepserve.core.errors import InvalidField
from deepserve.dialects.node import Node

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")


def read_tool_name(node: Node, max_characters: int) -> str:
    """Raises InvalidField, in the vendor's words."""
    name = node.string()
    if not _TOOL_NAME.fullmatch(name):
        raise InvalidField(
            f"Invalid '{node.field}': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
            field=node.field,
        )
    if len(name) > max_characters:
        raise InvalidField(
            f"Invalid '{node.field}': string too long. Expected a string with maximum length "
            f"{max_characters}, but got a string with length {len(name)} instead.",
            field=node.field,
        )
    return name
