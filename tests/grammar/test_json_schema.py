"""What a schema becomes: masks that admit exactly its values, or an error that names keyword and place."""

import json
import random
from pathlib import Path

import llguidance
import pytest

from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.formats import FORMATS
from deepserve.core.messages import Json
from deepserve.core.schema import check_schema
from deepserve.grammar.json_schema import JsonGrammar, json_grammar
from tests.grammar.spelling import admits, admits_value, tokenizer, written

_DATA = Path(__file__).parents[3] / "shared" / "data" / "json-schema"
_needs_data = pytest.mark.skipif(not _DATA.exists(), reason="the public schema suites are not beside the checkout")

OPEN = {"type": "object"}
CLOSED = {"type": "object", "additionalProperties": False}
COLOURS = {"enum": ["red", "green", "blue"]}
SHAPE = {
    "type": "object",
    "properties": {"kind": {"enum": ["circle", "square"]}, "radius": {"type": "number"}, "side": {"type": "number"}},
    "required": ["kind"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            **CLOSED,
            "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["v", "next"],
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        (True, [1, "a", None, {"a": [True]}], []),
        ({"type": ["string", "null"]}, ["a", None], [1, {}]),
        ({"type": "integer"}, [0, -7, 12345678901234567890], [1.5, "1"]),
        ({"enum": ["a", 1, None, {"x": [1]}]}, ["a", 1, None, {"x": [1]}], ["b", 2, {"x": [2]}, {}]),
        ({"const": {"a": 1.0}}, [{"a": 1}], [{"a": 2}, {}]),
        ({"type": "integer", "minimum": -3, "exclusiveMaximum": 12}, [-3, 0, 11], [-4, 12]),
        ({"type": "integer", "maximum": 2**63 - 1}, [2**63 - 1], [2**63]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}, [0.25, 1, 1.5], [0, 1.51, -1]),
        ({"type": "number", "multipleOf": 0.01}, [0.07, 3, -1.5], [0.001]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "ééé", "😀😀"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["abd", ""]),
        ({"type": "string", "pattern": "b"}, ["abc", "b\nb"], ["ac"]),
        ({"type": "string", "pattern": "^a+$", "minLength": 3, "format": "hostname"}, ["aaa"], ["aa", "aab"]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
        ({"type": "array", "prefixItems": [{"const": 1}, True], "items": False}, [[1], [1, "x"]], [[2], [1, 2, 3]]),
        ({**OPEN, "properties": {"a": {"type": "integer"}}}, [{}, {"a": 1}, {"b": "x"}], [{"a": "x"}]),
        ({**CLOSED, "properties": {"a": {}, "b": {}}, "required": ["b"]}, [{"b": 1}, {"a": 1, "b": 1}], [{"a": 1}]),
        ({**OPEN, "additionalProperties": {"type": "integer"}}, [{"x": 1}, {}], [{"x": "1"}]),
        ({**CLOSED, "patternProperties": {"^n_": {"type": "integer"}}}, [{"n_a": 1}], [{"n_a": "1"}, {"m": 1}]),
        (
            {"additionalProperties": False, "anyOf": [{"required": ["c"]}, True], "patternProperties": {"^a": {}}},
            [{"a": 1}],
            [{"b": 1}],
        ),
        ({**OPEN, "required": ["a"]}, [{"a": 1}, {"a": None, "b": 1}], [{}, {"b": 1}]),
        (
            {"allOf": [{"required": ["a"]}, {"properties": {"a": {"minimum": 3}}}], "type": "object"},
            [{"a": 3}],
            [{"a": 2}, {}],
        ),
        ({"anyOf": [{"type": "integer", "minimum": 5}, {"type": "boolean"}]}, [5, True], [4, "x"]),
        (TREE, [{"v": 1, "next": {"v": 2, "next": None}}], [{"v": 1}, {"v": 1, "next": {"v": "2", "next": None}}]),
        # Rewritten, because the mask compiler does not know them.
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["a", 1], [1.5, None]),
        (
            {**OPEN, "properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            [{"a": 1}, {"b": 1}, {"a": 1, "c": 1}],
            [{}, {"a": 1, "b": 1}],
        ),
        (
            {**OPEN, "oneOf": [{"properties": {"k": {"const": i}}, "required": ["k"]} for i in range(30)]},
            [{"k": 0}, {"k": 29, "x": 1}],
            [{"k": 30}, {}],
        ),
        ({"oneOf": [{"minimum": 2}, {"maximum": 5}], "type": "integer"}, [1, 6], [2, 4, 5]),
        ({"type": "string", "not": {"enum": ["no", "nein", ""]}}, ["n", "yes", "neinn", "é"], ["no", "nein", ""]),
        ({"not": {"type": ["string", "object"]}}, [1, None, [1]], ["a", {}]),
        ({"type": "integer", "not": {"enum": [3, 5]}}, [2, 4, 6], [3, 5]),
        ({"not": {"const": True}}, [False, 1, "true", []], [True]),
        ({**OPEN, "not": {"required": ["a", "b"]}}, [{"a": 1}, {"b": 1}, {}], [{"a": 1, "b": 1}]),
        ({"type": "array", "not": {"minItems": 2}}, [[], [1]], [[1, 2]]),
        ({"not": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, [1, [], {}], ["a", None]),
        ({"not": {"not": {"type": "string"}}}, ["a"], [1]),
        (
            {"$defs": {"s": {"type": "string"}}, "not": {"$ref": "#/$defs/s"}},
            [1, {}],
            ["s"],
        ),
        (
            {
                **SHAPE,
                "if": {"properties": {"kind": {"const": "circle"}}},
                "then": {"required": ["radius"]},
                "else": {"required": ["side"]},
            },
            [
                {"kind": "circle", "radius": 1},
                {"kind": "square", "side": 2},
                {"kind": "circle", "radius": 1, "side": 2},
            ],
            [{"kind": "circle", "side": 1}, {"kind": "square"}],
        ),
        (
            {**OPEN, "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
            [{}, {"b": 1}, {"a": 1, "b": 1}],
            [{"a": 1}],
        ),
        (
            {**OPEN, "dependentSchemas": {"a": {"properties": {"b": {"type": "string"}}, "required": ["b"]}}},
            [{"b": 1}, {"a": 1, "b": "x"}],
            [{"a": 1}, {"a": 1, "b": 1}],
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                **OPEN,
                "dependencies": {"a": ["b"], "c": {"required": ["d"]}},
            },
            [{"a": 1, "b": 1}, {"c": 1, "d": 1}],
            [{"a": 1}, {"c": 1}],
        ),
        ({**OPEN, "propertyNames": {"pattern": "^x_"}}, [{"x_a": 1}, {}], [{"a": 1}]),
        ({**OPEN, "propertyNames": COLOURS, "additionalProperties": {"type": "integer"}}, [{"red": 1}], [{"pink": 1}]),
        ({**OPEN, "propertyNames": {"type": "integer"}}, [{}], [{"a": 1}]),
        ({**OPEN, "propertyNames": False}, [{}], [{"a": 1}]),
        ({**OPEN, "propertyNames": {"type": ["string", "null"]}}, [{}, {"a": 1}], []),
        ({**OPEN, "propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
        (
            {**CLOSED, "properties": {"ab": {}, "b": {}}, "propertyNames": {"maxLength": 1}},
            [{"b": 1}, {}],
            [{"ab": 1}],
        ),
        ({**CLOSED, "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2}, [{"a": 1, "c": 1}], [{"b": 1}]),
        ({**CLOSED, "properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 1}, [{}, {"c": 1}], [{"a": 1, "b": 1}]),
        ({**OPEN, "properties": {"a": {}, "b": {}}, "minProperties": 1}, [{"b": 1}, {"x": 1}], [{}]),
        ({**OPEN, "maxProperties": 1}, [{}, {"x": 1}], [{"x": 1, "y": 1}]),
        ({**OPEN, "properties": {"a": {}}, "required": ["a"], "minProperties": 1}, [{"a": 1}], [{}]),
        ({"type": "array", "contains": True, "minContains": 2}, [[1, 2]], [[1]]),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[], [1]], [[1, 1]]),
        (
            {
                "allOf": [{"$ref": "#/$defs/a"}],
                "$defs": {"a": {"properties": {"x": {"type": "integer"}}}},
                **OPEN,
                "properties": {"y": {}},
                "unevaluatedProperties": False,
            },
            [{"y": 1, "x": 1}, {}],
            [{"x": "1"}, {"z": 1}],
        ),
        ({"type": "array", "prefixItems": [True], "unevaluatedItems": False}, [[1]], [[1, 2]]),
        # Older drafts.
        (
            {
                "$schema": "http://json-schema.org/draft-04/schema#",
                "type": "integer",
                "minimum": 3,
                "exclusiveMinimum": True,
            },
            [4],
            [3],
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "array",
                "items": [{"type": "integer"}],
                "additionalItems": {"type": "string"},
            },
            [[1, "a"], []],
            [["a"], [1, 2]],
        ),
    ],
)
def test_masks_admit_the_values_of_a_schema_and_no_others(schema: Json, valid: list[Json], invalid: list[Json]) -> None:
    grammar = json_grammar(schema, strict=True)
    assert grammar.relaxed == ()
    for value, is_valid in [*((value, True) for value in valid), *((value, False) for value in invalid)]:
        assert check_schema(schema, value).verdict == ("valid" if is_valid else "invalid"), "the test itself is wrong"
        assert admits_value(grammar, value, schema) == is_valid, value


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_formats_are_enforced(name: str) -> None:
    good = {
        "date": "2024-02-29",
        "time": "23:59:60Z",
        "date-time": "2026-11-20T09:00:00.5+01:00",
        "duration": "P1Y2M3DT4H5M6S",
        "email": "a.b+c@example.org",
        "hostname": "www.example-1.org",
        "ipv4": "127.0.0.1",
        "ipv6": "fe80::1:192.0.2.1",
        "uri": "https://example.org:80/a/b?c=d#e",
        "uri-reference": "../a?b",
        "uri-template": "/a/{id}{?x,y*}",
        "uuid": "123e4567-e89b-12d3-a456-426614174000",
        "json-pointer": "/a~1b/0",
        "relative-json-pointer": "1/a",
    }[name]
    bad = {"date": "2023-02-29", "email": f"{'a' * 65}@example.org", "hostname": f"{'a' * 64}.org", "ipv6": "1:::2"}
    bad |= {"uri-reference": "%", "uri-template": "{}"}
    schema = {"type": "string", "format": name}
    grammar = json_grammar(schema, strict=True)
    assert admits(grammar, json.dumps(good))
    assert check_schema(schema, good).verdict == "valid"
    for wrong in ("{" if name == "uri-template" else "not one of ^these", bad.get(name, "~")):
        assert not admits(grammar, json.dumps(wrong))
        assert check_schema(schema, wrong).verdict == "invalid"


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "/uniqueItems"),
        ({"items": {"contains": {"type": "integer"}}}, "contains", "/items/contains"),
        ({"properties": {"a": {"pattern": "^(?=a)b"}}}, "pattern", "/properties/a/pattern"),
        ({"pattern": r"\bword\b"}, "pattern", "/pattern"),
        ({"patternProperties": {"^a": {}, "b$": {}}}, "patternProperties", "/patternProperties"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", "/oneOf"),
        ({"not": {"pattern": "a"}}, "not", "/not"),
        ({"if": {"multipleOf": 2}, "then": {"minimum": 3}}, "if", "/if"),
        ({"$dynamicRef": "#a", "$dynamicAnchor": "a"}, "$dynamicRef", "/$dynamicRef"),
        ({"anyOf": [True, False], "unevaluatedProperties": False}, "unevaluatedProperties", "/unevaluatedProperties"),
        ({"minProperties": 3}, "minProperties", "/minProperties"),
        ({"properties": {"a": {}}, "maxProperties": 3}, "maxProperties", "/maxProperties"),
        ({"propertyNames": {"not": {"const": "a"}}}, "propertyNames", "/propertyNames"),
        ({"propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": {"maxLength": 3}}}, "propertyNames", "/propertyNames"),
        ({"type": "number", "maximum": 1e300}, "maximum", "/maximum"),
        ({"type": "number", "maximum": 0.1234567890123456}, "maximum", "/maximum"),
        ({"const": 2**60 + 1}, "const", "/const"),
        ({"type": "number", "multipleOf": 12345678901}, "multipleOf", "/multipleOf"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_keyword_and_place_or_relaxed_and_said(
    schema: Json, keyword: str, pointer: str
) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        json_grammar(schema, strict=True, field="text.format.schema")
    assert caught.value.field == "text.format.schema"
    assert f"`{keyword}` at `{pointer}`" in caught.value.message
    relaxed = json_grammar(schema, strict=False)
    assert relaxed.relaxed == (f"{pointer.rpartition('/')[0] or '/'}: {keyword}",)


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        (False, "/"),
        ({"enum": []}, "/enum"),
        ({"type": "string", "enum": [1]}, "/enum"),
        (
            {**OPEN, "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["a"]},
            "/properties/a/",
        ),
        ({**OPEN, "properties": {"a": False}, "required": ["a"]}, "/properties/a"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "/pattern"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "/allOf/0"),
        ({"$ref": "#"}, "/$ref"),
        ({**OPEN, "properties": {"me": {"$ref": "#"}}, "required": ["me"]}, "/properties/me"),
        ({"oneOf": [True, True]}, "/oneOf"),
    ],
)
def test_a_schema_that_no_value_satisfies_is_refused_with_the_place(schema: Json, pointer: str) -> None:
    for strict in (True, False):
        with pytest.raises(InvalidField) as caught:
            json_grammar(schema, strict=strict, field="schema")
        assert not isinstance(caught.value, UnsupportedFeature)
        assert "No value satisfies" in caught.value.message
        assert f"see `{pointer}" in caught.value.message


def test_a_part_that_would_have_to_contain_itself_is_never_entered() -> None:
    """A grammar of it compiles, and leaves a model that enters it without any way out."""
    endless = {**OPEN, "properties": {"more": {"$ref": "#/$defs/endless"}}, "required": ["more"]}
    schema = {"$defs": {"endless": endless}, **CLOSED, "properties": {"a": {}, "e": {"$ref": "#/$defs/endless"}}}
    grammar = json_grammar(schema, strict=True)
    assert admits(grammar, '{"a":1}')
    assert not _admits_beginning(grammar, '{"a":1, "e"')


def test_names_cannot_be_disguised_by_escapes() -> None:
    r"""`\u0061` is another spelling of `a`: an open object must not take it for an undeclared member."""
    grammar = json_grammar({**OPEN, "properties": {"a": {"type": "integer"}}}, strict=True)
    assert admits(grammar, '{"b":"x"}')
    assert not _admits_beginning(grammar, '{"\\u0061"')
    assert admits(json_grammar({**CLOSED, "properties": {"a": {}}}, strict=True), '{"a":"\\u001b"}')


def test_there_is_at_most_one_space_after_a_comma_or_colon_and_none_elsewhere() -> None:
    grammar = json_grammar({**OPEN, "additionalProperties": {"type": "array"}}, strict=True)
    assert admits(grammar, '{"a": [1, 2], "b":[1,2]}')
    for text in (' {"a":[]}', '{ "a":[]}', '{"a":  []}', '{"a" :[]}', '{"a":[] }', '{"a":[]} ', '{"a":\n[]}'):
        assert not admits(grammar, text)


def test_members_come_in_the_order_of_properties() -> None:
    schema = {**CLOSED, "properties": {"z": {}, "a": {}}, "required": ["a"], "allOf": [{"properties": {"a": COLOURS}}]}
    grammar = json_grammar(schema, strict=True)
    assert admits(grammar, '{"z":1,"a":"red"}')
    assert not admits(grammar, '{"a":"red","z":1}')


def test_unknown_names_are_reported_as_annotations() -> None:
    schema = {
        **CLOSED,
        "properties": {"a": {"type": "string", "format": "planet", "nullable": True, "description": "x"}},
        "x-order": 3,
    }
    grammar = json_grammar(schema, strict=True)
    assert grammar.annotations == ("/properties/a: format planet", "/properties/a: nullable", "/: x-order")


def test_old_drafts_ignore_what_stands_beside_a_reference_and_that_is_said() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"s": {"type": "string"}},
        "items": {"$ref": "#/definitions/s", "maxLength": 1},
    }
    grammar = json_grammar(schema, strict=True)
    assert admits(grammar, '["ab"]')
    assert grammar.annotations == ("/items: maxLength",)
    assert not admits(json_grammar({**schema, "$schema": "http://json-schema.org/schema"}, strict=True), '["ab"]')


def test_a_grammar_can_be_part_of_a_larger_one() -> None:
    rule = json_grammar(TREE, strict=True).rule
    larger = llguidance.LLMatcher.grammar_from_lark(f'start: "<" value ">"\nvalue: {rule}')
    matcher = llguidance.LLMatcher(tokenizer(), larger)
    text = b'<{"v":1, "next":null}>'
    assert matcher.try_consume_tokens(list(text)) == len(text)
    assert matcher.is_accepting()


def test_relaxing_leaves_out_one_keyword_and_keeps_the_others() -> None:
    schema = {
        **CLOSED,
        "properties": {
            "tags": {"type": "array", "items": COLOURS, "uniqueItems": True},
            "n": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 0}]},
            "w": {"type": "string", "pattern": r"\ba\b", "maxLength": 3},
            "f": {"not": {"pattern": "x"}, "type": "string"},
        },
    }
    grammar = json_grammar(schema, strict=False)
    assert grammar.relaxed == (
        "/properties/tags: uniqueItems",
        "/properties/w: pattern",
        "/properties/n: oneOf",
        "/properties/f: not",
    )
    assert admits(grammar, '{"tags":["red","red"],"n":-1,"w":"b","f":"x"}')
    for text in ('{"tags":["pink"]}', '{"n":-1.5}', '{"w":"abcd"}', '{"f":1}'):
        assert not admits(grammar, text)


@pytest.mark.parametrize("num_levels", [40])
def test_work_is_bounded_for_schemas_that_double_at_every_level(num_levels: int) -> None:
    levels = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(num_levels)}
    definitions = {**levels, f"d{num_levels}": {"type": "string"}}
    with pytest.raises(UnsupportedFeature, match="so large a schema"):
        json_grammar({"$defs": definitions, "not": {"$ref": "#/$defs/d0"}}, strict=True)
    many = {f"a{i}": [f"b{i}"] for i in range(9)}
    with pytest.raises(UnsupportedFeature, match="at most 8 dependencies"):
        json_grammar({"dependentRequired": many}, strict=True)
    rivals = [{"required": [f"a{i}"]} for i in range(40)]
    with pytest.raises(UnsupportedFeature, match="fewer alternatives"):
        json_grammar({"oneOf": rivals}, strict=True)
    with pytest.raises(UnsupportedFeature, match="required member with a `const`"):
        json_grammar({"oneOf": rivals[:20]}, strict=True)
    patterns = [{"pattern": f"a{i}.{{50}}b"} for i in range(7)]
    with pytest.raises(UnsupportedFeature, match="at most 6 expressions"):
        json_grammar({"type": "string", "allOf": patterns}, strict=True)


def test_the_search_for_a_culprit_ends_when_its_time_is_over() -> None:
    """Without a limit it compiled a large schema hundreds of times, for seconds."""
    times = iter(range(1000))
    schema = {
        **OPEN,
        "properties": {f"p{i}": {} for i in range(50)},
        "required": ["z"],
        "allOf": [{"properties": {"z": False}}],
    }
    with pytest.raises(InvalidField, match="see `/`"):
        json_grammar(schema, strict=True, clock=lambda: float(next(times)))
    assert next(times) < 100


@_needs_data
def test_maskbench_is_compiled_or_refused_by_name_and_never_wrong() -> None:
    """The 260 schemas of MaskBench with their 793 instances (https://github.com/guidance-ai/jsonschemabench)."""
    files = sorted((_DATA / "maskbench").glob("*.json"))
    num_compiled, wrong = 0, []
    refused: dict[str, str] = {}
    for file in files:
        case = json.loads(file.read_text())
        try:
            grammar = json_grammar(case["schema"], strict=True, field="schema")
        except InvalidField as error:
            refused[file.stem] = error.message
            continue
        num_compiled += 1
        wrong += [
            (file.stem, test["description"])
            for test in case["tests"]
            if admits_value(grammar, test["data"], case["schema"]) != test["valid"]
        ]
    assert wrong == []
    assert all("`schema`" in said and ("at `/" in said or "see `/" in said) for said in refused.values())
    assert len(files) == 260
    assert num_compiled >= 257, refused  # docs/enforced-output.md says so
    assert num_compiled + len(refused) == 260


@_needs_data
def test_the_official_suite_holds_for_every_keyword_that_compiles() -> None:
    """https://github.com/json-schema-org/JSON-Schema-Test-Suite, draft 2020-12."""
    num_compiled, num_values, wrong = 0, 0, []
    for file in sorted((_DATA / "suite").glob("*.json")):
        for group in json.loads(file.read_text()):
            try:
                grammar = json_grammar(group["schema"], strict=True)
            except InvalidField as error:
                if not isinstance(error, UnsupportedFeature):
                    assert not any(test["valid"] for test in group["tests"]), "refused as contradictory, but is not"
                continue
            num_compiled += 1
            for test in group["tests"]:
                if "only an annotation by default" in test["description"]:
                    continue  # we hold to the formats we know
                num_values += 1
                if admits_value(grammar, test["data"], group["schema"]) != test["valid"]:
                    wrong.append((file.stem, group["description"], test["description"]))
    assert wrong == []
    assert num_compiled >= 174
    assert num_values >= 600


@_needs_data
def test_whatever_the_masks_admit_is_valid() -> None:
    """Random walks under the masks of the public schemas, a byte at a time, judged by the validator."""
    draw = random.Random(20261121)
    num_ended = 0
    for file in sorted((_DATA / "maskbench").glob("*.json"))[::2]:
        schema = json.loads(file.read_text())["schema"]
        try:
            grammar = json_grammar(schema, strict=True)
        except InvalidField:
            continue
        text = _random_value(grammar, draw)
        if text is None:
            continue
        num_ended += 1
        report = check_schema(schema, json.loads(text))
        assert report.verdict == "valid", (file.stem, text, report)
    assert num_ended > 100


def _random_value(grammar: JsonGrammar, draw: random.Random, max_bytes: int = 500) -> bytes | None:
    """A value that the masks admit, or None where it gets too long. It is drawn towards an end, without
    exponents: `1e999` is JSON, but no number to most readers."""
    matcher = llguidance.LLMatcher(tokenizer(), grammar.whole)
    out = bytearray()
    while len(out) < max_bytes:
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()
        if matcher.is_accepting() and draw.random() < 0.3:
            return bytes(out)
        allowed = [byte for byte in range(256) if mask[byte // 8] >> (byte % 8) & 1]
        if ord("e") in allowed and ord("0") in allowed and ord("q") not in allowed:  # in a number
            allowed = [byte for byte in allowed if byte not in b"eE"]
        if not allowed:
            assert matcher.is_accepting(), f"no way on after {bytes(out)!r}"
            return bytes(out)
        weights = [30 if chr(byte) in '"}],:' else 3 if byte < 128 else 0.1 for byte in allowed]
        out += bytes(draw.choices(allowed, weights))
        assert matcher.consume_token(out[-1])
    return None


def _admits_beginning(grammar: JsonGrammar, text: str) -> bool:
    ids = list(text.encode())
    return llguidance.LLMatcher(tokenizer(), grammar.whole).try_consume_tokens(ids) == len(ids)


def test_numbers_are_written_in_decimal_notation() -> None:
    assert written([1.0, 1e-7, 1e22, 0.5], ",", ":") == "[1,0.0000001,10000000000000000000000,0.5]"
