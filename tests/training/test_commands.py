"""`make train` as a whole, on a budget of two steps: what the Makefile calls fits together."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
import training.eval.questions
from training.batches import Plan
from training.conversations import Conversation, Turn
from training.curves import read_log
from training.eval.questions import Question
from training.shape import MINI_FLASH

from deepserve.engine.checkpoint import open_checkpoint
from tests.training.test_training import TINY

MAKEFILE = Path(training.eval.questions.__file__ or "").parents[2] / "Makefile"


def recipe(target: str) -> list[list[str]]:
    """The modules that a target runs, with their arguments."""
    lines = MAKEFILE.read_text().partition(f"\n{target}: ")[2].split("\n")[1:]
    commands = []
    for line in lines:
        if not line.startswith("\t"):
            break
        if "python -m " in line:
            commands.append(shlex.split(line.partition("python -m ")[2]))
    return commands


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny network, tiny batches, one question, and runs in a folder of their own."""
    question = Question(
        skill="dialogue.greeting",
        conversation=Conversation(
            skill="dialogue.greeting",
            turns=(Turn(role="user", content="Hello."), Turn(role="assistant", content="Hello!")),
        ),
    )
    for module in ("train", "export", "eval.__main__"):
        monkeypatch.setattr(f"training.{module}.RUNS", tmp_path)
    shapes = {"mini-flash": msgspec.structs.replace(TINY, vocab_size=MINI_FLASH.vocab_size)}
    monkeypatch.setattr("training.train.SHAPES", shapes)
    monkeypatch.setattr("training.export.SHAPES", shapes)
    monkeypatch.setattr("training.train.SHOW_EVERY_S", -1.0)
    # What the command does to its whole process is none of the other tests'.
    monkeypatch.setattr("training.train._keep_freed_memory", lambda: None)
    monkeypatch.setattr("torch.set_float32_matmul_precision", lambda precision: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr("training.schedule.plan", lambda share, number: Plan(rows=2, length=128, copy_share=0.0))
    monkeypatch.setattr("training.eval.__main__.question_set", lambda encoder: [question])
    monkeypatch.setattr("training.eval.examinee.MAX_OUTPUT_TOKENS", 8)
    monkeypatch.setattr("training.eval.bad_input.bad_inputs", lambda: {"nothing": " "})
    return tmp_path


def test_make_train_trains_exports_and_evaluates(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = recipe("train")
    assert [command[0] for command in commands] == ["training.train", "training.export", "training.eval"]
    replaced = {"--minutes": "--steps", "$(TRAIN_MINUTES)": "2", "$(SMALL)": str(runs / "small" / "model")}
    for module, *arguments in commands:
        monkeypatch.setattr("sys.argv", [module, *(replaced.get(word, word) for word in arguments)])
        name = f"{module}.__main__" if module == "training.eval" else module
        assert not import_module(name).main()
    folder = runs / "small" / "model"
    assert "mini" not in folder.name
    assert open_checkpoint(folder).tensors["layers.0.ffn.experts.0.w1.weight"].dtype == "I8"
    assert json.loads((folder / "config.json").read_text())["expert_dtype"] == "fp4"
    assert read_log(folder / "log.jsonl")[-1].step == 2
    assert (folder / "curves.svg").read_text().startswith("<svg")
    assert "model, 1 questions" in capsys.readouterr().out


def test_make_train_full_is_what_the_readme_says() -> None:
    page = (MAKEFILE.parent / "training" / "README.md").read_text()
    for target in ("train-full", "export-models", "eval"):
        for command in recipe(target):
            assert f"python -m {' '.join(word for word in command if not word.startswith('$'))}" in page
