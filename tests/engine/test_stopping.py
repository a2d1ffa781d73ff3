from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.engine.stopping import StopStrings


def stopped(pieces: list[str], strings: list[str]) -> tuple[str, str | None]:
    """The released text and the stop string, in full."""
    stops = StopStrings(strings)
    out: list[str] = []
    for piece in pieces:
        release = stops.feed(piece)
        out.append(release.text)
        if release.stop_string is not None:
            return "".join(out), release.stop_string
    return "".join(out) + stops.flush(), None


@pytest.mark.parametrize(
    ("text", "strings", "expected"),
    [
        ("one two three", ["two"], ("one ", "two")),
        ("one two three", ["four"], ("one two three", None)),
        ("aaab", ["aab"], ("a", "aab")),
        ("abcabd", ["abd"], ("abc", "abd")),
        ("say END", ["ND", "END"], ("say ", "END")),
        ("abcdef", ["cdef", "bc"], ("a", "bc")),
        ("no end yet EN", ["END"], ("no end yet EN", None)),
        ("anything", [], ("anything", None)),
        ("🦊🦊🐻", ["🦊🐻"], ("🦊", "🦊🐻")),
    ],
)
def test_the_string_that_is_complete_first_ends_the_text(
    text: str, strings: list[str], expected: tuple[str, str | None]
) -> None:
    assert stopped([text], strings) == expected


def test_only_the_possible_beginning_of_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["\n\nUser:"])
    assert stops.feed("hello\n").text == "hello"
    assert stops.feed("\nUs").text == ""
    assert stops.feed("ually").text == "\n\nUsually"
    assert stops.flush() == ""


def test_text_held_at_the_end_is_released_by_flush_and_the_next_text_starts_afresh() -> None:
    stops = StopStrings(["ab"])
    assert stops.feed("xa").text == "x"
    assert stops.flush() == "a"
    assert stops.feed("b").text == "b"


@given(st.text("abc", max_size=24), st.lists(st.text("abc", min_size=1, max_size=4), max_size=4), st.randoms())
def test_the_outcome_does_not_depend_on_how_the_text_is_cut(
    text: str, strings: list[str], randomness: random.Random
) -> None:
    cuts = sorted(randomness.randint(0, len(text)) for _ in range(randomness.randint(0, 6)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    whole = stopped([text], strings)
    assert stopped(pieces, strings) == whole
    assert stopped(list(text), strings) == whole


@given(st.text("ab", max_size=16), st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3))
def test_released_text_never_contains_a_stop_string(text: str, strings: list[str]) -> None:
    released, found = stopped(list(text), strings)
    assert not any(string in released for string in strings)
    if found is not None:
        assert text.startswith(released + found)
    else:
        assert released == text


def test_long_repetitive_stop_strings_cost_linear_time() -> None:
    """Rescanning the held text with each token would make 16 strings of 1 KiB a denial of service."""
    strings = ["a" * 1023 + chr(ord("b") + number) for number in range(16)]
    stops = StopStrings(strings)
    released = sum(len(stops.feed("a").text) for _ in range(3000))
    assert released == 3000 - 1023
