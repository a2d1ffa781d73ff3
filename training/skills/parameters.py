"""One parameter of a generated tool: its key and schema, its value, and how a request says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from training.phrases import Role, roles
from training.skills.keys import free_keys, key_of, spoken_key
from training.skills.kinds import choice, draw_value, kind_of, said, schema_of
from training.values import Draw


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """Schemas and values are any JSON, hence Any."""

    key: str
    schema: Mapping[str, Any]
    value: Any
    natural: str
    """Said within a sentence: "on Friday"."""
    pair_value: str
    """Said after the key: "date = Friday"."""
    group: str = ""
    is_optional: bool = False
    is_said: bool = True


def _quoted(draw: Draw, text: str, share: float) -> str:
    return draw.frame(('"{}"', "'{}'", '"{}"')).format(text) if draw.chance(share) else text


def role_parameter(draw: Draw, role: Role) -> Parameter:
    """A parameter whose meaning people say without naming its key."""
    value = draw_value(draw, role.kind)
    schema = schema_of(draw, role.kind, role.descriptions, value=value)
    key = key_of(draw, role.keys)
    if draw.chance(0.08):
        key = draw.made_up()  # only the description says what it means
        schema["description"] = draw.frame(role.descriptions)
    return Parameter(
        key=key,
        schema=schema,
        value=value,
        natural=draw.wording(role.said).format(v=said(value)),
        pair_value=_quoted(draw, said(value), {"sentence": 1.0, "title": 0.5}.get(role.kind, 0.0)),
        group=role.group,
    )


def _object_parameter(draw: Draw, key: str) -> Parameter:
    """A parameter that holds two values of its own."""
    properties: dict[str, Any] = {}
    value: dict[str, Any] = {}
    for inner in free_keys(draw, 2):
        kind = draw.frame(("noun", "small", "city", "code", "name", "number"))
        properties[inner], value[inner] = schema_of(draw, kind), draw_value(draw, kind)
    parts = [f"{spoken_key(inner)} {said(one)}" for inner, one in value.items()]
    return Parameter(
        key=key,
        schema={"type": "object", "properties": properties, "required": list(properties)},
        value=value,
        natural=f"with the {spoken_key(key)} of {' and '.join(parts)}",
        pair_value=" and ".join(parts),
    )


_FREE_SAID = (
    "with {k} {v}",
    "with the {k} {v}",
    "whose {k} is {v}",
    "using {k} {v}",
    "and {k} {v}",
    "where the {k} is {v}",
    "with {v} as {k}",
    "and set the {k} to {v}",
    "having {k} {v}",
)


def free_parameter(draw: Draw, key: str) -> Parameter:
    """A parameter that nobody has seen before; the request names its key."""
    if draw.chance(0.06):
        return _object_parameter(draw, key)
    name = spoken_key(key) if draw.chance(0.6) else key
    value: Any
    if draw.chance(0.1):
        value, schema = choice(draw)
    else:
        kind = kind_of(draw, key)
        value = draw_value(draw, kind)
        schema = schema_of(draw, kind, value=value)
    if isinstance(value, bool):
        natural = draw.frame(("with {k}", "with {k}", "including {k}") if value else ("without {k}", "but no {k}"))
        pair_value = draw.frame(("true", "yes", "on", "true") if value else ("false", "no", "off", "false"))
    else:
        natural, pair_value = draw.wording(_FREE_SAID), _quoted(draw, said(value), 0.2)
    return Parameter(
        key=key, schema=schema, value=value, natural=natural.format(k=name, v=pair_value), pair_value=pair_value
    )


def parameters(draw: Draw, count: int, *, free_share: float) -> list[Parameter]:
    """Several parameters with different keys that a request can tell apart; the first is always needed and said."""
    found: list[Parameter] = []
    while len(found) < count:
        if draw.chance(free_share):
            one = free_parameter(draw, free_keys(draw, 1)[0])
        else:
            one = role_parameter(draw, draw.frame(roles()))
        if any(one.key == other.key or (one.group and one.group == other.group) for other in found):
            continue
        is_optional = bool(found) and draw.chance(0.35)
        found.append(msgspec.structs.replace(one, is_optional=is_optional, is_said=not is_optional or draw.chance(0.5)))
    return found


_PAIRS = ("{k} {v}", "{k} {v}", "{k} = {v}", "{k}: {v}", "{k}={v}", "{k} is {v}", "the {k} {v}", "set {k} to {v}")


def pairs(draw: Draw, chosen: Sequence[Parameter]) -> str:
    """Keys and values one after the other."""
    if not chosen:
        return ""
    form, is_spoken = draw.wording(_PAIRS), draw.chance(0.5)
    parts = [form.format(k=spoken_key(one.key) if is_spoken else one.key, v=one.pair_value) for one in chosen]
    if any(isinstance(one.value, list | dict) for one in chosen):
        return draw.frame(("; ", "\n")).join(parts)  # its own commas must not look like the end of it
    return draw.frame((", ", ", ", " and ", "; ", "\n")).join(parts)


def object_schema(draw: Draw, chosen: Sequence[Parameter]) -> dict[str, Any]:
    """The schema of all parameters as different clients write it (any JSON, hence Any)."""
    schema: dict[str, Any] = {"type": "object", "properties": {one.key: dict(one.schema) for one in chosen}}
    if draw.chance(0.9):
        schema["required"] = [one.key for one in chosen if not one.is_optional]
    if draw.chance(0.35):
        schema["additionalProperties"] = False
    return schema


def arguments(chosen: Sequence[Parameter]) -> dict[str, Any]:
    """What the call passes: everything that was said, in the order of the schema (any JSON, hence Any)."""
    return {one.key: one.value for one in chosen if one.is_said}
