"""Keywords that speak about an object's members together: how many, of which names, and those that nothing declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Final

import jsonschema_rs

from deepserve.core.messages import Json
from deepserve.core.regular_expression import LINEAR_ENGINE
from deepserve.core.schema_tree import Place, SchemaDocument
from deepserve.grammar.unenforceable import Unenforceable

CONDITIONS: Final = ("anyOf", "oneOf", "not", "if", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef")
"""Keywords under which it depends on the value what is declared."""

_MAX_ALTERNATIVES: Final = 64
_MAX_DEPTH: Final = 8
_NO_OBJECT: Final = ("null", "boolean", "number", "string", "array")


def member_count(schema: Mapping[str, Json], keyword: str, count: int, pointer: str) -> dict[str, Json]:
    """minProperties or maxProperties as a part of a plain schema; empty when the other keywords see to it.

    Counting is choosing among the declared members. In a map without any, the mask compiler counts.
    """
    required = set(schema.get("required", ()))
    optional = [name for name in schema.get("properties", {}) if name not in required]
    is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    wanted = count - len(required)
    if keyword == "minProperties":
        if wanted <= 0:
            return {}
        if is_closed and wanted > len(optional):
            return {"type": list(_NO_OBJECT)}
        if is_closed and comb(len(optional), wanted) <= _MAX_ALTERNATIVES:
            return {"anyOf": _at_least(optional, wanted)}
        if wanted == 1 and len(optional) < _MAX_ALTERNATIVES:
            undeclared = {"properties": dict.fromkeys(optional, False), "minProperties": count}
            return {"anyOf": [*_at_least(optional, 1), undeclared]}
        # The mask compiler would count a member twice that is written twice.
        raise Unenforceable(pointer, "name in `required` the members that must be there.")
    if not is_closed:
        if optional:
            raise Unenforceable(pointer, "close the object by `additionalProperties: false`.")
        return {"maxProperties": count}
    if wanted >= len(optional):
        return {}
    if wanted < 0:
        return {"type": list(_NO_OBJECT)}
    if comb(len(optional), wanted) > _MAX_ALTERNATIVES:
        raise Unenforceable(pointer, "declare fewer members, or several alternatives under `anyOf`.")
    absent = combinations(optional, len(optional) - wanted)
    return {"anyOf": [{"properties": dict.fromkeys(names, False)} for names in absent]}


def _at_least(names: Sequence[str], count: int) -> list[Json]:
    """So many of the names, and the first so many in order: each object fits one alternative."""
    alternatives: list[Json] = []
    for chosen in combinations(range(len(names)), count):
        absent = [names[index] for index in range(chosen[-1]) if index not in chosen]
        alternatives.append(
            {"required": [names[index] for index in chosen], "properties": dict.fromkeys(absent, False)}
        )
    return alternatives


class MemberNames:
    """The names that a plain schema of `propertyNames` allows."""

    def __init__(self, schema: Json, pointer: str) -> None:
        self._schema = schema
        self._pointer = pointer
        try:
            self._judge = jsonschema_rs.validator_for(schema, pattern_options=LINEAR_ENGINE, offline=True)
        except ValueError as error:  # a reference, which only means something in its document
            raise Unenforceable(pointer, "describe the names without `$ref`.") from error

    def allows(self, name: str) -> bool:
        return self._judge.is_valid(name)

    @property
    def listed(self) -> list[str] | None:
        """All of them, where they can be listed."""
        match self._schema:
            case False:
                return []
            case {"type": types} if types != "string" and "string" not in types:
                return []
            case {"enum": [*values]}:
                return [value for value in values if isinstance(value, str) and self.allows(value)]
            case {"const": value}:
                return [value] if isinstance(value, str) and self.allows(value) else []
            case _:
                return None

    @property
    def expression(self) -> str:
        """One expression for all of them, where they cannot be listed."""
        conditions = {} if self._schema is True else {k: v for k, v in self._schema.items() if k != "type"}
        match conditions:
            case {"pattern": str(expression)} | {"allOf": [{"pattern": str(expression)}]} if len(conditions) == 1:
                return expression
            case _ if conditions.keys() <= {"minLength", "maxLength"}:
                if not conditions:
                    return ""
                return f"^(?s:.){{{conditions.get('minLength', 0)},{conditions.get('maxLength', '')}}}$"
            case _:
                raise Unenforceable(self._pointer, "describe the names by `pattern` alone.")


def declared_members(document: SchemaDocument, place: Place, pointer: str) -> tuple[list[str], list[str]]:
    """The names and expressions of members that a schema and its parts declare, whatever the value.

    pointer  of the keyword that wants to know
    """
    return _declared(document, place, pointer, 0)


def _declared(document: SchemaDocument, place: Place, pointer: str, depth: int) -> tuple[list[str], list[str]]:
    schema = place.schema
    if not isinstance(schema, Mapping):
        return [], []
    covers_all = depth > 0 and schema.keys() & {"additionalProperties", "unevaluatedProperties"}
    if depth > _MAX_DEPTH or covers_all or schema.keys() & set(CONDITIONS):
        raise Unenforceable(pointer, "use `additionalProperties: false` in each of the alternatives.")
    names, expressions = list(schema.get("properties", ())), list(schema.get("patternProperties", ()))
    parts = [document.place(f"{place.pointer}/allOf/{index}") for index in range(len(schema.get("allOf", ())))]
    if "$ref" in schema:
        parts.append(document.resolve(schema["$ref"], place.base))
    for part in parts:
        if part is not None:
            more_names, more_expressions = _declared(document, part, pointer, depth + 1)
            names, expressions = names + more_names, expressions + more_expressions
    return names, expressions
