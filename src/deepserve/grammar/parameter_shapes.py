"""The parameters of a tool as the format for calls needs them: which there are, which must be, what each may hold.

A schema of an object says that in many ways. Whatever of it is about the object as a whole is worked out here into
shapes, alternatives of declared members; each member's own schema is passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.core.schema_reading import read_schema
from deepserve.core.schema_tree import Place, SchemaDocument, over_children, step
from deepserve.grammar.answer_form import CallableTool
from deepserve.grammar.parameter_values import UNKNOWN_HERE

MAX_VARIANTS: Final = 32
_MAX_DEPTH: Final = 16
_MAX_JUDGED: Final = 128
"""Parameters of which each is read by itself, once all of them together could not be."""
_NAMES_OF_PLACES: Final = frozenset(("$id", "id", "$anchor", "$schema", "$defs", "$def", "definitions"))


class Shape(msgspec.Struct, frozen=True):
    """One way in which an object may look.

    extra      what other members must satisfy; None: there are none
    is_closed  the schema says so itself
    """

    properties: Mapping[str, Json]
    required: frozenset[str]
    extra: Json | None
    is_closed: bool

    def of(self, name: str) -> Json:
        """What a member must satisfy."""
        if name in self.properties:
            return self.properties[name]
        return True if not self.is_closed else False if self.extra is None else self.extra


_ANY_OBJECT: Final = Shape({}, frozenset(), True, False)


class ParameterSchema:
    """A tool's schema: what its references mean, and what of it could not be enforced.

    Raises InvalidField for what is no schema of an object. Of a tool that is not strict, parameters whose own schemas
    are none may be anything, and that is said.
    """

    def __init__(self, tool: CallableTool) -> None:
        self.tool = tool
        self.relaxed: list[str] = []
        root: Mapping[str, Json] = {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters
        try:
            read_schema(root, field=tool.field)
        except InvalidField:
            if tool.is_strict:
                raise
            root = self._readable(root)
            read_schema(root, field=tool.field)
        self.readable = root
        """The schema as the client wrote it, but for parameters whose schemas are none."""
        self._document = SchemaDocument(root)
        self._bases = {id(place.schema): place.base for place in self._document.places()}
        self._places: dict[str, Place] = {}  # what the references mean that were met so far
        self._targets: dict[str, Json] = {}
        self._shapes_behind: dict[str, list[Shape]] = {}
        self.root = self._pointed(root)

    def cannot(self, pointer: str, keyword: str) -> None:
        """Told of a keyword that is not enforced. Raises UnsupportedFeature if the tool is strict."""
        if self.tool.is_strict:
            raise UnsupportedFeature(
                f"`{keyword}` cannot be enforced here: leave it out, or the tool's `strict`.",
                field=f"{self.tool.field}{pointer}",
            )
        self.relaxed.append(f"{self.tool.field}{pointer}: {keyword}")

    def resolve(self, reference: str) -> Json:
        """What a reference in `root` or in a part of it means; always the same object."""
        if reference not in self._targets:
            self._targets[reference] = self._pointed(self._places[reference].schema)
        return self._targets[reference]

    def alone(self, part: Json) -> Json:
        """A part of `root` as a schema of its own, with the definitions it refers to."""
        names: dict[str, str] = {}
        pending: list[str] = []

        def moved(schema: Json) -> Json:
            if not isinstance(schema, Mapping):
                return schema
            copy = over_children(schema, moved)
            reference = copy.get("$ref")
            if reference is not None:
                if reference not in names:
                    names[reference] = f"d{len(names)}"
                    pending.append(reference)
                copy["$ref"] = f"#/$defs/{names[reference]}"
            return copy

        schema = moved(part)
        definitions: dict[str, Json] = {}
        while pending:
            reference = pending.pop()
            definitions[names[reference]] = moved(self.resolve(reference))
        return {**schema, "$defs": definitions} if definitions else schema

    def shapes(self) -> list[Shape]:
        """The ways in which the parameters may look."""
        shapes = []
        for shape in self._combined(self.root, "", 0):
            if any(shape.of(key) is False for key in shape.required):
                continue
            properties = {**shape.properties, **{key: shape.of(key) for key in sorted(shape.required)}}
            # Left open, a schema that names parameters means those; one that names none leaves the names to the model.
            is_open = shape.extra is not None and (shape.is_closed or not shape.properties)
            shapes.append(Shape(properties, shape.required, shape.extra if is_open else None, shape.is_closed))
        if not shapes:
            raise InvalidField("No parameters satisfy the tool's schema.", field=self.tool.field)
        return shapes

    def _readable(self, root: Mapping[str, Json]) -> Mapping[str, Json]:
        """The schema with anything in place of parameters that cannot be read."""
        properties = root.get("properties")
        if not isinstance(properties, Mapping) or len(properties) > _MAX_JUDGED:
            return root
        readable: dict[str, Json] = {}
        for name, schema in properties.items():
            try:
                read_schema({**root, "properties": {name: schema}}, field=self.tool.field)
                readable[name] = schema
            except InvalidField:
                readable[name] = True
                self.relaxed.append(f"{self.tool.field}/properties{step(name)}: not a JSON schema")
        return {**root, "properties": readable}

    def _pointed(self, schema: Json) -> Json:
        """The same schema with JSON pointers for references, and without other names of places."""
        if not isinstance(schema, Mapping):
            return schema
        kept = {keyword: argument for keyword, argument in schema.items() if keyword not in _NAMES_OF_PLACES}
        if "$ref" not in kept:
            return over_children(kept, self._pointed)
        target = self._document.resolve(kept["$ref"], self._bases.get(id(schema), ""))
        assert target is not None, "read_schema refuses references that lead nowhere"
        reference = f"#{target.pointer}"
        self._places[reference] = target
        # The older drafts ignore what stands beside a reference.
        beside = {} if self._document.draft <= 7 else over_children(kept, self._pointed)
        return beside | {"$ref": reference}

    def _combined(self, part: Json, at: str, depth: int) -> list[Shape]:
        """The shapes of a part of the root that speaks about the same object."""
        if part is True:
            return [_ANY_OBJECT]
        if part is False:
            return []
        if depth > _MAX_DEPTH:
            raise UnsupportedFeature(
                f"The parts of the tool's parameters lie more than {_MAX_DEPTH} deep in each other, or one in itself: "
                "write the members of the object at the root.",
                field=self.tool.field,
            )
        kind = part.get("type", "object")
        if kind != "object" and not (isinstance(kind, list) and "object" in kind):
            if depth == 0:
                raise InvalidField("A tool's parameters are an object: `type` must say so.", field=self.tool.field)
            return []
        for keyword in part:
            if keyword in UNKNOWN_HERE:
                self.cannot(at, keyword)
        properties, extra = part.get("properties"), part.get("additionalProperties")
        own = Shape(
            dict(properties) if properties is not None else {},
            frozenset(part.get("required", ())),
            # `properties: {}` names parameters as well: none.
            None
            if extra is False or (extra is None and properties is not None)
            else (True if extra is None else extra),
            extra is not None,
        )
        shapes = [own]
        for keyword in ("const", "enum"):
            if keyword in part:
                shapes = self._crossed(shapes, _listed([part["const"]] if keyword == "const" else part["enum"]))
        if "$ref" in part:
            reference = part["$ref"]
            if reference not in self._shapes_behind:
                self._shapes_behind[reference] = self._combined(self.resolve(reference), f"{at}/$ref", depth + 1)
            shapes = self._crossed(shapes, self._shapes_behind[reference])
        for index, inner in enumerate(part.get("allOf", ())):
            shapes = self._crossed(shapes, self._combined(inner, f"{at}/allOf/{index}", depth + 1))
        for keyword in ("anyOf", "oneOf"):
            if keyword in part:
                found = [
                    shape
                    for index, inner in enumerate(part[keyword])
                    for shape in self._combined(inner, f"{at}/{keyword}/{index}", depth + 1)
                ]
                if keyword == "oneOf" and len(found) > 1:
                    self.cannot(at, keyword)
                shapes = self._crossed(shapes, found)
        if "unevaluatedProperties" in part:
            shapes = [_closed(shape, part["unevaluatedProperties"]) for shape in shapes]
        return shapes

    def _crossed(self, some: list[Shape], others: list[Shape]) -> list[Shape]:
        if len(some) * len(others) > MAX_VARIANTS:
            raise UnsupportedFeature(
                f"The tool's parameters have more than {MAX_VARIANTS} alternatives.", field=self.tool.field
            )
        return [_both(one, other) for one in some for other in others]


def _listed(values: list[Json]) -> list[Shape]:
    """Objects that are written down whole."""
    return [
        Shape({name: {"const": member} for name, member in value.items()}, frozenset(value), None, True)
        for value in values
        if isinstance(value, Mapping)
    ]


def _closed(shape: Shape, extra: Json) -> Shape:
    """A shape whose other members some keyword speaks about, unless one has before."""
    if shape.is_closed:
        return shape
    return Shape(shape.properties, shape.required, _extra(extra), True)


def _extra(schema: Json) -> Json | None:
    return None if schema is False else schema


def _both(one: Shape, other: Shape) -> Shape:
    """The members that satisfy both. A part that closes its own object closes it for its neighbours' members, too."""
    names = dict.fromkeys((*one.properties, *other.properties))
    properties = {name: _intersection(one.of(name), other.of(name)) for name in names}
    is_open = (
        one.extra is not None and other.extra is not None
    )  # where neither names any, or says that there are others
    extra = _extra(_intersection(one.extra, other.extra)) if is_open else None
    return Shape(properties, one.required | other.required, extra, one.is_closed or other.is_closed)


def _intersection(one: Json, other: Json) -> Json:
    if one is True or other is False:
        return other
    return one if other is True or one is False else {"allOf": [one, other]}
