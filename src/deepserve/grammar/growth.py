"""By how much one token may lengthen the shortest completion of an answer: it may open what must then be filled.

An estimate from the schemas, in tokens and on the high side: whoever follows an answer looks for a completion at least
whenever so many tokens for each one written could have come in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from deepserve.core.messages import Json
from deepserve.grammar.answer_form import AnswerForm

LEAST_GROWTH: Final = 16
_CALL_TOKENS: Final = 32
_PARAMETER_TOKENS: Final = 20
_MEMBER_TOKENS: Final = 4
_CHARACTERS_A_TOKEN: Final = 2
_MAX_DEPTH: Final = 6
_NAMED: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords whose value maps names to schemas."""
_DEMANDED: Final = frozenset({"$defs", "definitions", "allOf", "enum", "const", "required", "examples", "default"})
"""Keywords with nothing in them that an answer may leave out; definitions count where they are referred to."""
_ENTANGLED: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "if", "not", "dependencies", "dependentRequired", "dependentSchemas"}
)
"""Where one member may demand others: as if nothing of such a schema were written yet."""
_DECIDING: Final = frozenset({"propertyNames", "format", "not"})
_MAX_PARTS: Final = 4_000
_MOST: Final = 4_096


def growth_tokens(form: AnswerForm) -> int:
    """Most tokens by which the shortest completion grows with one more token."""
    growths = [LEAST_GROWTH]
    if form.content is not None:
        growths += _growths(form.content.schema)
        growths.append(len(form.content.pattern))
    for tool in form.tools:
        growths.append(_CALL_TOKENS + len(tool.name) // _CHARACTERS_A_TOKEN + _parameters(tool.parameters))
        growths += [_PARAMETER_TOKENS + growth for growth in _growths(tool.parameters)]
    return min(max(growths), _MOST)


def _growths(root: Json) -> Iterator[int]:
    """What a choice can add: parts that need not be there, branches, long literals. What is required is in any
    completion already."""
    for part in _parts(root):
        yield from (_MEMBER_TOKENS + _least(choice, root, 0) for choice in _choices(part))
        if _ENTANGLED.intersection(part):
            yield _least(part, root, 0)
        values = [*_list(part.get("enum")), part.get("const")]
        yield max(_text(str(value)) for value in values)
        yield sum(len(pattern) for pattern in _patterns(part))


def _choices(part: Mapping[str, Json]) -> Iterator[Json]:
    """Schemas within one that an answer may leave out."""
    required = _list(part.get("required"))
    for keyword, inner in part.items():
        if keyword in _DEMANDED:
            continue
        if keyword in _NAMED and isinstance(inner, Mapping):
            yield from (value for name, value in inner.items() if keyword != "properties" or name not in required)
        else:
            yield from inner if isinstance(inner, list) else [inner]


def has_free_strings(form: AnswerForm) -> bool:
    """Whether nothing that is written within a string decides how the string must end."""
    schemas: list[Json] = [tool.parameters for tool in form.tools]
    if form.content is not None:
        if form.content.kind != "json":
            return False
        schemas.append(form.content.schema)
    parts = [part for schema in schemas for part in _parts(schema)]
    return len(parts) < _MAX_PARTS and not any(map(_decides, parts))


def _decides(part: Mapping[str, Json]) -> bool:
    # A pattern without branches never has more to come after a character than it had before.
    has_branches = any("(" in pattern or "|" in pattern for pattern in _patterns(part))
    return has_branches or bool(_DECIDING.intersection(part))


def _patterns(part: Mapping[str, Json]) -> list[str]:
    names = part.get("patternProperties")
    found = [part.get("pattern"), *(names if isinstance(names, Mapping) else ())]
    return [pattern for pattern in found if isinstance(pattern, str)]


def _parts(schema: Json) -> Iterator[Mapping[str, Json]]:
    pending: list[Json] = [schema]
    for _ in range(_MAX_PARTS):
        if not pending:
            return
        part = pending.pop()
        if isinstance(part, Mapping):
            yield part
            for keyword, inner in part.items():
                if keyword in _NAMED and isinstance(inner, Mapping):
                    pending.extend(inner.values())
                else:
                    pending.append(inner)
        elif isinstance(part, list):
            pending.extend(part)


def _parameters(schema: Json) -> int:
    if not isinstance(schema, Mapping):
        return 0
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, Sequence):
        return sum(_parameters(inner) for inner in _inner(schema))
    return sum(_PARAMETER_TOKENS + _text(name) + _least(properties.get(name), schema, 0) for name in required) + sum(
        _parameters(inner) for inner in _inner(schema)
    )


def _inner(schema: Mapping[str, Json]) -> list[Json]:
    return [inner for keyword in ("allOf", "anyOf", "oneOf") for inner in _list(schema.get(keyword))]


def _least(schema: Json, root: Json, depth: int) -> int:
    """Tokens of the shortest value, roughly."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return 1
    least = 2
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        least += _least(_target(root, reference), root, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        branches = [_least(inner, root, depth + 1) for inner in _list(schema.get(keyword))]
        least += min(branches, default=0)
    least += sum(_least(inner, root, depth + 1) for inner in _list(schema.get("allOf")))
    values = [*_list(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]
    least += min((_text(str(value)) for value in values), default=0)
    properties, required = schema.get("properties"), schema.get("required")
    for name in required if isinstance(required, list) else ():
        inner = properties.get(name) if isinstance(properties, Mapping) else None
        least += _MEMBER_TOKENS + _text(str(name)) + _least(inner, root, depth + 1)
    for keyword, inner in (("minItems", schema.get("items")), ("minProperties", schema.get("additionalProperties"))):
        least += _count(schema.get(keyword)) * (1 + _least(inner, root, depth + 1))
    least += _count(schema.get("minLength")) // _CHARACTERS_A_TOKEN
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        least += len(pattern)
    if "format" in schema:
        least += LEAST_GROWTH
    return min(least, _MOST)


def _text(text: str) -> int:
    return 1 + len(text) // _CHARACTERS_A_TOKEN


def _count(value: Json) -> int:
    return min(int(value), _MOST) if isinstance(value, int | float) and value > 0 else 0


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _target(root: Json, reference: str) -> Json:
    target = root
    for step in reference[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, Mapping) else None
    return target
