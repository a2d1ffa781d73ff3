"""Request bodies as JSON Schema (draft 2020-12), built from the tables and limits that reading them uses.

Tolerant mode is described: what it accepts. What a schema cannot say (fields that contradict each other, names that
must be unique) is left to the refusals. A test sends what the schemas allow and forbid to the decoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepserve.config import Limits
from deepserve.core.messages import Json
from deepserve.core.sampling import KNOBS

Schema = dict[str, Json]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
ANYTHING: Schema = {}

_MAX_I64 = 2**63 - 1


def body(required: Sequence[str], properties: Mapping[str, Schema], *, ignored: Mapping[str, str]) -> Schema:
    """A whole body. Optional members may be null, which is as if they were absent; unknown ones are ignored.

    ignored: members without effect, and why; those with a path are inside others and not listed.
    """
    members = {name: schema if name in required else or_null(schema) for name, schema in properties.items()}
    members |= {
        name: {"description": f"Ignored: {why}."}
        for name, why in ignored.items()
        if "." not in name and "[" not in name and name not in members
    }
    return {"type": "object", "required": list(required), "properties": members, "additionalProperties": True}


def or_null(schema: Schema) -> Schema:
    match schema:
        case {"type": "null"}:
            return schema
        case {"type": str(kind), **rest} if "enum" not in schema and "const" not in schema:
            return {"type": [kind, "null"], **rest}
        case {}:
            return {"anyOf": [schema, {"type": "null"}]} if schema else schema


def record(properties: Mapping[str, Schema], *, required: Sequence[str] = ()) -> Schema:
    """An object inside a body; like the body, it may have unknown members."""
    members = {name: schema if name in required else or_null(schema) for name, schema in properties.items()}
    return {"type": "object", "required": list(required), "properties": members}


def one_of(values: Sequence[str]) -> Schema:
    return {"type": "string", "enum": list(values)}


def constant(value: str) -> Schema:
    return {"type": "string", "const": value}


def any_of(*schemas: Schema, description: str | None = None) -> Schema:
    told = {} if description is None else {"description": description}
    return {"anyOf": list(schemas), **told}


def list_of(items: Schema, *, at_least: int = 0, at_most: int | None = None) -> Schema:
    schema: Schema = {"type": "array", "items": items}
    if at_least:
        schema["minItems"] = at_least
    if at_most is not None:
        schema["maxItems"] = at_most
    return schema


def integer(low: int, high: int, description: str = "") -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high, **({"description": description} if description else {})}


def model(names: Sequence[str]) -> Schema:
    return one_of(names) | {"description": "Case and blanks around do not matter."}


def knob(name: str) -> Schema:
    """A sampling parameter, from the table of all of them."""
    row = KNOBS[name]
    low = "exclusiveMinimum" if row.low_open else "minimum"
    kind = "integer" if row.integer else "number"
    schema: Schema = {"type": kind, low: row.low, "maximum": row.high, "description": row.meaning}
    if name == "top_k":
        schema |= {"minimum": -1, "description": f"{row.meaning} So does -1."}
    return schema


def seed() -> Schema:
    return integer(-_MAX_I64 - 1, _MAX_I64, "Makes an answer repeatable.")


def stop_strings(limits: Limits) -> Schema:
    # A schema counts characters, the limit is in bytes: what is within the one may still be over the other.
    one: Schema = {"type": "string", "minLength": 1, "maxLength": limits.stop_string_bytes}
    return any_of(one, list_of(one, at_most=limits.stop_strings), description="Ends the answer; not part of it.")


def logit_bias(limits: Limits) -> Schema:
    return {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": limits.logit_bias_entries,
        "description": "Token id to what is added to its logit.",
    }


def user_id(limits: Limits) -> Schema:
    return {"type": "string", "maxLength": limits.user_id_bytes, "description": "Separates end users of one key."}


def tool_name(max_characters: int) -> Schema:
    return {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$", "maxLength": max_characters}


def json_schema(description: str = "A JSON Schema.") -> Schema:
    return {"type": "object", "description": description}


def named_schema(max_name: int) -> dict[str, Schema]:
    """The members with which OpenAI's dialects ask for a schema."""
    return {
        "name": tool_name(max_name),
        "description": STRING,
        "schema": json_schema(),
        "strict": BOOLEAN | {"description": "True: a keyword that cannot be enforced is refused."},
    }
