"""A JSON Schema as a rule of a grammar: every keyword enforced, an annotation that is reported, or refused by name.

The rule admits JSON on one line, with at most one space after a comma or colon: nothing in it can go on without end
but strings, numbers and arrays that the schema leaves open. Members come in the order of `properties`. Which keywords
are enforced how: docs/enforced-output.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Final

import llguidance
import msgspec

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.core.schema_reading import read_schema
from deepserve.core.schema_tree import ASSERTIONS, children, over_children, step
from deepserve.grammar.finite import prune_endless
from deepserve.grammar.logic import without_logic
from deepserve.grammar.mask_compiler import Problem, contradicts, problem_with
from deepserve.grammar.numbers import spell_numbers
from deepserve.grammar.plain_schema import PlainSchema, plain_schema
from deepserve.grammar.unenforceable import Unenforceable

_NAMED_ESCAPES: Final = 'nrbtf\\"'
_SEARCH_S: Final = 0.5
"""So long a culprit is looked for; what is found until then is said."""
_MAX_RELAXED: Final = 16


class JsonGrammar(msgspec.Struct, frozen=True, kw_only=True):
    """What the values of a schema look like.

    schema       as the mask compiler takes it
    relaxed      keywords that are not enforced, as `pointer: keyword`; none when strict
    annotations  names in the schema that assert nothing, in the same form: unknown keywords and formats
    """

    schema: Mapping[str, Json]
    relaxed: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The right side of a rule in a Lark grammar."""
        return f"%json {self._text}"

    @property
    def whole(self) -> str:
        """A grammar of nothing else."""
        return llguidance.LLMatcher.grammar_from_json_schema(self._text)

    @property
    def _text(self) -> str:
        return msgspec.json.encode(self.schema).decode()


def json_grammar(
    schema: Json, *, strict: bool, field: str = "schema", clock: Callable[[], float] = time.perf_counter
) -> JsonGrammar:
    """The grammar of a schema's values.

    strict  refuse what cannot be enforced; otherwise leave it out and say so
    field   where the client wrote the schema, for errors
    clock   seconds; bounds the search for what is to blame
    Raises InvalidField for what is no schema or admits no value, UnsupportedFeature for what cannot be enforced.
    """
    read_schema(schema, field=field)
    dropped: frozenset[str] = frozenset()
    search_until = inf
    while True:
        try:
            plain = _simplified(schema, is_strict=strict, dropped=dropped)
        except Unenforceable as refusal:
            raise _refusal(field, refusal.pointer, refusal.advice) from refusal
        compiled, problem = _compiled(plain)
        if problem is None:
            return JsonGrammar(schema=compiled, relaxed=tuple(plain.relaxed), annotations=plain.annotations)
        search_until = min(search_until, clock() + _SEARCH_S)
        pointer = _Search(schema, strict, dropped, problem, clock, search_until).culprit()
        if problem.is_contradiction:
            raise InvalidField(
                f"No value satisfies the schema in `{field}`: see `{pointer or '/'}` ({problem.text}).", field=field
            )
        if strict or not pointer or len(dropped) >= _MAX_RELAXED:
            raise _refusal(field, pointer, f"write it in a simpler way ({problem.text}).")
        dropped |= {pointer}


def _refusal(field: str, pointer: str, advice: str) -> UnsupportedFeature:
    keyword = pointer.rpartition("/")[2]
    what = f"`{keyword}` at `{pointer}`" if keyword in ASSERTIONS else f"`{pointer or '/'}`"
    return UnsupportedFeature(f"The schema in `{field}` cannot be enforced because of {what}: {advice}", field=field)


def _simplified(schema: Json, *, is_strict: bool, dropped: frozenset[str]) -> PlainSchema:
    plain = plain_schema(schema, is_strict=is_strict, dropped=dropped)
    return without_logic(plain, contradicts, is_strict=is_strict) if plain.has_logic else plain


def _compiled(plain: PlainSchema) -> tuple[dict[str, Json], Problem | None]:
    """The schema for the mask compiler, and what it says of it.

    It takes a definition that admits nothing for an error of the whole, even where an alternative is there.
    """
    impossible: frozenset[str] = frozenset()
    while True:
        root, definitions = prune_endless(plain.root, plain.definitions, impossible)
        compiled = _compilable(*spell_numbers(root, definitions))
        problem = problem_with(compiled)
        if problem is None or not problem.is_contradiction:
            return compiled, problem
        wider = {name: _wider(schema, is_inside=False) for name, schema in definitions.items()}
        found = frozenset(name for name in wider if contradicts({"$ref": f"#/$defs/{name}", "$defs": wider}))
        if not found:
            return compiled, problem
        impossible |= found


def _wider(schema: Json, *, is_inside: bool) -> Json:
    """A schema that does not ask members and items what other definitions say: none is blamed for another."""
    if not isinstance(schema, dict):
        return schema
    kept = {keyword: argument for keyword, argument in schema.items() if not (is_inside and keyword == "$ref")}
    in_place = {keyword: kept.pop(keyword) for keyword in ("allOf", "anyOf") if keyword in kept}
    return over_children(kept, lambda inner: _wider(inner, is_inside=True)) | {
        keyword: [_wider(inner, is_inside=is_inside) for inner in parts] for keyword, parts in in_place.items()
    }


def _compilable(root: Json, definitions: dict[str, Json]) -> dict[str, Json]:
    options: dict[str, Json] = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}
    if any(map(_has_open_names, (root, *definitions.values()))):
        # The compiler lets undeclared names be spelled with \u, under which a declared one could hide.
        options["json_allowed_escapes"] = _NAMED_ESCAPES
    root = _applicators_last(root)
    definitions = {name: _applicators_last(schema) for name, schema in definitions.items()}
    out: dict[str, Json] = dict(root) if isinstance(root, dict) else {} if root else {"allOf": [False]}
    if definitions:
        out["$defs"] = definitions
    out["x-guidance"] = options  # last: taking it out, the compiler moves the last key to its place
    return out


def _applicators_last(schema: Json) -> Json:
    """The same schema in the order in which the mask compiler must read it.

    It merges keyword by keyword: what stands between `patternProperties` and `additionalProperties` tears them apart.
    """
    if not isinstance(schema, dict):
        return schema
    inside = over_children(schema, _applicators_last)
    return {keyword: inside[keyword] for keyword in sorted(inside, key=("$ref", "allOf", "anyOf").__contains__)}


def _has_open_names(schema: Json) -> bool:
    if not isinstance(schema, dict):
        return False
    is_open = schema.get("additionalProperties", True) is not False
    if is_open and schema.keys() & {"properties", "patternProperties", "required"}:
        return True
    return any(_has_open_names(inner) for _, inner in children(schema))


class _Search(msgspec.Struct, frozen=True):
    """For the JSON pointer of the keyword without which a problem would not be there."""

    schema: Json
    is_strict: bool
    dropped: frozenset[str]
    problem: Problem
    clock: Callable[[], float]
    until: float

    def culprit(self) -> str:
        """The innermost schema without which the whole would compile, then its keyword, as far as time allows."""
        at, here = "", self.schema
        while True:
            inside = ((at + rest, inner) for rest, inner in children(here))
            found = next(((pointer, inner) for pointer, inner in inside if self._is_cured_without(pointer)), None)
            if found is None:
                break
            at, here = found
        keywords = sorted(here if isinstance(here, Mapping) else (), key="type".__eq__)  # without a type, anything goes
        pointers = (at + step(keyword) for keyword in keywords)
        return next((pointer for pointer in pointers if self._is_cured_without(pointer)), at)

    def _is_cured_without(self, pointer: str) -> bool:
        if self.clock() > self.until:
            return False
        try:
            _, left = _compiled(_simplified(self.schema, is_strict=self.is_strict, dropped=self.dropped | {pointer}))
        except Unenforceable:
            return False
        return left is None or (left.is_contradiction, left.text) != (self.problem.is_contradiction, self.problem.text)
