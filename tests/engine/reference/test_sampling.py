"""Draws: every knob by a distribution worked out by hand, in the order that `Draw` fixes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from deepserve.engine.interface import Draw, Drawn, RowFault, uniform
from deepserve.engine.reference.sampling import adjust, draw_token


def logits_of(*probabilities: float) -> Any:
    return np.log(np.array(probabilities, np.float32))


def token(logits: Any, **fields: Any) -> int:
    drawn = draw_token(logits, Draw(**fields))
    assert isinstance(drawn, Drawn)
    return drawn.token


def support(logits: Any, **fields: Any) -> set[int]:
    return {token(logits, seed=seed, **fields) for seed in range(300)}


def test_greedy_takes_the_best_and_ties_go_to_the_lower_id() -> None:
    assert token(logits_of(0.1, 0.45, 0.45), temperature=0) == 1


def test_shares_follow_the_distribution_and_its_temperature() -> None:
    for temperature in (0.5, 1.0, 2.0):
        weights = np.array([0.5, 0.3, 0.2]) ** (1 / temperature)
        counts = np.bincount(
            [token(logits_of(0.5, 0.3, 0.2), temperature=temperature, seed=seed) for seed in range(4000)], minlength=3
        )
        assert np.abs(counts / 4000 - weights / weights.sum()).max() < 0.03


def test_the_draw_is_the_inverse_of_the_cumulated_ranks() -> None:
    """Ranked 1 (0.5), 2 (0.3), 0 (0.2): the uniform number alone says which."""
    for position in range(200):
        number = uniform(3, position)
        expected = 1 if number < 0.5 else 2 if number < 0.8 else 0
        if min(abs(number - 0.5), abs(number - 0.8)) > 1e-6:
            assert token(logits_of(0.2, 0.5, 0.3), seed=3, position=position) == expected


def test_top_k_top_p_and_min_p_cut_the_tail() -> None:
    logits = logits_of(0.05, 0.4, 0.15, 0.3, 0.1)
    assert support(logits) == {0, 1, 2, 3, 4}
    assert support(logits, top_k=2) == {1, 3}
    assert support(logits, top_p=0.5) == {1, 3}
    assert support(logits, top_p=0.75) == {1, 2, 3}
    assert support(logits, top_p=1e-9) == {1}
    assert support(logits, min_p=0.3) == {1, 2, 3}
    # Of the two that top_k leaves, the first has 4/7 of the mass.
    assert support(logits, top_k=2, top_p=0.5) == {1}


def test_top_k_breaks_ties_towards_lower_ids() -> None:
    assert support(logits_of(0.25, 0.25, 0.25, 0.25), top_k=2) == {0, 1}


def test_penalties_and_biases_move_the_logits() -> None:
    logits = np.array([2.0, 1.9, -1.0, -1.1], np.float32)
    assert token(logits, temperature=0, frequency_penalty=0.06, output_counts={0: 2}) == 1
    assert token(logits, temperature=0, frequency_penalty=0.04, output_counts={0: 2}) == 0
    assert token(logits, temperature=0, presence_penalty=0.2, output_counts={0: 1}) == 1
    assert token(logits, temperature=0, repetition_penalty=1.1, prompt_tokens=frozenset({0})) == 1
    assert token(logits, temperature=0, logit_bias={2: 5.0}) == 2
    only_negative = bytes([0b1100])
    assert token(logits, temperature=0, allowed=only_negative) == 2
    assert token(logits, temperature=0, allowed=only_negative, repetition_penalty=1.2, output_counts={2: 1}) == 3


def test_the_repetition_penalty_divides_to_the_last_bit() -> None:
    """It multiplied by the reciprocal, which is another number for one logit in three."""
    logits = np.arange(1, 40) / 7
    adjusted = adjust(logits.copy(), Draw(repetition_penalty=1.1, prompt_tokens=frozenset(range(39))))
    assert (adjusted == logits / 1.1).all()


def test_logprobs_are_taken_after_penalties_and_mask_and_before_temperature() -> None:
    draw = Draw(
        temperature=0.1,
        num_top_logprobs=2,
        logit_bias={0: math.log(2)},
        allowed=bytes([0b0111]),
    )
    drawn = draw_token(logits_of(0.1, 0.1, 0.1, 0.7), draw)
    assert isinstance(drawn, Drawn)
    assert drawn.token == 0
    assert drawn.logprob == pytest.approx(math.log(0.5), abs=1e-6)
    assert [token for token, _ in drawn.top] == [0, 1]
    assert drawn.top[1][1] == pytest.approx(math.log(0.25), abs=1e-6)
    assert draw_token(logits_of(0.1, 0.9), Draw(temperature=0)) == Drawn(1)
    plain = draw_token(logits_of(0.1, 0.9), Draw(temperature=0, num_top_logprobs=0))
    assert isinstance(plain, Drawn)
    assert plain.top == ()
    assert plain.logprob == pytest.approx(math.log(0.9), abs=1e-6)


def test_a_draw_that_cannot_be_made_is_a_fault() -> None:
    assert isinstance(draw_token(logits_of(0.5, 0.5), Draw(allowed=b"\x00")), RowFault)
    for bad in (math.nan, math.inf):
        assert isinstance(draw_token(np.array([0.0, bad], np.float32), Draw()), RowFault)


def test_extreme_temperatures_stay_finite() -> None:
    assert support(np.array([1000.0, 0.0, -1000.0], np.float32), temperature=1e-6) == {0}
    assert support(np.array([1.0, 0.0, -1.0], np.float32), temperature=1e6) == {0, 1, 2}
