"""A schema in one spelling: 2020-12, references flat under `$defs`, and only keywords that `logic.py` and the mask
compiler know how to enforce.

Drafts differ, keywords overlap, and the mask compiler silently skips what it does not know. After this walk every
keyword of the client's schema is enforced, an annotation that is reported, or refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from deepserve.core.formats import FORMATS
from deepserve.core.messages import Json
from deepserve.core.regular_expression import judge_expression
from deepserve.core.schema_tree import ANNOTATIONS, ASSERTIONS, Place, SchemaDocument, step
from deepserve.grammar.mask_compiler import problem_with
from deepserve.grammar.members import CONDITIONS, MemberNames, declared_members, member_count
from deepserve.grammar.raw_text import spelled_for_masks
from deepserve.grammar.unenforceable import Unenforceable

_MAX_DEPENDENCIES: Final = 8
_MAX_EXPRESSIONS: Final = 6
_MAX_DIGITS: Final = 15
"""So many digits of a fraction survive being read as a double by any reader."""
_EXACT: Final = 2**53
"""Up to here every integer is a double, which is what the mask compiler calculates bounds in."""


ORIGIN: Final = "x-origin"
"""Where a part with logic comes from; gone when the logic is."""


class PlainSchema(msgspec.Struct, frozen=True, kw_only=True):
    """root may refer to `#/$defs/name`; beside the compiler's keywords it may hold parts with not, if or oneOf.

    has_logic    whether there are such parts; each has under ORIGIN the JSON pointer of that keyword
    relaxed      keywords that were given up, as `pointer: keyword`
    annotations  names that assert nothing, in the same form
    """

    root: Json
    definitions: dict[str, Json]
    has_logic: bool
    relaxed: list[str]
    annotations: tuple[str, ...]


def plain_schema(schema: Json, *, is_strict: bool, dropped: frozenset[str] = frozenset()) -> PlainSchema:
    """Rewrite a schema that `read_schema` has read.

    is_strict  raise Unenforceable for the first keyword that cannot be enforced; otherwise leave it out and say so
    dropped    pointers of keywords to leave out in any case
    """
    return _Walk(SchemaDocument(schema), is_strict=is_strict, dropped=dropped).plain()


class _Walk:
    def __init__(self, document: SchemaDocument, *, is_strict: bool, dropped: frozenset[str]) -> None:
        self._document = document
        self._is_strict = is_strict
        self._dropped = dropped
        self._names: dict[str, str] = {}
        self._pending: list[tuple[str, Place]] = []
        self._has_logic = False
        self._relaxed: dict[str, None] = {}
        self._annotations: dict[str, None] = {}
        self._exactly = 0  # inside an operand that will be negated: there, leaving a keyword out would forbid more

    def plain(self) -> PlainSchema:
        place = self._document.place("")
        if place is None:  # read_schema refuses this
            raise Unenforceable("", "a schema is an object, or true or false.")
        root = self._visit(place)
        definitions: dict[str, Json] = {}
        while self._pending:
            name, target = self._pending.pop()
            definitions[name] = self._visit(target)
        return PlainSchema(
            root=root,
            definitions=definitions,
            has_logic=self._has_logic,
            relaxed=list(self._relaxed),
            annotations=tuple(self._annotations),
        )

    def _visit(self, place: Place) -> Json:
        if not isinstance(place.schema, Mapping):
            return bool(place.schema)
        schema = place.schema
        if "$ref" in schema and self._document.draft <= 7:  # these drafts ignore what stands beside a reference
            for keyword in schema.keys() & ASSERTIONS - {"$ref"}:
                self._annotate(place, keyword)
            schema = {"$ref": schema["$ref"]}
        out: dict[str, Json] = {}
        for keyword in sorted(schema, key=_AFTER_OTHERS.__contains__):
            argument, pointer = schema[keyword], place.pointer + step(keyword)
            if pointer in self._dropped:
                self._relaxed[f"{place.pointer or '/'}: {keyword}"] = None
                continue
            try:
                self._keyword(out, place, schema, keyword, argument)
            except Unenforceable as refusal:
                if self._is_strict or self._exactly:
                    raise
                at, _, given_up = refusal.pointer.rpartition("/")
                self._relaxed[f"{at or '/'}: {given_up}"] = None
        return out

    def _keyword(
        self, out: dict[str, Json], place: Place, schema: Mapping[str, Json], keyword: str, argument: Json
    ) -> None:
        pointer = place.pointer + step(keyword)
        match keyword:
            case "$ref":
                target = self._document.resolve(argument, place.base)
                if target is None:
                    raise Unenforceable(pointer, "refer to a part of this schema.")
                out["$ref"] = f"#/$defs/{self._name(target)}"
            case "type":
                out["type"] = argument
            case "enum":
                out["enum"] = [_value(value, pointer) for value in argument]
            case "const":
                out["const"] = _value(argument, pointer)
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
                self._bound(out, pointer, schema, keyword, argument)
            case "multipleOf":
                out["multipleOf"] = _number(argument, pointer)
            case "minLength" | "maxLength" | "minItems" | "maxItems":
                out[keyword] = int(argument)
            case "pattern":
                out["pattern"] = spelled_for_masks(_linear(argument, pointer))
            case "format":
                if argument in FORMATS:
                    self._add(out, *({"pattern": expression} for expression in FORMATS[argument]))
                else:
                    self._annotate(place, f"format {argument}")
            case "allOf":
                parts = list(self._several(pointer, argument))
                if sum(map(_num_expressions, parts)) > _MAX_EXPRESSIONS:
                    raise Unenforceable(pointer, f"use at most {_MAX_EXPRESSIONS} expressions for one text.")
                self._add(out, *parts)
            case "anyOf":
                self._alternatives(out, list(self._several(pointer, argument)))
            case "oneOf":
                self._add(
                    out, self._logic(pointer, {"oneOf": list(self._several(pointer, argument)), **_type_of(schema)})
                )
            case "not":
                self._add(out, self._logic(pointer, {"not": self._operand(pointer)}))
            case "if":
                branches = {name: self._inner(place, name) for name in ("then", "else") if name in schema}
                if branches:
                    self._add(out, self._logic(pointer, {"if": self._operand(pointer), **branches}))
            case "properties" | "patternProperties":
                for name in argument if keyword == "patternProperties" else ():
                    _linear(name, pointer)
                out[keyword] = {name: self._at(pointer + step(name)) for name in argument}
            case "additionalProperties":
                out[keyword] = self._inner(place, keyword)
            case "required":
                out["required"] = list(dict.fromkeys(argument))
            case "prefixItems":
                out["prefixItems"] = list(self._several(pointer, argument))
            case "items" if isinstance(argument, list):
                out["prefixItems"] = list(self._several(pointer, argument))
                if "additionalItems" in schema:
                    out["items"] = self._inner(place, "additionalItems")
            case "items":
                out["items"] = self._inner(place, "items")
            case "additionalItems" if not isinstance(schema.get("items"), list):
                self._annotate(place, keyword)
            case "dependentRequired" | "dependentSchemas" | "dependencies":
                self._dependencies(out, pointer, argument)
            case "propertyNames":
                self._member_names(out, place, schema)
            case "minProperties" | "maxProperties":
                part = member_count(schema, keyword, int(argument), pointer)
                if "anyOf" in part:
                    self._alternatives(out, part["anyOf"])
                elif part:
                    self._add(out, part)
            case "uniqueItems":
                if argument and int(schema.get("maxItems", 2)) > 1:
                    raise Unenforceable(
                        pointer, "leave it out and compare the items yourself, or use an object with a property each."
                    )
            case "contains":
                self._contains(out, pointer, schema, argument)
            case "unevaluatedProperties":
                self._unevaluated_members(out, place, schema)
            case "unevaluatedItems":
                if any(name in schema for name in _APPLICATORS) or "contains" in schema:
                    raise Unenforceable(pointer, "use `items` in each of the alternatives.")
                if not isinstance(schema.get("items"), Mapping | bool):
                    out.setdefault("items", self._inner(place, keyword))
            case "$dynamicRef" | "$recursiveRef":
                raise Unenforceable(pointer, "use `$ref`.")
            case "then" | "else" | "additionalItems" | "minContains" | "maxContains":
                pass  # read with if, items, contains
            case _ if keyword in ANNOTATIONS or keyword in ASSERTIONS:
                pass  # $dynamicAnchor and its like mean something to $dynamicRef only
            case _:
                self._annotate(place, keyword)

    def _name(self, target: Place) -> str:
        if target.pointer not in self._names:
            self._names[target.pointer] = f"d{len(self._names)}"
            self._pending.append((self._names[target.pointer], target))
        return self._names[target.pointer]

    def _at(self, pointer: str) -> Json:
        if pointer in self._dropped:
            at, _, name = pointer.rpartition("/")
            self._relaxed[f"{at}: {name}"] = None
            return True
        place = self._document.place(pointer)
        return True if place is None else self._visit(place)

    def _inner(self, place: Place, keyword: str) -> Json:
        return self._at(place.pointer + step(keyword))

    def _several(self, pointer: str, schemas: Sequence[Json]) -> Iterator[Json]:
        for index in range(len(schemas)):
            yield self._at(pointer + step(index))

    def _operand(self, pointer: str) -> Json:
        self._exactly += 1
        try:
            return self._at(pointer)
        except Unenforceable as refusal:
            raise Unenforceable(pointer, f"inside it, `{refusal.keyword}` cannot be enforced.") from refusal
        finally:
            self._exactly -= 1

    def _logic(self, pointer: str, part: Mapping[str, Json]) -> Json:
        self._has_logic = True
        return {ORIGIN: pointer, **part}

    def _annotate(self, place: Place, name: str) -> None:
        self._annotations[f"{place.pointer or '/'}: {name}"] = None

    def _add(self, out: dict[str, Json], *parts: Json) -> None:
        out.setdefault("allOf", []).extend(parts)

    def _alternatives(self, out: dict[str, Json], alternatives: list[Json]) -> None:
        if "anyOf" in out:
            self._add(out, {"anyOf": alternatives})
        else:
            out["anyOf"] = alternatives

    def _bound(
        self, out: dict[str, Json], pointer: str, schema: Mapping[str, Json], keyword: str, argument: Json
    ) -> None:
        if isinstance(argument, bool):
            return  # draft 4: it says of minimum or maximum that they are excluded, and is read with them
        if schema.get(f"exclusive{keyword.capitalize()}") is True:
            keyword = f"exclusive{keyword.capitalize()}"
        largest = 2**63 - 1  # a bound of its own right: the largest integer that most languages have
        if keyword == "maximum" and argument == largest and schema.get("type") == "integer":
            out[keyword] = largest
            return
        out[keyword] = _number(argument, pointer)
        if abs(argument) >= largest:
            raise Unenforceable(pointer, f"use a bound between {-largest} and {largest}.")

    def _dependencies(self, out: dict[str, Json], pointer: str, dependencies: Mapping[str, Json]) -> None:
        if len(dependencies) > _MAX_DEPENDENCIES:
            raise Unenforceable(pointer, f"use at most {_MAX_DEPENDENCIES} dependencies in one place.")
        for name, needed in dependencies.items():
            without: Json = {"properties": {name: False}}
            if isinstance(needed, list):
                if needed:
                    self._alternatives(out, [without, {"required": [name, *needed]}])
            else:
                inner = self._at(pointer + step(name))
                self._alternatives(out, [without, {"required": [name], "allOf": [inner]}])

    def _contains(self, out: dict[str, Json], pointer: str, schema: Mapping[str, Json], argument: Json) -> None:
        at_least = int(schema.get("minContains", 1))
        if at_least == 0 and "maxContains" not in schema:
            return
        if argument is not True and argument != {}:
            raise Unenforceable(pointer, "describe such an item by `prefixItems`, or every item by `items`.")
        self._add(out, {"minItems": at_least})
        if "maxContains" in schema:
            self._add(out, {"maxItems": int(schema["maxContains"])})

    def _member_names(self, out: dict[str, Json], place: Place, schema: Mapping[str, Json]) -> None:
        """Names become the expression of `patternProperties`; declared names are judged here and now."""
        pointer = place.pointer + step("propertyNames")
        if "patternProperties" in schema or "unevaluatedProperties" in schema:
            raise Unenforceable(pointer, "name the members in `properties` or by one `patternProperties`.")
        names = MemberNames(self._operand(pointer), pointer)
        others = schema.get("additionalProperties", True)
        of_others = others if isinstance(others, bool) else self._inner(place, "additionalProperties")
        declared = {
            name: self._at(place.pointer + step("properties") + step(name)) if names.allows(name) else False
            for name in schema.get("properties", {})
        }
        listed = [] if of_others is False else names.listed
        if listed is not None:
            declared |= {name: of_others for name in listed if name not in declared}
        elif declared and of_others is not True:  # the expression would speak about them, too
            raise Unenforceable(pointer, "name the members in `properties`.")
        else:
            out["patternProperties"] = {names.expression: of_others}
        out["properties"], out["additionalProperties"] = declared, False

    def _unevaluated_members(self, out: dict[str, Json], place: Place, schema: Mapping[str, Json]) -> None:
        """Without conditions, the evaluated members are those that all parts declare together."""
        pointer = place.pointer + step("unevaluatedProperties")
        if schema["unevaluatedProperties"] is True or "additionalProperties" in schema:
            return
        names, expressions = declared_members(self._document, place, pointer)
        for keyword, declared in (("properties", names), ("patternProperties", expressions)):
            own = out.get(keyword, {})
            if declared:
                out[keyword] = {**own, **{name: True for name in declared if name not in own}}
        out["additionalProperties"] = self._inner(place, "unevaluatedProperties")


_AFTER_OTHERS: Final = frozenset(("propertyNames", "unevaluatedProperties", "unevaluatedItems"))
_APPLICATORS: Final = (*CONDITIONS, "allOf", "$ref")


def _type_of(schema: Mapping[str, Json]) -> dict[str, Json]:
    return {"type": schema["type"]} if "type" in schema else {}


def _num_expressions(part: Json) -> int:
    """How many expressions a text must match at once; deciding whether any does takes the longer the more there are."""
    if not isinstance(part, Mapping):
        return 0
    return ("pattern" in part) + sum(map(_num_expressions, part.get("allOf", ())))


def _linear(expression: str, pointer: str) -> str:
    if judge_expression(expression) != "linear":
        raise Unenforceable(pointer, "write the expression without look-around and references back.")
    problem = problem_with({"type": "string", "pattern": expression})
    if problem is not None and not problem.is_contradiction:
        raise Unenforceable(pointer, f"write the expression in a simpler way ({problem.text}).")
    return expression


def _number(value: Json, pointer: str) -> Json:
    """The same number as the mask compiler reads it; minus zero is zero."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) > _EXACT and int(float(value)) != value:
        raise Unenforceable(pointer, "integers beyond 2**53 are not told apart; use a string.")
    if isinstance(value, float) and len(Decimal(repr(value)).normalize().as_tuple().digits) > _MAX_DIGITS:
        raise Unenforceable(pointer, f"a number with a fraction has at most {_MAX_DIGITS} digits; round it.")
    return value


def _value(value: Json, pointer: str) -> Json:
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            return _number(value, pointer)
        case list():
            return [_value(item, pointer) for item in value]
        case _:
            return {name: _value(member, pointer) for name, member in value.items()}
