"""Schemas of typical sizes, as parameters of a tool, for measuring what compiling them costs."""

from __future__ import annotations

import random
from collections.abc import Mapping

from deepserve.core.messages import Json

_SEED = 7
_OWNERS = ("user", "order", "item", "meta", "geo", "auth")
_WORDS = ("id", "name", "state", "count", "note")


def tool_schemas() -> Mapping[str, Json]:
    """Name -> schema: small, medium, large, with formats and bounds, recursive."""
    draw = random.Random(_SEED)
    leaf = {"label": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}
    return {
        "small": _closed({"location": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}}),
        "medium": _nested(draw, num_members=5, depth=1),
        "large": _nested(draw, num_members=28, depth=3),
        "formats and bounds": _closed(
            {
                "when": {"type": "string", "format": "date-time"},
                "mail": {"type": "string", "format": "email"},
                "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4,8}$"},
                "amount": {"type": "integer", "minimum": 3, "maximum": 4711},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 64}, "minItems": 1, "maxItems": 20},
            }
        ),
        "recursive": {"$defs": {"node": _closed(leaf)}, **_closed({"root": {"$ref": "#/$defs/node"}})},
    }


def _closed(members: Mapping[str, Json]) -> dict[str, Json]:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _nested(draw: random.Random, *, num_members: int, depth: int) -> dict[str, Json]:
    return _closed(
        {f"{draw.choice(_OWNERS)}_{draw.choice(_WORDS)}_{i}": _member(draw, depth) for i in range(num_members)}
    )


def _member(draw: random.Random, depth: int) -> Json:
    kinds: list[Json] = [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"enum": [f"option_{draw.randrange(1000)}" for _ in range(6)]},
        {"type": "array", "items": {"type": "string"}},
    ]
    kind = draw.randrange(len(kinds) + (2 if depth else 0))
    return kinds[kind] if kind < len(kinds) else _nested(draw, num_members=6, depth=depth - 1)
