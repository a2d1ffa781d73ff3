"""not, if/then/else and oneOf, rewritten into alternatives that the mask compiler can merge.

Exactly or not at all: a rewritten schema admits the same values. What cannot be negated is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from deepserve.core.messages import Json
from deepserve.core.schema_tree import over_children
from deepserve.grammar.plain_schema import ORIGIN, PlainSchema
from deepserve.grammar.unenforceable import Unenforceable

_TYPES: Final = ("null", "boolean", "number", "string", "array", "object")
_LOGIC: Final = frozenset((ORIGIN, "not", "if", "then", "else"))
_MAX_PAIRS: Final = 500
_MAX_RIVALS: Final = 200
_MAX_NEGATED: Final = 5000

Contradicts = Callable[[Json], bool]
"""Whether a schema without logic is known to admit nothing."""

OPPOSITES: Final[Mapping[str, tuple[str, str]]] = {
    "minimum": ("number", "exclusiveMaximum"),
    "maximum": ("number", "exclusiveMinimum"),
    "exclusiveMinimum": ("number", "maximum"),
    "exclusiveMaximum": ("number", "minimum"),
    "minLength": ("string", "maxLength"),
    "maxLength": ("string", "minLength"),
    "minItems": ("array", "maxItems"),
    "maxItems": ("array", "minItems"),
}
"""Bound -> the type it speaks about, and the bound that holds where it does not (counts: one further)."""


def without_logic(plain: PlainSchema, contradicts: Contradicts, *, is_strict: bool) -> PlainSchema:
    """The same schema without not, if and oneOf.

    contradicts is asked whether two alternatives can hold at once; False where it cannot tell.
    Raises Unenforceable when strict; otherwise gives up the keyword (oneOf becomes anyOf) and says so.
    """
    return _Rewriting(plain, contradicts, is_strict).result()


class _Rewriting:
    def __init__(self, plain: PlainSchema, contradicts: Contradicts, is_strict: bool) -> None:
        self._plain = plain
        self._contradicts = contradicts
        self._is_strict = is_strict
        self._relaxed = dict.fromkeys(plain.relaxed)
        self._wider: dict[str, Json] | None = None
        self._negation = _Negation(plain.definitions)

    def result(self) -> PlainSchema:
        root = self._rewritten(self._plain.root)
        definitions = {name: self._rewritten(schema) for name, schema in self._plain.definitions.items()}
        return PlainSchema(
            root=root,
            definitions=definitions,
            has_logic=False,
            relaxed=list(self._relaxed),
            annotations=self._plain.annotations,
        )

    def _rewritten(self, schema: Json) -> Json:
        if not isinstance(schema, dict):
            return schema
        pointer = schema.get(ORIGIN)
        if pointer is None:
            return over_children(schema, self._rewritten)
        try:
            return self._alternatives(schema, pointer)
        except Unenforceable as refusal:
            if self._is_strict:
                raise
            at, _, keyword = refusal.pointer.rpartition("/")
            self._relaxed[f"{at or '/'}: {keyword}"] = None
            return {"anyOf": [self._rewritten(option) for option in schema["oneOf"]]} if "oneOf" in schema else True

    def _widened(self, *parts: Json) -> Json:
        """All of the parts, a little wider where logic is left in what they refer to."""
        if self._wider is None:
            self._wider = {name: _wider(schema) for name, schema in self._plain.definitions.items()}
        return {"allOf": [_wider(part) for part in parts], "$defs": self._wider}

    def _alternatives(self, schema: Mapping[str, Json], pointer: str) -> Json:
        match schema:
            case {"not": operand}:
                return self._negated(operand, pointer)
            case {"if": condition}:
                return {
                    "anyOf": [
                        {"allOf": [self._rewritten(condition), self._rewritten(schema.get("then", True))]},
                        {"allOf": [self._negated(condition, pointer), self._rewritten(schema.get("else", True))]},
                    ]
                }
            case _:
                return self._one_of(
                    schema["oneOf"], {name: schema[name] for name in ("type",) if name in schema}, pointer
                )

    def _one_of(self, options: Sequence[Json], beside: Json, pointer: str) -> Json:
        """Alternatives of which no two hold: as they are where that is known, else each without its rivals.

        beside  the type of the whole, which may keep alternatives apart
        """
        if len(options) * (len(options) - 1) // 2 > _MAX_PAIRS:
            raise Unenforceable(pointer, "use anyOf, or fewer alternatives.")
        rewritten = [self._rewritten(option) for option in options]
        rivals: dict[int, list[int]] = {index: [] for index in range(len(options))}
        for left in range(len(options)):
            for right in range(left + 1, len(options)):
                if not self._contradicts(self._widened(beside, rewritten[left], rewritten[right])):
                    rivals[left].append(right)
                    rivals[right].append(left)
        if sum(map(len, rivals.values())) > _MAX_RIVALS:
            raise Unenforceable(pointer, "tell the alternatives apart by a required member with a `const`.")
        return {
            "anyOf": [
                {"allOf": [option, *(self._negated(options[rival], pointer) for rival in rivals[index])]}
                if rivals[index]
                else option
                for index, option in enumerate(rewritten)
            ]
        }

    def _negated(self, schema: Json, pointer: str) -> Json:
        try:
            return self._rewritten(self._negation.of(schema, ()))
        except _NoNegationError as failure:
            raise Unenforceable(
                pointer,
                f"`{failure}` cannot be turned round; use anyOf, with a `const` member that tells them apart.",
            ) from failure


def _wider(schema: Json) -> Json:
    """A schema without logic that admits at least the same values."""
    if not isinstance(schema, dict):
        return schema
    kept = {keyword: argument for keyword, argument in schema.items() if keyword not in _LOGIC}
    if "oneOf" in kept:
        kept["anyOf"] = kept.pop("oneOf")  # a part that holds oneOf holds nothing else
    return over_children(kept, _wider)


class _NoNegationError(Exception):
    """The keyword in its argument has no opposite that the mask compiler knows."""


class _Negation:
    """The values that a plain schema does not admit, as a plain schema."""

    def __init__(self, definitions: Mapping[str, Json]) -> None:
        self._definitions = definitions
        self._num_negated = 0

    def of(self, schema: Json, inside: tuple[str, ...]) -> Json:
        """inside: the references that have been followed to here."""
        if not isinstance(schema, dict):
            return not schema
        self._num_negated += 1
        if self._num_negated > _MAX_NEGATED:
            raise _NoNegationError("so large a schema")
        alternatives: list[Json] = []
        for keyword, argument in schema.items():
            for alternative in self._keyword(schema, keyword, argument, inside):
                if alternative is True:
                    return True
                if alternative is not False:
                    alternatives.append(alternative)
        if len(alternatives) == 1:
            return alternatives[0]
        return {"anyOf": alternatives} if alternatives else False

    def _keyword(
        self, schema: Mapping[str, Json], keyword: str, argument: Json, inside: tuple[str, ...]
    ) -> Sequence[Json]:
        match keyword:
            case "type":
                return [_other_types(argument)]
            case "enum":
                return [_other_values(argument)]
            case "const":
                return [_other_values([argument])]
            case "minLength" | "minItems":
                kind, opposite = OPPOSITES[keyword]
                return [{"type": kind, opposite: argument - 1}] if argument > 0 else []
            case "maxLength" | "maxItems":
                kind, opposite = OPPOSITES[keyword]
                return [{"type": kind, opposite: argument + 1}]
            case _ if keyword in OPPOSITES:
                kind, opposite = OPPOSITES[keyword]
                return [{"type": kind, opposite: argument}]
            case "required":
                # A declared one is missed, or is not what it should be: one alternative, with `properties`.
                missed = [name for name in argument if name not in schema.get("properties", ())]
                return [{"type": "object", "properties": {name: False}} for name in missed]
            case "properties":
                return [
                    {
                        "type": "object",
                        **({} if name in schema.get("required", ()) else {"required": [name]}),
                        "properties": {name: opposite},
                    }
                    for name, inner in argument.items()
                    if (opposite := self.of(inner, inside)) is not False or name in schema.get("required", ())
                ]
            case "allOf":
                return [self.of(inner, inside) for inner in argument]
            case "anyOf":
                return [{"allOf": [self.of(inner, inside) for inner in argument]}]
            case "not":
                return [argument]
            case "$ref":
                name = argument.rpartition("/")[2]
                if name in inside:
                    raise _NoNegationError("$ref to itself")
                return [self.of(self._definitions[name], (*inside, name))]
            case "items" | "additionalProperties" if argument is True:
                return []
            case "items" if argument is False and "prefixItems" not in schema:
                return [{"type": "array", "minItems": 1}]
            case _ if keyword == ORIGIN:
                return []
            case _:
                raise _NoNegationError(keyword)


def _other_types(types: str | Sequence[str]) -> Json:
    named = {types} if isinstance(types, str) else set(types)
    if "integer" in named and "number" not in named:
        raise _NoNegationError("type integer")  # numbers with a fraction have no keyword
    others = [kind for kind in _TYPES if kind not in named]
    return {"type": others} if others else False


def _other_values(values: Sequence[Json]) -> Json:
    """Every value that is none of these."""
    if any(isinstance(value, (list, dict)) for value in values):
        raise _NoNegationError("enum with objects or arrays")
    alternatives: list[Json] = [{"type": ["array", "object"]}]
    if None not in values:
        alternatives.append({"type": "null"})
    alternatives += [{"const": flag} for flag in (True, False) if not any(value is flag for value in values)]
    numbers = sorted({value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)})
    for above, below in zip([None, *numbers], [*numbers, None], strict=True):
        bounds = {"exclusiveMinimum": above, "exclusiveMaximum": below}
        alternatives.append({"type": "number", **{name: bound for name, bound in bounds.items() if bound is not None}})
    texts = {value for value in values if isinstance(value, str)}
    alternatives.append({"type": "string", "pattern": f"^(?:{_other_texts(texts)})$"} if texts else {"type": "string"})
    return {"anyOf": alternatives}


def _other_texts(texts: set[str]) -> str:
    """An expression for every text that is none of these, without look-around: along the tree of their letters."""
    heads = sorted({text[0] for text in texts if text})
    ways = [] if "" in texts else [""]
    if heads:
        ways.append(f"[^{''.join(map(_letter, heads))}](?s:.)*")
        for head in heads:
            ways.append(f"{_letter(head)}(?:{_other_texts({text[1:] for text in texts if text[:1] == head})})")
    else:
        ways.append("(?s:.)+")
    return "|".join(ways)


def _letter(character: str) -> str:
    return character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):X}}}"
