"""Raw strings: every format's strings are valid, patterns mean what JSON Schema says, examples are what they claim."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import pytest

from deepserve.core.formats import FORMATS
from deepserve.core.schema import check_schema
from deepserve.grammar.example_text import FORMAT_EXAMPLES, example, examples_in
from deepserve.grammar.raw_text import is_readable, pattern_terminal
from tests.grammar.answers import admits, arguments_of, at_random, calls_form, compiler, json_form, read, tool, written


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_is_written_for_a_format_is_valid(name: str) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "string", "format": name}},
        "required": ["a"],
    }
    form = compiler().compile(calls_form(tool(**schema), is_parallel=False))
    for seed in range(40):
        output = written(form, at_random(seed), max_tokens=form.shortest_tokens + Random(seed).randrange(60))
        (value,) = arguments_of(read(output))
        assert check_schema(schema, value).verdict == "valid", value


def test_examples_of_formats_are_valid() -> None:
    for name, text in FORMAT_EXAMPLES.items():
        assert not check_schema({"format": name}, text).problems, name


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Z]{3}-[0-9]{4,8}$",
        "^pbj:([a-z0-9-]+):([a-z0-9\\.-]+):([a-z0-9-]+)?:[0-9]+$",
        "(foo|ba+r)baz?",
        "^(?:a|bc)*d{2,}$",
        r"^\d{4}-\d{2}\w\s\S$",
        "[^a-z]",
        "^[]]$",
        r"[\]\-a]x",
        "(?P<n>ab)+?",
        "(?<n>x{0})y",
        r"\u0041\x42\.\/",
        "^$|^longer$",
        "a.b",
        "",
    ],
)
def test_an_example_matches_its_pattern(pattern: str) -> None:
    known = pattern.replace("(?<n>", "(?P<n>")
    assert re.search(known, example(pattern)), example(pattern)


@pytest.mark.parametrize("broken", ["[a", "(a", "a{", "*", "\\", "(?", "[", "\\u12", "(?<n"])
def test_a_broken_pattern_has_some_example_or_none(broken: str) -> None:
    assert isinstance(example(broken), str)


def test_examples_are_found_wherever_schemas_stand() -> None:
    schema = {
        "properties": {"a": {"pattern": "^x$"}, "b": {"items": {"format": "date"}}},
        "patternProperties": {"^k[0-9]$": {}},
        "anyOf": [{"pattern": "^y$"}],
    }
    assert set(examples_in(schema)) == {"x", "y", "2000-01-01", "k0"}


@pytest.mark.parametrize("pattern", [r"^\s$", r"^[\sx]$", r"^\S$", r"^[^\s]$", r"^[^\S]$", r"^\\s$"])
def test_blanks_in_patterns_are_those_of_the_validator(pattern: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]}
    form = compiler().compile(calls_form(tool(**dict[str, Any](schema)), is_parallel=False))
    opening = '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">'
    ending = "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    for code in (9, 11, 13, 28, 32, 0x85, 0xA0, 0x180E, 0x1680, 0x2003, 0x2028, 0x3000, 0xFEFF, 0x61, 0x5C):
        value = {"a": chr(code)}
        is_valid = check_schema(schema, value).verdict == "valid"
        assert admits(form, opening + value["a"] + ending) is is_valid, hex(code)
    assert admits(form, opening + r"\s" + ending) is (check_schema(schema, {"a": r"\s"}).verdict == "valid")


def test_blanks_mean_the_same_in_json() -> None:
    schema = {"type": "string", "pattern": r"^[\w\s-]$"}
    form = compiler().compile(json_form(schema))
    for code in (9, 32, 0x85, 0xA0, 0x2003, 0x3000, 0xFEFF, 0x61):
        text = json.dumps(chr(code), ensure_ascii=code < 32)
        assert admits(form, text) is (check_schema(schema, chr(code)).verdict == "valid"), hex(code)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "[A-Z]{3}-[0-9]{4,8}",
            "^a",
            "a$",
            "^(a|b)$",
            "",
            "^$",
            r"\d+\s\w",
            r"\p{L}+",
            "a/b",
            "[/]",
            r"a\/b",
            "x{2,}",
        ),
        *("(^a|b)$", "(^a|b$)", "(a$|b)", "a^b", "a$b", "^a|b$", r"\^a\$", "[^$]$", r"\Aab", r"ab\z", r"\bx", "a(?!b)"),
        *("(?i)abc", "(?<n>a)", r"(a)\1", "𝒳+", r"\n", "\n", '"', r"\"", r"\\", r"\\/", "[^a]", "(?:a|b)?"),
    ],
)
def test_a_pattern_of_a_tool_that_is_not_strict_is_kept_where_raw_text_can_follow_it(pattern: str) -> None:
    """However that is found out: as JSON some expressions can be followed that cannot be as raw text."""
    lenient = tool(type="object", properties={"x": {"type": "string", "pattern": pattern}}, is_strict=False)
    relaxed = compiler().compile(calls_form(lenient)).relaxed
    assert bool(relaxed) is not is_readable(pattern_terminal(pattern))
