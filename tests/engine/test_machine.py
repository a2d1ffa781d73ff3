"""Measuring an engine and reading the machine's settings."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from deepserve.core.errors import EngineFailure
from deepserve.engine.machine import huge_page_policy, measure_decode
from tests.engine.fake_engine import FakeEngine


def test_measuring_ends_with_the_time_and_leaves_no_sequence() -> None:
    engine = FakeEngine()
    before = engine.free_blocks_ratio()
    times = itertools.count(0.0, 0.5)
    speed = measure_decode(engine, seconds=1.0, max_tokens=1000, clock=lambda: next(times))
    # Read at the start, before the first measured token, after each of two, and at the end: 2 tokens in 1.5 s.
    assert speed == pytest.approx(2 / 1.5)
    assert engine.free_blocks_ratio() == before


def test_measuring_ends_with_the_tokens() -> None:
    times = iter([0.0, 10.0, 11.0, 12.0, 13.0, 13.0])
    # Four tokens from 10 s to 13 s; the warm-up before is not counted.
    assert measure_decode(FakeEngine(), seconds=60.0, max_tokens=3, clock=lambda: next(times)) == pytest.approx(3 / 3)


def test_a_network_that_cannot_be_computed_is_a_failure_with_its_reason() -> None:
    with pytest.raises(EngineFailure, match="draws no token: "):
        measure_decode(FakeEngine(faulty=lambda _: True), seconds=1.0, max_tokens=1, clock=lambda: 0.0)


def test_the_policy_of_huge_pages_is_the_one_in_brackets(tmp_path: Path) -> None:
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    assert huge_page_policy(tmp_path / "enabled") == "madvise"
    assert huge_page_policy(tmp_path / "nowhere") is None
