"""JSON judged while it streams."""

from __future__ import annotations

import json
import random

import pytest

from deepserve.backends.json_stream import JsonStream
from deepserve.prompt.json_repair import repair_json
from tests.prompt.corpus import random_value

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "when": {"$ref": "#/$defs/day"}, "any": {}},
    "additionalProperties": False,
    "$defs": {"day": {"type": "object", "properties": {"day": {"type": "integer", "minimum": 1}}}},
}


def where(text: str, schema: dict[str, object] | None = None, *, is_lenient: bool = False) -> int | None:
    """How many characters it takes until the text is known to be wrong."""
    stream = JsonStream(schema, is_lenient=is_lenient)
    return next((at + 1 for at, character in enumerate(text) if stream.feed(character) is not None), None)


@pytest.mark.parametrize("is_lenient", [False, True])
def test_no_beginning_of_a_valid_text_is_refused(is_lenient: bool) -> None:
    for seed in range(400):
        rng = random.Random(seed)
        value = {"a": random_value(rng), "b": random_value(rng), "": [random_value(rng)], "é\n": {}}
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 2)))
        assert where(text, is_lenient=is_lenient) is None, text
        assert JsonStream().feed(text) is None


def test_the_first_character_after_which_nothing_valid_can_follow_is_found() -> None:
    """Compared with the decoder of the standard library: what it refuses at the end was refused on the way."""
    signs = [
        '{"a":',
        "1",
        "[",
        "]",
        "}",
        ",",
        '"x"',
        ":",
        " ",
        "true",
        "nul",
        "-",
        "01",
        "1.",
        '"\\u12',
        "'",
        "\n",
        "\x0b",
    ]
    num_wrong = 0
    for seed in range(3000):
        rng = random.Random(seed)
        text = "".join(rng.choice(signs) for _ in range(rng.randint(1, 8))) + " "
        try:
            json.loads(text, parse_constant=lambda word: 1 / 0)
            is_valid = True
        except ValueError:
            is_valid = False
        problem = JsonStream().feed(text)
        num_wrong += problem is not None
        assert not (is_valid and problem is not None), (text, problem)
    assert num_wrong > 2000


def test_where_a_text_is_cut_changes_nothing() -> None:
    texts = ['{"city": "a\\"b", "when": {"day": 0}}', '{"city": 5}', '{"x": 1}', "[1, 2,]", '```json\n{"a": [tru]}']
    for text in texts:
        for is_lenient in (False, True):
            whole = JsonStream(SCHEMA, is_lenient=is_lenient).feed(text)
            for cut in range(len(text)):
                stream = JsonStream(SCHEMA, is_lenient=is_lenient)
                stream.feed(text[:cut])
                assert stream.feed(text[cut:]) == whole, (text, cut)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "the answer is no object"),
        ('{"town":', "/town: is not allowed"),
        ('{"city": 5,', "/city"),
        ('{"city": 5}', "/city"),
        ('{"when": {"day": 0},', "/when/day"),
        ('{"when": 1}', "/when"),
        ('{"city" "', "a value where none belongs"),
        ('{"city": "x"]', "] where it does not belong"),
        ('{"city": tru,', "tru is no JSON"),
        ('{"city": "a\nb', "a line break"),
    ],
)
def test_what_is_wrong_is_named_as_soon_as_it_is_certain(text: str, problem: str) -> None:
    assert where(text, SCHEMA) == len(text) if "\n" not in text else len(text) - 1
    assert (JsonStream(SCHEMA).feed(text) or "").startswith(problem)


def test_members_that_may_be_anything_are_not_judged() -> None:
    assert where('{"any": [{"city": 5}], "city": "x"}', SCHEMA) is None
    assert where('{"a": {"city": 5}}', {"properties": {"city": {"type": "string"}}}) is None


def test_a_lenient_reader_forgives_nothing_that_cannot_be_repaired() -> None:
    """What it lets through to the end can be repaired, what it stops cannot."""
    parts = [
        "Here: ",
        "```json\n",
        "{",
        '"a": 1',
        ", ",
        '"b": [1, 2,]',
        '"c": "x\ny"',
        "True",
        "}",
        "\n```",
        "'",
        ": ",
        "x",
    ]
    num_stopped = num_repaired = 0
    for seed in range(3000):
        rng = random.Random(seed)
        text = "".join(rng.choice(parts) for _ in range(rng.randint(1, 9)))
        repaired, problem = repair_json(text), JsonStream(is_lenient=True).feed(text)
        assert not (repaired is not None and problem is not None), (text, problem, repaired)
        num_stopped += problem is not None
        num_repaired += repaired is not None
    assert num_stopped > 200
    assert num_repaired > 50
