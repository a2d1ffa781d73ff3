"""What a person sees while a model loads."""

from __future__ import annotations

import pytest

from deepserve.cli.progress import LoadingProgress


def test_a_model_that_is_there_at_once_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 0.5, 1.0])
    progress = LoadingProgress(lambda: next(times))
    progress(1, 2)
    progress(2, 2)
    assert capsys.readouterr().err == ""


def test_a_slow_model_is_heard_of_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 3.0, 4.0, 9.0])
    progress = LoadingProgress(lambda: next(times))
    for done in (40, 60, 120):
        progress(done * 10**9, 160 * 10**9)
    assert capsys.readouterr().err.splitlines() == [
        "Loading the model: 25% of 160.0 GB",
        "Loading the model: 75% of 160.0 GB",
    ]
