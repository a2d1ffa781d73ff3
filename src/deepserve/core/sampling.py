"""How tokens are drawn: every knob once, with its range, its neutral value and its meaning.

Dialects read ranges and texts from `KNOBS`; the engine reads values from `Sampling`. A new knob starts here.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Knob(msgspec.Struct, frozen=True, kw_only=True):
    """One sampling parameter.

    low, high    the range that makes sense to the engine; a dialect may allow less
    low_open     low itself is excluded
    neutral      the value at which the knob does nothing
    """

    name: str
    low: float
    high: float
    neutral: float
    meaning: str
    low_open: bool = False
    integer: bool = False

    def admits(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and value <= self.high


KNOBS: Mapping[str, Knob] = {
    knob.name: knob
    for knob in (
        Knob(
            name="temperature",
            low=0,
            high=2,
            neutral=1,
            meaning="Flattens (>1) or sharpens the distribution; 0 takes the best token.",
        ),
        Knob(
            name="top_p",
            low=0,
            low_open=True,
            high=1,
            neutral=1,
            meaning="Keeps the smallest set of tokens whose probabilities reach this sum.",
        ),
        Knob(
            name="top_k",
            low=0,
            high=1_000_000,
            neutral=0,
            integer=True,
            meaning="Keeps this many of the most probable tokens; 0 keeps all.",
        ),
        Knob(
            name="min_p",
            low=0,
            high=1,
            neutral=0,
            meaning="Drops tokens less probable than this share of the best one.",
        ),
        Knob(
            name="top_a",
            low=0,
            high=1,
            neutral=0,
            meaning="Drops tokens less probable than this times the square of the best one.",
        ),
        Knob(
            name="repetition_penalty",
            low=0,
            low_open=True,
            high=2,
            neutral=1,
            meaning="Scales down tokens already in prompt or output (>1) or up (<1).",
        ),
        Knob(
            name="frequency_penalty",
            low=-2,
            high=2,
            neutral=0,
            meaning="Subtracted from a token's logit once for each time it is in the output.",
        ),
        Knob(
            name="presence_penalty",
            low=-2,
            high=2,
            neutral=0,
            meaning="Subtracted once from the logit of each token that is in the output.",
        ),
    )
}


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """What the client asked for; None means it did not ask, and the served model's own default applies.

    logit_bias        token id -> added to its logit, -100..100
    seed              makes a request repeatable; absent, each request draws its own
    num_top_logprobs  None: no log-probabilities; 0..20: the chosen token's and that many of the best
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    top_a: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[int, float] = {}
    seed: int | None = None
    num_top_logprobs: int | None = None
