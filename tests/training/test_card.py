"""The model card says what was measured, and the one in the docs is what would be written now."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from training.card import CARD, card, read_shipped, short_card
from training.curves import draw_curves, read_log, thinned, write_log
from training.eval.formats import SHIPPED, models_folder
from training.eval.results import (
    ModelFacts,
    Oddity,
    Results,
    Score,
    Way,
    WayResult,
    save_results,
)
from training.train import LogLine


def results_of(model: str, num_right: int) -> Results:
    ways = tuple(
        WayResult(
            way=Way(format=name, thinking="high", enforced=True),
            skills={
                "json.extract": Score(num_asked=200, num_right=num_right + extra, num_well_formed=200),
                "recall_16k": Score(num_asked=10, num_right=0, num_well_formed=10),
            },
        )
        for name, extra in ((SHIPPED, 0), ("fp32", 2))
    )
    facts = ModelFacts(
        total_parameters=2_800_000,
        active_parameters=1_400_000,
        num_layers=4,
        compress_ratios=(0, 0, 4, 128),
        hidden_size=128,
        max_context=131_072,
        vocab_size=2048,
        size_bytes=4_000_000,
        formats="bf16, fp4 experts",
        fingerprint="f" * 32,
        first_token_ms=12.4,
    )
    return Results(
        model=model,
        questions="abc" * 21,
        num_questions=210,
        is_sample=False,
        shipped_format=SHIPPED,
        facts=facts,
        ways=ways,
        oddities=(Oddity(name="a pipe", answer="I `see`\n| one.", ended="length", num_tokens=1024),),
    )


def line(number: int) -> LogLine:
    return LogLine(
        share=number / 10,
        step=number,
        num_tokens=1_000_000 * (number + 1),
        elapsed_s=60.0 * number,
        tokens_per_s=1.0,
        loss=3.0 / (number + 1),
        index_loss=None,
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, num_right in (("mini-flash", 158), ("mini-pro", 190)):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        save_results(results_of(name, num_right), folder)
        write_log([line(number) for number in range(11)], folder / "log.jsonl")
        (folder / "curves.svg").write_text(draw_curves({name: read_log(folder / "log.jsonl")}))
    return tmp_path / "models"


def test_the_card_states_what_was_measured(models: Path) -> None:
    text = card(read_shipped(models), docs=models.parent / "docs")
    for fact in (
        "`deepseek-v4-pro` by mini-pro",
        "11.0M tokens in 10 minutes, loss 0.273 at the end",
        "4: 0, 0, 4, 128",
        "4.0 MB, bf16, fp4 experts",
        "| 12 ms | 12 ms |",
        "loses 1.0 points against fp32",
        "| ≥ 80 % | **79 %** | 80 % | ≥ 92 % | 95 % | 96 % |",
        "(../models/mini-pro/curves.svg)",
        r"| `I 'see' \| one.` | the limit | 1024 |",
        "not DeepSeek's models",
    ):
        assert fact in text, fact


def test_without_mini_pro_the_card_says_who_answers(models: Path) -> None:
    [flash, _] = read_shipped(models)
    assert "Both `deepseek-v4-flash` and `deepseek-v4-pro` are answered by mini-flash" in card([flash])


def test_the_card_in_the_docs_is_the_one_of_the_results() -> None:
    every = read_shipped(models_folder())
    assert CARD.read_text(encoding="utf-8") == card(every)
    for one in every:
        assert (one.folder / "README.md").read_text(encoding="utf-8") == short_card(one)


def test_a_log_is_thinned_evenly_and_keeps_its_ends() -> None:
    log = [line(number) for number in range(101)]
    few = thinned(log, 11)
    assert [one.step for one in few] == list(range(0, 101, 10))
    assert thinned(few, 11) == few


def test_a_log_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    write_log([line(1), line(2)], tmp_path / "log.jsonl")
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"share": 0.')
    assert [one.step for one in read_log(tmp_path / "log.jsonl")] == [1, 2]


def test_curves_are_a_picture_with_a_line_for_each_run() -> None:
    log = [line(number) for number in range(5)]
    root = ET.fromstring(draw_curves({"one": log, "a < b": log}))
    names = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"one", "a < b", "million tokens", "loss"} <= set(names)
    lines = [element.get("points", "").split() for element in root.iter() if element.tag.endswith("polyline")]
    assert [len(points) for points in lines] == [5, 5]
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights == sorted(heights), "a falling loss goes down the picture"


def test_a_picture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one line"):
        draw_curves({"empty": []})
