"""JSON that was missed by a little."""

from __future__ import annotations

import json
import random

import pytest

from deepserve.prompt.json_repair import repair_json
from tests.prompt.corpus import random_value


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('{"a": 1}', {"a": 1}, ()),
        ("5", 5, ()),
        ('```json\n{"a": 1}\n```', {"a": 1}, ("fences",)),
        ("```\n[1]\n```", [1], ("fences",)),
        ('Sure: {"a": {"b": [1, 2,],},} there.', {"a": {"b": [1, 2]}}, ("trailing commas", "prose")),
        ('{"a": "x\n\ty"}', {"a": "x\n\ty"}, ("line breaks in strings",)),
        ('{"a": True, "b": [None, False]}', {"a": True, "b": [None, False]}, ("Python words",)),
        ('{"a": "True, }"}', {"a": "True, }"}, ()),
    ],
)
def test_what_one_thing_can_have_been_meant_by_is_mended(text: str, value: object, repairs: tuple[str, ...]) -> None:
    found = repair_json(text)
    assert found is not None
    assert (json.loads(found.text), found.value, found.repairs) == (value, value, repairs)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "{'a': 1}", "{a: 1}", '{"a": 1 "b": 2}', '{"a": 1} or {"a": 2}', '{"a": {"b": 1} and more}', "[1, 2",
     '{"a": /* x */ 1}', '"a {1}" or 2', "{", '{"a"}', "[1,,2]", '{"a": 01}', "[nan]", "[1]]", '{"a": [1}'],
)  # fmt: skip
def test_what_could_mean_something_else_is_left_alone(text: str) -> None:
    assert repair_json(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, "b": [1, 2', {"a": 1, "b": [1]}),
        ('{"a": 1, "b": [1, 2,', {"a": 1, "b": [1, 2]}),
        ('{"a": "tex', {"a": "tex"}),
        ('{"a": "te\\', {"a": "te"}),
        ('{"a": "te\\u00', {"a": "te"}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, "b":', {"a": 1}),
        ('{"a": 1, "b": tru', {"a": 1}),
        ("[[[", [[[]]]),
        ("{", {}),
        ('```json\n{"a": 1,', {"a": 1}),
    ],
)
def test_a_text_that_was_cut_is_closed_after_its_last_whole_member(text: str, value: object) -> None:
    found = repair_json(text, is_cut=True)
    assert found is not None
    assert found.value == value
    assert "open brackets" in found.repairs
    assert repair_json(text) is None


def test_every_cut_of_an_object_gives_a_part_of_it() -> None:
    """Nothing is made up: each member is the original's, or a beginning of it."""

    def is_part(part: object, whole: object) -> bool:
        if isinstance(part, dict) and isinstance(whole, dict):
            return all(key in whole and is_part(value, whole[key]) for key, value in part.items())
        if isinstance(part, list) and isinstance(whole, list):
            return all(map(is_part, part, whole))
        if isinstance(part, str) and isinstance(whole, str):
            return whole.startswith(part.rstrip("\ufffd")) or "\\u" in json.dumps(whole)
        return part == whole

    for seed in range(60):
        value = {"a": random_value(random.Random(seed)), "b": ["x", {"c": "é\n"}]}
        text = json.dumps(value, ensure_ascii=False)
        for cut in range(1, len(text)):
            found = repair_json(text[:cut], is_cut=True)
            assert found is not None, text[:cut]
            assert is_part(found.value, value), (text[:cut], found.value)
