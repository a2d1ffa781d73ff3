"""One field to be extracted: its key and schema, its value, and how a text says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from training.phrases import Record, records
from training.skills.keys import free_keys, key_of, spoken_key
from training.skills.kinds import choice, draw_value, kind_of, said, schema_of
from training.values import Draw


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """Schemas and values are any JSON, hence Any."""

    key: str
    schema: Mapping[str, Any]
    value: Any
    """None where the text does not say it."""
    spoken: str
    """The key as the text says it."""
    text: str
    """The value as the text says it."""
    is_nullable: bool = False

    @property
    def kind(self) -> str:
        """The JSON type without null."""
        return str(self.schema["type"])


def free_field(draw: Draw, key: str) -> Field:
    """A field of any meaning, which the text names by its key."""
    value: Any
    if draw.chance(0.1):
        value, schema = choice(draw)
    else:
        kind = "digits" if draw.chance(0.04) else kind_of(draw, key)
        value = draw_value(draw, kind)
        schema = schema_of(draw, kind, value=value)
    text = said(value)
    if isinstance(value, bool):
        text = draw.frame(("true", "yes", "true", "on") if value else ("false", "no", "false", "off"))
    return Field(
        key=key,
        schema=schema,
        value=value,
        spoken=spoken_key(key) if draw.chance(0.7) else key,
        text=text,
    )


def free_fields(draw: Draw, count: int) -> list[Field]:
    """Several with different keys."""
    return [free_field(draw, key) for key in free_keys(draw, count)]


def absent(draw: Draw, key: str) -> Field:
    """A field that the text does not say: its value is null."""
    return Field(
        key=key,
        schema=schema_of(draw, kind_of(draw, key)),
        value=None,
        spoken=spoken_key(key),
        text="",
        is_nullable=True,
    )


def record_fields(draw: Draw, count: int) -> tuple[str, list[Field]]:
    """A text that says several things in its own words, and fields for some of them."""
    record: Record = draw.frame(records())
    values = {slot.keys[0]: draw_value(draw, slot.kind) for slot in record.slots}
    text = draw.wording(record.frames).format_map({name: said(value) for name, value in values.items()})
    fields: list[Field] = []
    slots = list(record.slots)
    draw.random.shuffle(slots)
    for slot in slots[:count]:
        key = key_of(draw, slot.keys)
        if any(key == other.key for other in fields):
            continue
        value = values[slot.keys[0]]
        fields.append(
            Field(
                key=key,
                schema=schema_of(draw, slot.kind, slot.descriptions, value=value),
                value=value,
                spoken=spoken_key(key),
                text=said(value),
            )
        )
    return text, fields


def value_schema(draw: Draw, field: Field) -> dict[str, Any]:
    """The schema of a field, null included where that may be its value (any JSON, hence Any)."""
    schema = dict(field.schema)
    if not field.is_nullable:
        return schema
    if draw.chance(0.5) or "enum" in schema:
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        return {**schema, "type": [schema["type"], "null"]}
    description = {"description": schema.pop("description")} if "description" in schema else {}
    return {"anyOf": [schema, {"type": "null"}], **description}


def object_schema(draw: Draw, fields: list[Field]) -> dict[str, Any]:
    """The schema of an answer as different clients write it (any JSON, hence Any)."""
    properties = {field.key: value_schema(draw, field) for field in fields}
    if draw.chance(0.25):
        properties = {
            key: {"title": spoken_key(key).title(), **schema}
            if draw.chance(0.5)
            else schema | {"title": spoken_key(key).title()}
            for key, schema in properties.items()
        }
    required = list(properties)
    if draw.chance(0.3):
        schema: dict[str, Any] = {"properties": properties, "required": required}
        if draw.chance(0.6):
            schema["title"] = draw.made_up().capitalize()
        schema["type"] = "object"
    else:
        schema = {"type": "object", "properties": properties, "required": required}
    if draw.chance(0.45):
        schema["additionalProperties"] = False
    return schema


def described(draw: Draw, fields: list[Field]) -> str:
    """The keys as a prompt lists them; what cannot be guessed from the text, such as a list, is always told."""
    quote = draw.frame(("", "'", '"', "`", ""))
    tells_types = draw.chance(0.4)
    parts = []
    for field in fields:
        notes = []
        if tells_types or field.kind in ("array", "boolean") or (field.text.isdigit() and field.kind == "string"):
            notes.append("list of strings" if field.kind == "array" else field.kind)
        if "enum" in field.schema and (tells_types or draw.chance(0.5)):
            notes = ["one of " + ", ".join(field.schema["enum"])]
        if field.is_nullable:
            notes.append(draw.frame(("null if missing", "or null", "null if not said")))
        parts.append(f"{quote}{field.key}{quote}" + (f" ({', '.join(notes)})" if notes else ""))
    form = draw.between(0, 3)
    if form == 0:
        return "\n" + "\n".join(f"- {part}" for part in parts)
    if form == 1 and len(parts) > 1:
        return ", ".join(parts[:-1]) + " and " + parts[-1]
    return ", ".join(parts)
