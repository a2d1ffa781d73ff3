"""The schema check is never wrong: what it cannot judge it says."""

import json
from pathlib import Path

import pytest

from deepserve.core.schema import check_schema

_DATA = Path(__file__).parents[3] / "shared" / "data" / "json-schema"


def _cases(folder: str) -> list[tuple[str, object, object, bool]]:
    cases = []
    for file in sorted((_DATA / folder).glob("*.json")):
        loaded = json.loads(file.read_text())
        for group in loaded if isinstance(loaded, list) else [loaded]:
            cases += [
                (file.stem, group["schema"], test["data"], test["valid"])
                for test in group["tests"]
                if "only an annotation by default" not in test["description"]  # we hold to the formats we know
            ]
    return cases


@pytest.mark.parametrize("folder", ["suite", "maskbench"])
def test_every_case_of_the_public_suites_is_judged_and_judged_right(folder: str) -> None:
    """But references to the meta-schema, which is another document."""
    if not _DATA.exists():
        pytest.skip("the public schema suites are not beside the checkout")
    cases = _cases(folder)
    wrong = [
        (name, schema, value)
        for name, schema, value, is_valid in cases
        if check_schema(schema, value).verdict != ("valid" if is_valid else "invalid")
        and "draft/2020-12/schema" not in str(schema.get("$ref", "") if isinstance(schema, dict) else "")
    ]
    assert wrong == []
    assert len(cases) > 300


def test_a_problem_names_the_place_and_the_reason_but_not_the_value() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "object", "properties": {"name/code": {"type": "string"}}}},
        "required": ["city", "unit"],
    }
    report = check_schema(schema, {"city": {"name/code": 31415}})
    assert report.problems == (
        '/: "unit" is a required property',
        '/city/name~1code: the value is not of type "string"',
    )


def test_a_pattern_that_would_make_a_backtracker_hang_is_judged_at_once() -> None:
    assert check_schema({"type": "string", "pattern": "^(a+)+$"}, "a" * 64 + "!").verdict == "invalid"


@pytest.mark.parametrize("pattern", ["^(?=a)b", r"(a)\1", "("])
def test_a_pattern_that_no_linear_engine_can_run_is_left_out_and_said(pattern: str) -> None:
    report = check_schema({"type": "string", "pattern": pattern}, "x")
    assert (report.verdict, report.unjudged) == ("unjudged", ("pattern",))
    assert check_schema({"type": "string", "pattern": pattern}, 5).verdict == "invalid"
    members = check_schema({"patternProperties": {pattern: False}, "additionalProperties": False}, {"x": 1})
    assert members.unjudged == ("additionalProperties", "patternProperties")


def test_an_unknown_format_is_an_annotation_and_reported() -> None:
    report = check_schema({"type": "string", "format": "planet", "x-unit": "km"}, "x")
    assert report.verdict == "valid"
    assert report.annotations == ("format:planet", "x-unit")
    assert check_schema({"type": "string", "format": "date"}, "2023-02-29").verdict == "invalid"


def test_a_schema_that_refers_to_itself_ends() -> None:
    assert check_schema({"$ref": "#"}, 1).unjudged == ("steps",)
    assert check_schema({"anyOf": [{"not": {"$ref": "#"}}, {"$ref": "#"}]}, 1).unjudged == ("steps",)


def test_references_that_double_at_every_level_are_counted_not_followed() -> None:
    """Sixty levels of two references each are 2**60 visits; the validator would make them all."""
    levels = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(60)}
    schema = {"$defs": {**levels, "d60": {"type": "integer"}}, "$ref": "#/$defs/d0"}
    assert check_schema(schema, 1).unjudged == ("steps",)
    twice = {"anyOf": [{"type": "integer"}, {"items": {"$ref": "#"}, "maxItems": 1}, {"items": {"$ref": "#"}}]}
    value: object = "x"
    for _ in range(40):
        value = [value]
    assert check_schema(twice, value).unjudged == ("steps",)


def test_a_value_deeper_than_any_answer_is_left_unjudged_not_followed() -> None:
    """The validator follows a recursive schema by recursion of its own, without a limit."""
    value: object = 1
    for _ in range(900):
        value = [value]
    assert check_schema({"items": {"$ref": "#"}}, value).unjudged == ("steps",)


def test_a_recursive_schema_judges_a_finite_value() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}, "additionalProperties": False}
    assert check_schema(tree, {"child": {"child": {}}}).verdict == "valid"
    assert check_schema(tree, {"child": {"child": {"x": 1}}}).verdict == "invalid"


def test_nothing_is_fetched() -> None:
    report = check_schema({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}, "b": {"$ref": "#/nowhere"}}}, {"a": 1})
    assert report.unjudged == ("$ref",)
    assert check_schema({"$schema": "http://127.0.0.1:9/draft"}, 1).unjudged == ("schema",)


def test_true_is_not_one() -> None:
    assert check_schema({"enum": [1]}, True).verdict == "invalid"
    assert check_schema({"const": 1}, 1.0).verdict == "valid"
    assert check_schema({"type": "integer"}, True).verdict == "invalid"


@pytest.mark.parametrize("schema", [3, {"type": 5}, {"required": 7}, {"patternProperties": 3}, {"minimum": "a"}])
def test_a_schema_that_makes_no_sense_is_unjudged_not_an_error(schema: object) -> None:
    assert check_schema(schema, {"a": 1}).unjudged == ("schema",)


def test_text_that_is_no_unicode_is_unjudged_not_an_error() -> None:
    assert check_schema({"type": "string"}, "\ud800").verdict == "unjudged"
