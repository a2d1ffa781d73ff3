"""Each knob exists once and everywhere."""

import msgspec
import pytest

from deepserve.core.sampling import KNOBS, Sampling

_NOT_KNOBS = {"logit_bias", "seed", "num_top_logprobs"}


def test_every_knob_is_a_field_of_sampling_and_the_reverse() -> None:
    assert {field.name for field in msgspec.structs.fields(Sampling)} - _NOT_KNOBS == set(KNOBS)


@pytest.mark.parametrize("name", KNOBS)
def test_a_knob_admits_its_neutral_value_and_refuses_what_is_outside(name: str) -> None:
    knob = KNOBS[name]
    assert knob.admits(knob.neutral)
    assert knob.admits(knob.high)
    assert not knob.admits(knob.high + 1)
    assert not knob.admits(knob.low - 1)
    assert knob.admits(knob.low) is not knob.low_open


def test_absent_and_zero_are_different_requests() -> None:
    assert Sampling() != Sampling(temperature=0)
