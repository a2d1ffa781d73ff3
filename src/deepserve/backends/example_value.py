"""A small value of the kind that a JSON schema asks for, for answers that no model writes.

It follows types, references, bounds and what is required. Patterns, formats and conditions are beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.core.messages import Json

_MAX_DEPTH = 8
_TEXT = "example"


def example_value(schema: Json) -> Json:
    return _example(schema, schema, 0)


def _example(schema: Json, root: Json, depth: int) -> Json:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return _TEXT
    match schema:
        case {"const": value}:
            return value
        case {"enum": [value, *_]}:
            return value
        case {"$ref": str(reference)}:
            return _example(_target(root, reference), root, depth + 1)
        case {"anyOf": [first, *_]} | {"oneOf": [first, *_]}:
            return _example(first, root, depth + 1)
        case {"allOf": [*parts]}:
            merged = {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}
            own = {name: value for name, value in schema.items() if name != "allOf"}
            return _example(merged | own, root, depth + 1)
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            num_items = schema.get("minItems", 0)
            num_items = num_items if isinstance(num_items, int) else 0
            return [_example(schema.get("items", {}), root, depth + 1) for _ in range(min(num_items, _MAX_DEPTH))]
        case "object":
            return _members(schema, root, depth)
        case None if "properties" in schema:
            return _members(schema, root, depth)
        case _:
            return _text(schema)


def _members(schema: Mapping[str, Json], root: Json, depth: int) -> dict[str, Json]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return {}
    return {name: _example(properties.get(name), root, depth + 1) for name in required if isinstance(name, str)}


def _number(schema: Mapping[str, Json]) -> Json:
    low = schema.get("minimum", 1)
    high = schema.get("maximum", low)
    return min(low, high) if isinstance(low, int | float) and isinstance(high, int | float) else 1


def _text(schema: Mapping[str, Json]) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", len(_TEXT))
    if not isinstance(least, int) or not isinstance(most, int):
        return _TEXT
    return _TEXT.ljust(min(least, 1000), "x")[: max(most, least)]


def _target(root: Json, reference: str) -> Json:
    """What `#/$defs/name` means; nothing in particular where it leads nowhere."""
    target = root
    for step in reference.removeprefix("#").split("/")[1:]:
        target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
    return target
