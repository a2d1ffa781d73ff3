"""Which parts of a schema have a finite value at all: a model that enters one that has none never gets out."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.core.messages import Json
from deepserve.core.schema_tree import over_children


def prune_endless(
    root: Json, definitions: Mapping[str, Json], impossible: frozenset[str] = frozenset()
) -> tuple[Json, dict[str, Json]]:
    """Replace by false what only an endless value would satisfy, such as a member that must contain itself.

    impossible  definitions that are known to admit nothing
    Takes a schema without logic. Nothing is lost: no value can hold such a part.
    """
    finite: set[str] = set()
    while True:  # each round proves a little more, from the leaves of the recursion upwards
        open_names = definitions.keys() - finite - impossible
        proved = {name for name in open_names if _ends(definitions[name], finite)}
        if not proved:
            break
        finite |= proved
    if len(finite) == len(definitions):
        return root, dict(definitions)

    def pruned(schema: Json) -> Json:
        if not isinstance(schema, dict) or not _ends(schema, finite):
            return schema is True
        return over_children(schema, pruned)

    return pruned(root), {name: pruned(definitions[name]) for name in definitions if name in finite}


def _ends(schema: Json, finite: set[str]) -> bool:
    """Whether nothing in a schema forces its values to be endless, when the named definitions have finite values."""
    if not isinstance(schema, dict):
        return True
    if "$ref" in schema and schema["$ref"].rpartition("/")[2] not in finite:
        return False
    if not all(_ends(part, finite) for part in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(_ends(part, finite) for part in schema["anyOf"]):
        return False
    types = schema.get("type", ())
    kinds = {types} if isinstance(types, str) else set(types)
    if kinds and kinds <= {"array", "object"}:
        return ("array" in kinds and _array_ends(schema, finite)) or (
            "object" in kinds and _object_ends(schema, finite)
        )
    return True


def _array_ends(schema: Mapping[str, Json], finite: set[str]) -> bool:
    needed = schema.get("minItems", 0)
    first = schema.get("prefixItems", ())
    if not all(_ends(item, finite) for item in first[:needed]):
        return False
    return needed <= len(first) or _ends(schema.get("items", True), finite)


def _object_ends(schema: Mapping[str, Json], finite: set[str]) -> bool:
    declared = schema.get("properties", {})
    return all(_ends(declared.get(name, True), finite) for name in schema.get("required", ()))
