"""The run that is still to go on: whole, small, and as far as the page says."""

from __future__ import annotations

from pathlib import Path

import msgspec
from training.curves import LOG_FILE, read_log
from training.eval.formats import SHIPPED
from training.eval.results import Score, load_results
from training.shape import MINI_FLASH

import training
from deepserve.engine.checkpoint import open_checkpoint

FOLDER = Path(training.__file__ or "").parent
STARTED = FOLDER / "started" / "mini-flash"


def test_the_started_run_is_as_far_as_the_page_says() -> None:
    assert open_checkpoint(STARTED).config == msgspec.structs.replace(MINI_FLASH, sliding_window=256)
    assert sum(path.stat().st_size for path in STARTED.iterdir()) < 5e6
    minutes = round(read_log(STARTED / LOG_FILE)[-1].elapsed_s / 60)

    total = Score()
    for result in load_results(STARTED).ways:
        if (result.way.format, result.way.thinking, result.way.enforced) == (SHIPPED, "high", True):
            for skill, score in result.skills.items():
                if not skill.startswith("recall_4k") and not skill.startswith("recall_16k"):
                    total = total.plus(score)
    page = (FOLDER / "README.md").read_text()
    assert f"the first {minutes} minutes of mini-flash" in page
    assert f"({total.right_percent:.0f} %\nof the evaluation's questions right" in page
