"""Where schemas stand in a schema document, and what its references mean. Knows positions and names, no values.

JSON Schema 2020-12 and the drafts 4, 6, 7 and 2019-09, as `$schema` says. Nothing is fetched: a reference that does
not lead into the document itself leads nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import unquote, urldefrag, urljoin

import msgspec

from deepserve.core.messages import Json

DRAFTS: Final[Mapping[str, int]] = {
    "http://json-schema.org/schema": 2020,
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "http://json-schema.org/draft/2019-09/schema": 2019,
    "http://json-schema.org/draft/2020-12/schema": 2020,
}
"""`$schema`, without its scheme's `s` and without `#`, and what we call the draft."""

ANNOTATIONS: Final = frozenset(
    (
        *("$schema", "$id", "id", "$comment", "$anchor", "$vocabulary", "$defs", "$def", "definitions"),
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema", "strict"),
    )
)
"""Keywords that assert nothing about a value."""

ASSERTIONS: Final = frozenset(
    (
        *("$ref", "$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor"),
        *("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "type", "enum", "const", "format", "pattern"),
        *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("items", "prefixItems", "additionalItems", "unevaluatedItems", "minItems", "maxItems", "uniqueItems"),
        *("contains", "minContains", "maxContains", "properties", "patternProperties", "additionalProperties"),
        *("unevaluatedProperties", "propertyNames", "required", "minProperties", "maxProperties"),
        *("dependencies", "dependentRequired", "dependentSchemas"),
    )
)
"""Keywords that can make a value invalid, or that decide what such a keyword means. Any other name is an annotation."""

_ONE: Final = frozenset(
    (
        *("not", "if", "then", "else", "items", "additionalItems", "unevaluatedItems", "contains"),
        *("additionalProperties", "unevaluatedProperties", "propertyNames", "contentSchema"),
    )
)
_SEVERAL: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
_NAMED: Final = frozenset(
    (
        *("properties", "patternProperties", "dependentSchemas", "dependencies"),
        *("$defs", "$def", "definitions"),
    )
)


def draft_of(schema: Json) -> int | None:
    """The draft a document is written in; 2020 where it does not say, None when it says something unknown."""
    named = schema.get("$schema") if isinstance(schema, Mapping) else None
    if named is None:
        return 2020
    if not isinstance(named, str):
        return None
    return DRAFTS.get(named.rstrip("#").replace("https://", "http://", 1))


def step(name: str | int) -> str:
    """One step of a JSON pointer."""
    return "/" + str(name).replace("~", "~0").replace("/", "~1")


def children(schema: Json) -> Iterator[tuple[str, Json]]:
    """The schemas directly inside a schema, each with the rest of its JSON pointer."""
    if not isinstance(schema, Mapping):
        return
    for keyword, argument in schema.items():
        if keyword in _ONE and isinstance(argument, (Mapping, bool)):
            yield step(keyword), argument
        elif keyword in _SEVERAL and isinstance(argument, Sequence) and not isinstance(argument, str):
            for index, inner in enumerate(argument):
                yield step(keyword) + step(index), inner
        elif keyword in _NAMED and isinstance(argument, Mapping):
            for name, inner in argument.items():
                if isinstance(inner, (Mapping, bool)):  # `dependencies` may list names instead
                    yield step(keyword) + step(name), inner


def over_children(schema: Mapping[str, Json], rewrite: Callable[[Json], Json]) -> dict[str, Json]:
    """A schema with every schema directly inside it rewritten."""
    out: dict[str, Json] = {}
    for keyword, argument in schema.items():
        if keyword in _ONE and isinstance(argument, (Mapping, bool)):
            out[keyword] = rewrite(argument)
        elif keyword in _SEVERAL and isinstance(argument, Sequence) and not isinstance(argument, str):
            out[keyword] = [rewrite(inner) for inner in argument]
        elif keyword in _NAMED and isinstance(argument, Mapping):
            out[keyword] = {
                name: rewrite(inner) if isinstance(inner, (Mapping, bool)) else inner
                for name, inner in argument.items()
            }
        else:
            out[keyword] = argument
    return out


class Place(msgspec.Struct, frozen=True):
    """A schema in its document: its JSON pointer, and the address that references in it are relative to."""

    schema: Json
    pointer: str
    base: str


class SchemaDocument:
    """A schema with everything inside it, by place and by address.

    Assumes a document of bounded depth.
    """

    def __init__(self, root: Json) -> None:
        self.root = root
        self.draft = draft_of(root) or 2020
        self._resources: dict[str, Place] = {}
        self._anchors: dict[str, Place] = {}
        self._places: dict[str, Place] = {}
        self._index(root, "", "")

    def places(self) -> Iterator[Place]:
        """Every schema of the document, outer ones first."""
        yield from self._places.values()

    def place(self, pointer: str) -> Place | None:
        """The schema at a JSON pointer."""
        return self._places.get(pointer)

    def resolve(self, reference: str, base: str) -> Place | None:
        """What a reference means that stands in a schema of that base; None when it leads out or nowhere."""
        address, fragment = urldefrag(reference)
        address = urljoin(base, address) if address and base else address or base
        resource = self._resources.get(address)
        if resource is None:
            return None
        fragment = unquote(fragment)
        if not fragment:
            return resource
        if not fragment.startswith("/"):
            return self._anchors.get(f"{address}#{fragment}")
        return self._follow(resource, fragment)

    def base_of(self, schema: Mapping[str, Json], base: str) -> str:
        """What references in a schema are relative to, when base is what they are relative to around it."""
        named = schema.get("id" if self.draft == 4 else "$id")
        if not isinstance(named, str) or (self.draft <= 7 and "$ref" in schema):
            return base
        address = urldefrag(named)[0]
        return (urljoin(base, address) if base else address) if address else base

    def _index(self, schema: Json, pointer: str, base: str) -> None:
        if not isinstance(schema, (Mapping, bool)):
            return
        if isinstance(schema, Mapping):
            base = self.base_of(schema, base)
        place = Place(schema, pointer, base)
        self._places[pointer] = place
        self._resources.setdefault(base, place)
        if not pointer:
            self._resources.setdefault("", place)
        if isinstance(schema, Mapping):
            for anchor in self._anchor_names(schema):
                self._anchors.setdefault(f"{base}#{anchor}", place)
        for rest, inner in children(schema):
            self._index(inner, pointer + rest, base)

    def _anchor_names(self, schema: Mapping[str, Json]) -> Iterator[str]:
        for keyword in ("$anchor", "$dynamicAnchor"):
            if self.draft >= 2019 and isinstance(schema.get(keyword), str):
                yield schema[keyword]
        named = schema.get("id" if self.draft == 4 else "$id")
        if self.draft <= 7 and isinstance(named, str) and "#" in named:
            yield named.partition("#")[2]

    def _follow(self, resource: Place, fragment: str) -> Place | None:
        target, pointer, base = resource.schema, resource.pointer, resource.base
        for part in fragment.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                return None
            pointer += step(name)
            known = self._places.get(pointer)
            if known is not None:
                base = known.base
        if not isinstance(target, (Mapping, bool)):
            return None
        return self._places.get(pointer) or Place(target, pointer, base)
