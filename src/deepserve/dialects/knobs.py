"""A sampling parameter of the request body, within its range."""

from __future__ import annotations

from deepserve.core.errors import InvalidField
from deepserve.core.sampling import KNOBS
from deepserve.dialects.node import Node

_RANGE_TEXTS = {"top_p": "(0, 1.0]"}  # the vendor writes this one bound with a decimal


def read_knob(root: Node, name: str) -> float | None:
    """The member `name` of the body. Raises InvalidField, in the vendor's words where it is out of range."""
    node = root.optional(name)
    if node is None:
        return None
    knob = KNOBS[name]
    value = node.integer("u32") if knob.integer else node.number()
    if not knob.admits(value):
        bounds = f"{'(' if knob.low_open else '['}{knob.low:g}, {knob.high:g}]"
        raise InvalidField(
            f"Invalid {name} value, the valid range of {name} is {_RANGE_TEXTS.get(name, bounds)}", field=name
        )
    return value
