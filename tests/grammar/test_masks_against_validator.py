"""Random schemas and values: the masks admit a value exactly when the validator finds it valid."""

import random
from collections.abc import Iterator
from itertools import islice, permutations, product

from deepserve.core.errors import InvalidField
from deepserve.core.messages import Json
from deepserve.core.schema import check_schema
from deepserve.grammar.json_schema import JsonGrammar, json_grammar
from tests.grammar.spelling import admits, admits_value, written

_NAMES = ("a", "b", "c")
_TEXTS = ("", "a", "b", "ab", "abc", "é", "a\nb", "2020-01-01")


def test_random_schemas_admit_what_the_validator_finds_valid() -> None:
    draw = random.Random(7)
    num_compiled = num_valid = num_invalid = 0
    for _ in range(280):
        schema = {**_schema(draw, 0), "$defs": {"x": _schema(draw, 1), "y": _schema(draw, 2)}}
        values = [_value(draw, 0) for _ in range(12)]
        verdicts = [check_schema(schema, value).verdict for value in values]
        try:
            grammar = json_grammar(schema, strict=True)
        except InvalidField as error:
            assert "valid" not in verdicts or "No value" not in error.message, (schema, values)  # noqa: PT017
            continue
        num_compiled += 1
        for value, verdict in zip(values, verdicts, strict=True):
            if verdict == "unjudged":
                continue
            is_admitted = admits_value(grammar, value, schema) or (verdict == "valid" and _in_any_order(grammar, value))
            assert is_admitted == (verdict == "valid"), (schema, value)
            num_valid += verdict == "valid"
            num_invalid += verdict == "invalid"
    assert num_compiled > 150
    assert num_valid > 500
    assert num_invalid > 500


def test_random_bounds_and_multiples_admit_what_the_validator_finds_valid() -> None:
    draw = random.Random(11)
    num_valid = num_invalid = 0
    for _ in range(250):
        low, high = sorted((_number(draw), _number(draw)))
        schema: dict[str, Json] = {"type": draw.choice(["number", "number", "integer"])}
        if draw.random() < 0.7:
            schema[draw.choice(["minimum", "exclusiveMinimum"])] = low
        if draw.random() < 0.7:
            schema[draw.choice(["maximum", "exclusiveMaximum"])] = high
        if draw.random() < 0.3:
            schema["multipleOf"] = draw.choice([2, 3, 5, 0.5, 0.1, 0.25, 0.01, 7, 100])
        try:
            grammar = json_grammar(schema, strict=True)
        except InvalidField as error:
            assert "No value" in error.message  # noqa: PT017
            continue
        for _ in range(12):
            near = draw.choice([low, high]) + draw.choice([1, -1, 0.5, 0.1, 0.01, -0.01])
            value = round(draw.choice([_number(draw), low, high, near]), 8) or 0
            is_valid = check_schema(schema, value).verdict == "valid"
            assert admits_value(grammar, value, schema) == is_valid, (schema, value)
            num_valid += is_valid
            num_invalid += not is_valid
    assert num_valid > 500
    assert num_invalid > 500


def test_a_number_next_to_an_excluded_bound_is_told_from_it() -> None:
    """The mask compiler lets 0 pass here, which is found in no other combination of bounds."""
    for schema, bound, within in (
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0", "0.25"),
        ({"type": "number", "exclusiveMinimum": 3, "exclusiveMaximum": 3.5}, "3", "3.25"),
        ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, "-0", "-0.25"),
        ({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}]}, "0", "0.25"),
    ):
        grammar = json_grammar(schema, strict=True)
        assert not admits(grammar, bound)
        assert admits(grammar, within)


def _number(draw: random.Random) -> float:
    kind = draw.randrange(4)
    if kind == 0:
        return draw.randrange(-20, 20)
    if kind == 1:
        return round(draw.uniform(-5, 5), draw.randrange(4))
    if kind == 2:
        return int(draw.choice([0, 1, -1]) * 10 ** draw.randrange(16))
    return round(draw.uniform(-1, 1), draw.randrange(8))


def _value(draw: random.Random, depth: int) -> Json:
    kind = draw.randrange(9 if depth < 2 else 6)
    if kind == 6:
        return [_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind > 6:
        return {name: _value(draw, depth + 1) for name in (*_NAMES, "ax") if draw.random() < 0.45}
    simple = (None, draw.random() < 0.5, draw.randrange(-3, 8), draw.choice([0.5, -1.5, 2.25, 1000.0]))
    return (*simple, draw.choice(_TEXTS), draw.randrange(3))[kind]


def _schema(draw: random.Random, depth: int) -> dict[str, Json]:
    schema: dict[str, Json] = {}
    if depth and draw.random() < 0.1:
        schema["$ref"] = f"#/$defs/{draw.choice('xy')}"
    for _ in range(draw.choice([1, 1, 2, 2, 3])):
        schema |= _keyword(draw, depth)
    return schema


def _keyword(draw: random.Random, depth: int) -> dict[str, Json]:
    def inner() -> Json:
        return draw.random() < 0.7 if draw.random() < 0.1 else _schema(draw, depth + 1)

    match draw.randrange(27 if depth < 2 else 10):
        case 0:
            kinds = ["string", "integer", "number", "object", "array", ["string", "null"], ["number", "object"]]
            return {"type": draw.choice(kinds)}
        case 1:
            return {"enum": [_value(draw, 1) for _ in range(draw.randrange(1, 4))]}
        case 2:
            return {draw.choice(["minimum", "exclusiveMinimum"]): draw.choice([-1, 0, 2, 1.5])}
        case 3:
            return {draw.choice(["maximum", "exclusiveMaximum"]): draw.choice([0, 3, 5, 2.5])}
        case 4:
            return {"multipleOf": draw.choice([2, 3, 0.5])}
        case 5:
            return {draw.choice(["minLength", "maxLength"]): draw.randrange(4)}
        case 6:
            return {"pattern": draw.choice(["^a", "b", "^[a-c]*$", "^.$", "c$"])}
        case 7:
            return {draw.choice(["minItems", "maxItems"]): draw.randrange(3)}
        case 8:
            return {"required": draw.sample(_NAMES, draw.randrange(3))}
        case 9:
            return {"const": _value(draw, 1)}
        case 10 | 11:
            return {"type": "object", "properties": {name: inner() for name in draw.sample(_NAMES, 2)}}
        case 12:
            return {"additionalProperties": draw.choice([False, inner()])}
        case 13:
            return {"items": inner()}
        case 14:
            return {"prefixItems": [inner(), inner()]}
        case 15:
            return {"allOf": [inner(), inner()]}
        case 16:
            return {"anyOf": [inner(), inner()]}
        case 17:
            return {"oneOf": [inner(), inner()]}
        case 18:
            return {"not": inner()}
        case 19:
            return {"if": inner(), "then": inner(), "else": inner()}
        case 20:
            return {"patternProperties": {draw.choice(["^a", "x$", "b"]): inner()}}
        case 21:
            return {draw.choice(["minProperties", "maxProperties"]): draw.randrange(3)}
        case 22:
            return {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {draw.choice(_NAMES): inner()}}
        case 23:
            return {"unevaluatedProperties": draw.choice([False, inner()]), "allOf": [inner()]}
        case 24:
            return {"contains": True, "minContains": draw.randrange(3)}
        case 25:
            return {"format": draw.choice(["date", "hostname", "planet"]), "unevaluatedItems": False}
        case _:
            return {"propertyNames": draw.choice([{"pattern": "^[ab]"}, {"enum": ["a", "c"]}, {"maxLength": 1}])}


def _in_any_order(grammar: JsonGrammar, value: Json) -> bool:
    return any(admits(grammar, written(order, ",", ":")) for order in islice(_orders(value), 3000))


def _orders(value: Json) -> Iterator[Json]:
    """The value with the members of its objects in every order."""
    if isinstance(value, list):
        for items in product(*(list(islice(_orders(item), 30)) for item in value)):
            yield list(items)
    elif isinstance(value, dict):
        for names in permutations(value):
            for members in product(*(list(islice(_orders(value[name]), 30)) for name in names)):
                yield dict(zip(names, members, strict=True))
    else:
        yield value


def test_multiples_of_fractions_have_no_more_digits_than_their_readers_keep() -> None:
    """Regression: 53693924627663001619.5 is a multiple of 1.5, but not for whoever reads it as a double."""
    for of, fits, too_long in (
        (1.5, "35795949751775.5", "53693924627663001619.5"),
        (0.25, "1234567890123.25", "12345678901234567.25"),
        (0.01, "-1234567890123.01", "-12345678901234567.01"),
    ):
        schema = {"type": "number", "multipleOf": of}
        grammar = json_grammar(schema, strict=True)
        is_multiple = check_schema(schema, float(fits)).verdict == "valid"
        assert admits(grammar, fits) is is_multiple, fits
        assert not admits(grammar, too_long)
    bounded = json_grammar({"type": "number", "multipleOf": 0.5, "exclusiveMinimum": -3, "maximum": 1e17}, strict=True)
    for text, is_valid in (("-3", False), ("-2.5", True), ("0.5", True), ("12345678901234567.5", False)):
        assert admits(bounded, text) is is_valid, text
