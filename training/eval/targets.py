"""What the models are to reach: the rows of `targets.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

Thinking = Literal["off", "low", "high"]

THINKING: tuple[Thinking, ...] = ("off", "low", "high")


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row; `targets.toml` says what the fields mean."""

    name: str
    title: str
    skills: tuple[str, ...]
    but_not: tuple[str, ...] = ()
    thinking: Thinking = "high"
    enforced: bool = True
    judged: Literal["right", "well_formed"] = "right"
    flash_percent: float | None = None
    pro_percent: float | None = None

    def counts(self, skill: str) -> bool:
        """Whether questions of this skill belong to the row."""
        return _fits(skill, self.skills) and not _fits(skill, self.but_not)

    def goal(self, model: str) -> float | None:
        """In percent, for a model by its folder's name."""
        return self.pro_percent if "pro" in model else self.flash_percent


def _fits(skill: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(skill, pattern) for pattern in patterns)


def load_targets() -> tuple[Target, ...]:
    """All rows, in the order in which they are printed."""
    text = (Path(__file__).parent / "targets.toml").read_text(encoding="utf-8")
    return msgspec.convert(tuple(tomllib.loads(text)["row"]), tuple[Target, ...])


def unasked(targets: Iterable[Target], skills: Iterable[str]) -> list[str]:
    """Rows for which there is no question."""
    known = list(skills)
    return [target.name for target in targets if not any(map(target.counts, known))]
