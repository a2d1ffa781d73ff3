"""A call's arguments as JSON text, as they form, typed as the tool's schema says.

The model says of every parameter whether it is a string. Models that miss it send arrays as strings, strings without
quotes, numbers for strings: where the schema leaves one reading, that reading is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from deepserve.core.messages import Json
from deepserve.core.tool import Tool
from deepserve.prompt.json_repair import repair_json
from deepserve.prompt.json_text import read_json, write_json


class Arguments:
    """The arguments of one call: `open`, `write`*, `close` for each parameter, then `finish`.

    Strings stream as they form. A value that has to be checked arrives when it is closed.

    damage   what was put right; None for well-formed arguments
    problem  what could not be put right
    """

    def __init__(self, tool: Tool | None = None) -> None:
        self._schema: Mapping[str, Json] = (tool.parameters or {}) if tool is not None else {}
        self._given: set[str] = set()
        self._name = ""
        self._says_string: bool | None = None
        self._types: AbstractSet[str] | None = None
        self._checked: list[str] | None = None
        self.has_body = False
        self.damage: str | None = None
        self.problem: str | None = None

    @property
    def is_begun(self) -> bool:
        return bool(self._given) or self.has_body

    @property
    def only_name(self) -> str | None:
        """The parameter of a tool that has but one."""
        names = list(_properties(self._schema))
        return names[0] if len(names) == 1 else None

    def has(self, name: str) -> bool:
        """The tool has this parameter."""
        return name in _properties(self._schema)

    def lacks(self, name: str) -> bool:
        """The tool has this parameter, and the call does not have it yet."""
        return self.has(name) and name not in self._given

    def open(self, name: str, *, is_string: bool | None) -> str:
        """is_string: what the model says of it; None: nothing."""
        before = ", " if self._given else "{"
        self._given.add(name)
        self._name, self._says_string = name, is_string
        self._types = value_types(self._schema, name)
        if is_string is False:
            streams = False
        else:
            streams = (
                self._types is None or self._types == {"string"} or (is_string is True and "string" in self._types)
            )
        if is_string is None:
            self._note("a parameter that does not say whether it is a string")
        self._checked = None if streams else []
        quote = '"' if streams else ""
        return f"{before}{json.dumps(name, ensure_ascii=False)}: {quote}"

    def write(self, text: str) -> str:
        if self._checked is None:
            return json.dumps(text, ensure_ascii=False)[1:-1]
        self._checked.append(text)
        return ""

    def close(self) -> str:
        if self._checked is None:
            return '"'
        text, self._checked = "".join(self._checked), None
        return self._settle(text)

    def cut(self) -> str:
        """What there is of a parameter that never closes."""
        text, self._checked = "".join(self._checked or ()), None
        return text

    def body(self, text: str) -> str:
        """Take all arguments as one JSON object, which models write in place of parameters."""
        found = repair_json(text)
        value = None if found is None else found.value
        if isinstance(value, dict) and not self.has("arguments") and not self.has("parameters"):
            inner = [value[key] for key in ("arguments", "parameters") if key in value]
            if len(inner) == 1 and value.keys() <= {"name", "arguments", "parameters"}:
                value = inner[0]
        if isinstance(value, str):
            inside = repair_json(value)
            value = None if inside is None else inside.value
        self._note("JSON in place of parameters")
        if self.is_begun or not isinstance(value, dict):
            self.problem = "parameters beside a JSON object" if self.is_begun else "arguments that are no JSON object"
            return ""
        self.has_body = True
        return write_json(value)

    def finish(self) -> str:
        if self.has_body:
            return ""
        return "}" if self._given else "{}"

    def _settle(self, text: str) -> str:
        """The JSON text of a value that is not plainly a string."""
        found = _read(text)
        value = found[0] if found is not None else None
        can_be_string = self._types is None or "string" in self._types
        fits = found is not None and self._fits(value)
        if self._says_string is False and fits:
            return text
        if not (self._says_string is None and fits):
            self._note(f"the value of {self._name[:80]} is not of the type that it says")
        if self._says_string is False and isinstance(value, str) and not can_be_string:
            # A JSON string that holds the value: an array as a string.
            inside = _read(value)
            if inside is not None and self._fits(inside[0]):
                return value
        if fits:
            return text.strip()
        if can_be_string:
            return json.dumps(text, ensure_ascii=False)
        repaired = repair_json(text)
        if repaired is not None and self._fits(repaired.value):
            return repaired.text
        word = _WORDS.get(text.strip().lower())
        if word is not None and self._fits(_WORD_VALUES[word]):
            return word
        if self._says_string:
            return json.dumps(text, ensure_ascii=False)
        if found is not None:
            return text  # JSON, but not what the schema wants: a client sees what the model meant
        self.problem = f"the value of {self._name[:80]} is no JSON"
        return "null"

    def _fits(self, value: Json) -> bool:
        if self._types is None:
            return self._says_string is False
        kind = _type_of(value)
        return kind in self._types or (kind == "integer" and "number" in self._types)

    def _note(self, damage: str) -> None:
        if self.damage is None:
            self.damage = damage


_WORDS: Final = {"true": "true", "false": "false", "none": "null", "null": "null"}
_WORD_VALUES: Final[Mapping[str, Json]] = {"true": True, "false": False, "null": None}

_ALL_TYPES: Final = frozenset(("null", "boolean", "integer", "number", "string", "array", "object"))
_MAX_DEPTH: Final = 16


def value_types(schema: Mapping[str, Json], name: str) -> AbstractSet[str] | None:
    """The JSON types a parameter may have; None where its schema does not say."""
    properties = _properties(schema)
    return _types(schema, properties[name], 0) if name in properties else None


def _properties(schema: Mapping[str, Json]) -> Mapping[str, Json]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _types(root: Mapping[str, Json], schema: Json, depth: int) -> AbstractSet[str] | None:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return None
    if "const" in schema:
        return {_type_of(schema["const"])}
    choices = schema.get("enum")
    if isinstance(choices, list):
        return {_type_of(choice) for choice in choices}
    declared = schema.get("type")
    if isinstance(declared, str):
        return {declared} & _ALL_TYPES or None
    if isinstance(declared, list):
        return {kind for kind in declared if isinstance(kind, str)} & _ALL_TYPES or None
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _types(root, _target(root, reference), depth + 1)
    for keyword in ("anyOf", "oneOf"):
        branches = schema.get(keyword)
        if isinstance(branches, list):
            found = [_types(root, branch, depth + 1) for branch in branches]
            known = [types for types in found if types is not None]
            return frozenset().union(*known) if known and len(known) == len(found) else None
    return None


def _type_of(value: Json) -> str:
    """The JSON Schema name of a decoded value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _target(root: Mapping[str, Json], reference: str) -> Json:
    """What a `#/…` pointer means; None when it leads nowhere."""
    if not reference.startswith("#/"):
        return None
    target: Json = root
    for step in reference[2:].split("/"):
        if not isinstance(target, Mapping):
            return None
        target = target.get(step.replace("~1", "/").replace("~0", "~"))
    return target


def _read(text: str) -> tuple[Json] | None:
    try:
        return (read_json(text),)
    except ValueError:
        return None
