"""Text that says the same for ever is told from text that only looks alike."""

from __future__ import annotations

import random

import pytest

from deepserve.backends.fleet.repetition import Repetition


def _repeated(text: str, *, piece: int) -> int:
    repetition = Repetition()
    for at in range(0, len(text), piece):
        repetition.hear(text[at : at + piece])
    return repetition.num_characters


@pytest.mark.parametrize("said", ["a", "ab", "again and ", "x" * 999 + "y", "aab" * 300 + "\n", "无尽"])
@pytest.mark.parametrize("piece", [1, 7, 5000, 100_000])
def test_a_loop_is_noticed_however_it_is_cut(said: str, piece: int) -> None:
    text = said * (100_000 // len(said))
    assert _repeated(text, piece=piece) >= 90_000


def test_a_loop_is_noticed_after_a_good_beginning() -> None:
    letters = random.Random(1).choices("abcdefgh ", k=20_000)
    assert _repeated("".join(letters) + "again " * 10_000, piece=10) >= 50_000


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{number}, " for number in range(20_000)),
        "".join(f"| {number} | 0 | 0 | 0 |\n" for number in range(10_000)),
        "".join(random.Random(2).choices("ab", k=100_000)),
        "the same line\n" * 200,
        ("x" * 1500 + "y") * 60,
    ],
)
def test_what_goes_on_is_no_loop(text: str) -> None:
    assert _repeated(text, piece=13) == 0


def test_a_loop_that_ends_is_forgotten() -> None:
    rest = "".join(f"{number} " for number in range(3000))
    assert _repeated("again " * 10_000 + rest, piece=10) == 0
