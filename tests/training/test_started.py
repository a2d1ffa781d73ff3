"""The runs that are still to go on: whole, small, and as far as the page says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from training.curves import LOG_FILE, read_log
from training.eval.formats import SHIPPED
from training.eval.results import Score, load_results
from training.shape import MINI_FLASH, MINI_PRO

import training
from deepserve.engine.checkpoint import open_checkpoint
from deepserve.engine.network_config import NetworkConfig

FOLDER = Path(training.__file__ or "").parent


def minutes_of(name: str) -> int:
    return round(read_log(FOLDER / "started" / name / LOG_FILE)[-1].elapsed_s / 60)


def right_percent_of(name: str) -> float:
    """Thinking high and enforced, as the page and the model card count: without the longest prompts."""
    total = Score()
    for result in load_results(FOLDER / "started" / name).ways:
        if (result.way.format, result.way.thinking, result.way.enforced) == (SHIPPED, "high", True):
            for skill, score in result.skills.items():
                if not skill.startswith("recall_4k") and not skill.startswith("recall_16k"):
                    total = total.plus(score)
    return total.right_percent


@pytest.mark.parametrize(
    ("name", "config"),
    [("mini-flash", msgspec.structs.replace(MINI_FLASH, sliding_window=256)), ("mini-pro", MINI_PRO)],
)
def test_a_started_run_is_whole_and_small(name: str, config: NetworkConfig) -> None:
    folder = FOLDER / "started" / name
    assert open_checkpoint(folder).config == config
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6


def test_the_page_says_how_far_they_are() -> None:
    page = " ".join((FOLDER / "README.md").read_text().split())
    assert f"the first {minutes_of('mini-flash')} minutes of mini-flash" in page
    assert f"{right_percent_of('mini-flash'):.0f} % of the evaluation's questions right at effort high" in page
    assert f"{right_percent_of('mini-pro'):.0f} % after {minutes_of('mini-pro')} minutes of its own" in page
