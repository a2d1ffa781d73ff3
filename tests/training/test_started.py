"""The runs that are still to go on: whole, small, and as far as the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from training.curves import LOG_FILE, read_log
from training.eval.formats import SHIPPED
from training.eval.results import Score, load_results
from training.shape import SHAPES

import training
from deepserve.engine.checkpoint import open_checkpoint

FOLDER = Path(training.__file__ or "").parent


@pytest.mark.parametrize(("name", "minutes"), [("mini-flash", 62), ("mini-pro", 66)])
def test_a_started_run_is_as_far_as_the_page_says(name: str, minutes: int) -> None:
    started = FOLDER / "started" / name
    assert open_checkpoint(started).config == SHAPES[name]
    assert sum(path.stat().st_size for path in started.iterdir()) < 10e6
    assert round(read_log(started / LOG_FILE)[-1].elapsed_s / 60) == minutes

    total = Score()
    for result in load_results(started).ways:
        if (result.way.format, result.way.thinking, result.way.enforced) == (SHIPPED, "high", True):
            for skill, score in result.skills.items():
                if not skill.startswith("recall_4k") and not skill.startswith("recall_16k"):
                    total = total.plus(score)
    page = (FOLDER / "README.md").read_text()
    assert f"{minutes} " in page
    assert f"{name} answered {total.right_percent:.0f} %" in page or f"{name} {total.right_percent:.0f} %" in page
