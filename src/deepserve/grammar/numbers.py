"""Bounds and multiples of fractions, rewritten so that every number can be written without trailing zeros.

The mask compiler turns a bound into an expression for digits, and not every number within gets its usual spelling:
below 0.61 it wants `0.60`, as a multiple of 0.25 `3.50`; and above 0, up to 0.5, it lets 0 pass. Seen with llguidance
1.9.1; tests hold what is done here against the validator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from math import ceil, floor, inf, lcm

from deepserve.core.messages import Json
from deepserve.core.schema_tree import children, over_children

_EXACT_DIGITS = 15
"""So many digits survive being read as a double."""
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def spell_numbers(root: Json, definitions: Mapping[str, Json]) -> tuple[Json, dict[str, Json]]:
    """The same schema without logic, with alternatives for the spellings that the mask compiler leaves out.

    Not quite the same in two cases: where a whole number is an excluded bound and the other bound lies within 1 of it,
    numbers nearer to it than what fifteen digits can tell apart are left out; so are multiples of a fraction with more
    digits than these.
    """
    bounds = list(_fractions((root, *definitions.values())))
    below = {floor(bound) for name, bound in bounds if name.endswith("aximum")}
    above = {ceil(bound) for name, bound in bounds if name.endswith("inimum")}

    def spelled(schema: Json) -> Json:
        if not isinstance(schema, dict):
            return schema
        out = over_children(schema, spelled)
        if out.get("type") == "integer" or not out.keys() & {*_BOUNDS, "multipleOf"}:
            return out
        bound = {name: out.pop(name) for name in _BOUNDS if name in out}
        bound = _without_whole_exclusions(bound, below, above)
        multiples = _multiples(out.pop("multipleOf", None))
        shorter = [number for number in _shorter(bound) if multiples[0] is None or _is_multiple(number, multiples[0])]
        ways: list[Json] = [bound if of is None else {**_told_apart(bound, of), "multipleOf": of} for of in multiples]
        if shorter:
            ways.append({"enum": shorter})
        if len(ways) == 1:
            return out | ways[0]
        return {**out, "allOf": [*out.get("allOf", ()), {"anyOf": ways}]}

    return spelled(root), {name: spelled(schema) for name, schema in definitions.items()}


def _fractions(schemas: tuple[Json, ...]) -> Iterator[tuple[str, float]]:
    for schema in schemas:
        if isinstance(schema, dict):
            yield from ((name, schema[name]) for name in _BOUNDS if isinstance(schema.get(name), float))
            yield from _fractions(tuple(inner for _, inner in children(schema)))


def _without_whole_exclusions(bound: dict[str, Json], below: set[int], above: set[int]) -> dict[str, Json]:
    """Excluded whole numbers moved inwards by as little as can be told, where the compiler would let them pass."""
    out = dict(bound)
    least, most = bound.get("exclusiveMinimum"), bound.get("exclusiveMaximum")
    if isinstance(least, int) and least in below:
        del out["exclusiveMinimum"]
        out["minimum"] = max(least + _nearest(least), bound.get("minimum", least))
    if isinstance(most, int) and most in above:
        del out["exclusiveMaximum"]
        out["maximum"] = min(most - _nearest(most), bound.get("maximum", most))
    return out


def _nearest(whole: int) -> float:
    return float(10.0 ** -max(1, 15 - len(str(abs(whole)))))


def _told_apart(bound: Mapping[str, Json], of: float) -> dict[str, Json]:
    """The bounds within which readers see that a number is a multiple of a fraction; larger ones lose last digits."""
    places = _places(Decimal(repr(of)))
    if not places:
        return dict(bound)
    most = 10 ** (_EXACT_DIGITS - places)
    out = dict(bound)
    if max(bound.get("minimum", -inf), bound.get("exclusiveMinimum", -inf)) < -most:
        out = {name: limit for name, limit in out.items() if not name.endswith("inimum")} | {"minimum": -most}
    if min(bound.get("maximum", inf), bound.get("exclusiveMaximum", inf)) > most:
        out = {name: limit for name, limit in out.items() if not name.endswith("aximum")} | {"maximum": most}
    return out


def _shorter(bound: Mapping[str, Json]) -> list[float]:
    """The fractions within bounds that begin like one of them."""
    shorter: set[float] = set()
    for limit in bound.values():
        digits = Decimal(repr(limit))
        for places in range(1, _places(digits)):
            beginning = floor(abs(digits) * 10**places) * (-1 if limit < 0 else 1)
            shorter.add(float(Decimal(beginning).scaleb(-places)))
    return sorted(number for number in shorter if not number.is_integer() and _is_within(number, bound))


def _is_within(number: float, bound: Mapping[str, Json]) -> bool:
    return (
        number >= bound.get("minimum", number)
        and number <= bound.get("maximum", number)
        and ("exclusiveMinimum" not in bound or number > bound["exclusiveMinimum"])
        and ("exclusiveMaximum" not in bound or number < bound["exclusiveMaximum"])
    )


def _places(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _is_multiple(number: float, of: float) -> bool:
    return Decimal(repr(number)) % Decimal(repr(of)) == 0


def _multiples(of: float | None) -> list[float | None]:
    """Numbers whose multiples, together, are the multiples of one: with all its decimal places, and with fewer."""
    if of is None:
        return [None]
    places = _places(Decimal(repr(of)))
    unit = int(Decimal(repr(of)).scaleb(places))
    coarser = (Decimal(lcm(unit, 10 ** (places - fewer))).scaleb(-places) for fewer in range(places))
    return [of, *(int(multiple) if multiple == int(multiple) else float(multiple) for multiple in coarser)]
