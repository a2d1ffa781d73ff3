"""The words and numbers that fill the frames, split once and for all into a training and a held-out side.

Every value decides its own side by a checksum, so the two sides stay disjoint however the lists grow.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from training.conversations import Effort, Split
from training.phrases import words

HELD_OUT_SHARE = 8
"""One value in this many is held out."""

_ONSETS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "ch",
    "cl",
    "dr",
    "fl",
    "gr",
    "kl",
    "kr",
    "pl",
    "pr",
    "sh",
    "sk",
    "sl",
    "sp",
    "st",
    "th",
    "tr",
    "qu",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ei", "ia", "io", "oo", "ou", "y"]
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "k", "m", "x", "nd", "ng", "rt", "sk", "ck"]

T = TypeVar("T")


def is_held_out(value: object) -> bool:
    """Whether a value is kept for evaluation; case and surrounding blanks do not matter."""
    return zlib.crc32(str(value).strip().lower().encode()) % HELD_OUT_SHARE == 0


class Draw:
    """A seeded source of choices; values (not frames) come only from its side of the split."""

    def __init__(self, random: Random, split: Split) -> None:
        self.random = random
        self.split = split
        self.effort: Effort | None = "high"
        """How long the thought should be; None where nobody reads one. `mixture.conversation` sets it for the skill."""

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random.random() < probability

    def frame(self, options: Sequence[T]) -> T:
        """One of the options, whatever the side."""
        return options[self.random.randrange(len(options))]

    def wording(self, frames: Sequence[str]) -> str:
        """One of several ways to say something.

        One frame in `HELD_OUT_SHARE` is never trained on; evaluation takes such a frame half of the time, where the
        list has one. A list of a single frame belongs to both sides.
        """
        ours = [frame for frame in frames if self.owns(frame)]
        if not ours or (self.split == "held_out" and self.chance(0.5)):
            return self.frame(frames)
        return self.frame(ours)

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included, whatever the side."""
        return self.random.randint(low, high)

    def owns(self, value: object) -> bool:
        """Whether a value belongs to this side."""
        return is_held_out(value) == (self.split == "held_out")

    def value(self, options: Sequence[T]) -> T:
        """One of the options that belongs to this side."""
        while True:
            option = self.frame(options)
            if self.owns(option):
                return option

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Different options of this side, in random order; the side must have as many."""
        assert sum(self.owns(option) for option in set(options)) >= count
        found: list[T] = []
        while len(found) < count:
            option = self.value(options)
            if option not in found:
                found.append(option)
        return found

    def number(self, low: int, high: int) -> int:
        """A whole number of this side; numbers below 20 belong to both."""
        while True:
            number = self.random.randint(low, high)
            if number < 20 or self.owns(number):
                return number

    def made_up(self) -> str:
        """A word that no language has, in lower case."""
        while True:
            word = "".join(
                self.frame(_ONSETS) + self.frame(_VOWELS) + (self.frame(_CODAS) if self.chance(0.5) else "")
                for _ in range(self.random.choice((1, 2, 2, 2, 3, 3, 4)))
            )
            if len(word) > 2 and self.owns(word):
                return word

    def code(self) -> str:
        """An identifier such as "kx-4921" or "B77f"."""
        while True:
            letters = "".join(self.frame("abcdefghijklmnopqrstuvwxyz") for _ in range(self.between(1, 4)))
            if self.chance(0.4):
                letters = letters.upper()
            digits = "".join(self.frame("0123456789") for _ in range(self.between(1, 5)))
            code = self.frame(("{0}-{1}", "{0}{1}", "{0}_{1}", "{1}-{0}", "{0}{1}{0}")).format(letters, digits)
            if self.owns(code):
                return code

    def city(self) -> str:
        """A city, real or made up; the made-up ones teach to copy what was never seen."""
        if self.chance(0.45):
            return self.value(words("cities"))
        city = self.made_up().capitalize()
        return f"{self.frame(('New', 'San', 'Port', 'Bad', 'St.', 'Fort'))} {city}" if self.chance(0.1) else city

    def name(self) -> str:
        """A first name, real or made up."""
        return self.value(words("names")) if self.chance(0.5) else self.made_up().capitalize()

    def noun(self) -> str:
        """A thing, real or made up."""
        return self.value(words("nouns")) if self.chance(0.75) else self.made_up()

    def word(self) -> str:
        """Any lower-case word."""
        pool = self.frame(("nouns", "adjectives", "verbs", None))
        return self.made_up() if pool is None else self.value(words(pool))

    def words(self, low: int, high: int) -> str:
        """Several words, separated by single blanks."""
        return " ".join(self.word() for _ in range(self.between(low, high)))

    def keys(self, count: int) -> list[str]:
        """Different names for fields or parameters: known ones, and enough odd ones that they must be copied."""
        found: list[str] = []
        while len(found) < count:
            match self.between(0, 9):
                case 0 | 1 | 2 | 3 | 4:
                    key = self.value(words("fields"))
                case 5 | 6:
                    key = self.value(words("nouns"))
                case 7:
                    key = f"{self.value(words('adjectives'))}_{self.value(words('fields'))}"
                case 8:
                    key = f"{self.value(words('nouns'))}_{self.value(words('fields'))}"
                case _:
                    key = self.made_up()
            if key not in found:
                found.append(key)
        return found

    def title(self) -> str:
        """Two or three words that could head something, sometimes capitalised."""
        text = self.words(1, 3)
        return text.capitalize() if self.chance(0.4) else text
