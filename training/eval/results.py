"""What a measurement found of one model, as a file beside its weights from which every table is made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from training.eval.targets import Target, Thinking

FILE_NAME = "evaluation.json"


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Of one skill asked in one way; counts of questions."""

    num_asked: int = 0
    num_right: int = 0
    num_well_formed: int = 0

    def plus(self, other: Score) -> Score:
        """Both together."""
        return Score(
            num_asked=self.num_asked + other.num_asked,
            num_right=self.num_right + other.num_right,
            num_well_formed=self.num_well_formed + other.num_well_formed,
        )

    @property
    def right_percent(self) -> float:
        """Of what was asked."""
        return 100 * self.num_right / self.num_asked

    @property
    def well_formed_percent(self) -> float:
        """Of what was asked."""
        return 100 * self.num_well_formed / self.num_asked


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How questions are asked: weights in a format, thinking, with the form of answers enforced or not."""

    format: str
    thinking: Thinking
    enforced: bool

    @property
    def title(self) -> str:
        """For a person."""
        return f"{self.format}, thinking {self.thinking}, {'enforced' if self.enforced else 'not enforced'}"


class WayResult(msgspec.Struct, frozen=True, kw_only=True):
    """Every skill asked in one way."""

    way: Way
    skills: dict[str, Score]


class Oddity(msgspec.Struct, frozen=True, kw_only=True):
    """One bad input and what came of it.

    answer  its beginning
    ended   by the model, or by the limit
    """

    name: str
    answer: str
    ended: Literal["stop", "length"]
    num_tokens: int


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the shipped weights. first_token_ms: processor time for a prompt of 200 tokens, one thread."""

    total_parameters: int
    active_parameters: int
    num_layers: int
    compress_ratios: tuple[int, ...]
    hidden_size: int
    max_context: int
    vocab_size: int
    size_bytes: int
    formats: str
    fingerprint: str
    first_token_ms: float


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model. questions: hash of the set; is_sample: it was not asked whole."""

    model: str
    questions: str
    num_questions: int
    is_sample: bool
    shipped_format: str
    facts: ModelFacts
    ways: tuple[WayResult, ...]
    oddities: tuple[Oddity, ...]

    def scores(self, way: Way) -> dict[str, Score]:
        """By skill; empty where nobody was asked so."""
        return next((one.skills for one in self.ways if one.way == way), {})

    def score(self, target: Target, format_name: str) -> Score | None:
        """Of one row of the targets; None where there was no such question."""
        way = Way(format=format_name, thinking=target.thinking, enforced=target.enforced)
        return total(score for skill, score in self.scores(way).items() if target.counts(skill))

    @property
    def formats(self) -> list[str]:
        """Those that were asked, the shipped one first."""
        found = dict.fromkeys([self.shipped_format, *(one.way.format for one in self.ways)])
        return [name for name in found if any(one.way.format == name for one in self.ways)]


def total(scores: Iterable[Score]) -> Score | None:
    """All together; None of none."""
    found: Score | None = None
    for score in scores:
        found = score if found is None else found.plus(score)
    return found


def load_results(folder: Path) -> Results:
    """Beside a model's weights."""
    return msgspec.json.decode((folder / FILE_NAME).read_bytes(), type=Results)


def save_results(results: Results, folder: Path) -> None:
    """The same."""
    (folder / FILE_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
