"""JSON as the model reads it."""

from __future__ import annotations

import pytest

from deepserve.prompt.json_text import MAX_DEPTH, read_json, write_json


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ('{"b":1,"a":[1,2,{"c":null}]}', '{"b": 1, "a": [1, 2, {"c": null}]}'),
        ('"é\\u00e9\\n\\"\\u0001/\u2028"', '"éé\\n\\"\\u0001/\u2028"'),
        ("1e5", "100000.0"),
        ("0.00001", "0.00001"),
        ("0.000001", "1e-6"),
        ("-1.5e-7", "-1.5e-7"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "1.8446744073709552e+19"),
        ("-0", "-0.0"),
        ("[true,false]", "[true, false]"),
        ('{"a":1,"a":2}', '{"a": 2}'),
    ],
)
def test_values_are_written_as_the_vendor_writes_them(source: str, written: str) -> None:
    assert write_json(read_json(source)) == written


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property"),
        ("NaN", "not JSON"),
        ("[1,]", "Expecting value"),
        ("1e400", "out of range"),
        ("1" * 400, "out of range"),
        ('"\\ud800"', "surrogates"),
        ("[" * 100_000, "too deeply"),
    ],
)
def test_what_is_not_json_raises_value_error(source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_json(source)


def test_nesting_is_read_up_to_the_limit() -> None:
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="too deeply"):
        read_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
