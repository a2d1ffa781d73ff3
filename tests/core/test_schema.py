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
            cases += [(file.stem, group["schema"], test["data"], test["valid"]) for test in group["tests"]]
    return cases


@pytest.mark.parametrize("folder", ["suite", "maskbench"])
def test_no_verdict_contradicts_the_public_suites(folder: str) -> None:
    if not _DATA.exists():
        pytest.skip("the public schema suites are not beside the checkout")
    cases = _cases(folder)
    wrong = [
        (name, schema, value)
        for name, schema, value, is_valid in cases
        if check_schema(schema, value).verdict == ("invalid" if is_valid else "valid")
    ]
    assert wrong == []
    assert len(cases) > 300


def test_nearly_all_cases_beyond_patterns_and_formats_are_judged() -> None:
    if not _DATA.exists():
        pytest.skip("the public schema suites are not beside the checkout")
    cases = [case for case in _cases("suite") if case[0] not in ("pattern", "format")]
    judged = [case for case in cases if check_schema(case[1], case[2]).verdict != "unjudged"]
    assert len(judged) > 0.85 * len(cases)


def test_a_problem_names_the_place_and_the_reason() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    }
    report = check_schema(schema, {"city": {"name": 3}, "extra": 1})
    assert report.problems == (
        "/city/name is of type integer, not string",
        "/ lacks unit",
        "/extra is not allowed",
    )


def test_a_pattern_is_not_judged_and_never_run() -> None:
    """A backtracking matcher would hang on this pattern and text."""
    report = check_schema({"type": "string", "pattern": "^(a+)+$"}, "a" * 64 + "!")
    assert report.verdict == "unjudged"
    assert report.unjudged == ("pattern",)


def test_a_schema_that_refers_to_itself_ends() -> None:
    assert check_schema({"$ref": "#"}, 1).verdict == "unjudged"
    doubling = {"anyOf": [{"not": {"$ref": "#"}}, {"$ref": "#"}]}
    assert check_schema(doubling, 1).verdict == "unjudged"


def test_a_recursive_schema_judges_a_finite_value() -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}, "additionalProperties": False}
    assert check_schema(tree, {"child": {"child": {}}}).verdict == "valid"
    assert check_schema(tree, {"child": {"child": {"x": 1}}}).verdict == "invalid"


def test_true_is_not_one() -> None:
    assert check_schema({"enum": [1]}, True).verdict == "invalid"
    assert check_schema({"const": 1}, 1.0).verdict == "valid"
    assert check_schema({"type": "integer"}, True).verdict == "invalid"


@pytest.mark.parametrize("schema", [3, {"type": 5}, {"required": 7}, {"$ref": "http://elsewhere/x"}, {"minimum": "a"}])
def test_a_schema_that_makes_no_sense_is_unjudged_not_an_error(schema: object) -> None:
    assert check_schema(schema, {"a": 1} if schema == {"required": 7} else 3).verdict == "unjudged"
