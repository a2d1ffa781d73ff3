"""The training loop, on a network small enough for seconds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import pytest
import torch
from training.batches import Plan
from training.export import export, main
from training.optimizer import orthogonalise
from training.rounding import rounded, rounded_experts
from training.shape import MINI_FLASH, MINI_PRO, num_active_parameters, num_total_parameters
from training.train import TOKENIZER, Trainer, run
from training.vocabulary import Encoder

import deepserve
import training
from deepserve.engine.reference.checkpoint import load_network, save_network
from training import kernels, train

README = Path(training.__file__ or "").parent / "README.md"
SHIPPED = Path(deepserve.__file__ or "").parent / "models" / "mini-flash"

TINY = msgspec.structs.replace(
    MINI_FLASH,
    hidden_size=32,
    num_hidden_layers=3,
    compress_ratios=(0, 4, 128),
    num_attention_heads=2,
    head_dim=32,
    qk_rope_head_dim=16,
    q_lora_rank=16,
    o_lora_rank=16,
    index_n_heads=2,
    index_head_dim=16,
    n_routed_experts=4,
    moe_intermediate_size=32,
)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("training.schedule.plan", lambda share, number: Plan(rows=2, length=128, copy_share=0.0))


def new_trainer(seed: int = 1) -> Trainer:
    return Trainer(TINY, Encoder.load(TOKENIZER), seed=seed)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.network.state_dict() | {f"average.{name}": one for name, one in trainer.average.items()}


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    trainer = new_trainer()
    losses = [trainer.step(0.3).loss for _ in range(60)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    clock = itertools.count().__next__
    whole = new_trainer()
    run(whole, tmp_path / "whole", minutes=None, steps=20, clock=clock)

    first = new_trainer()
    run(first, tmp_path / "halves", minutes=None, steps=20, clock=clock, should_stop=lambda: first.progress.step == 9)
    assert first.progress.step == 9
    second = new_trainer(seed=2)
    second.load(tmp_path / "halves")
    run(second, tmp_path / "halves", minutes=None, steps=20, clock=clock)

    assert second.progress.num_tokens == whole.progress.num_tokens == 20 * 2 * 128
    for name, tensor in weights(whole).items():
        assert tensor.equal(weights(second)[name]), name


def test_experts_are_trained_as_they_are_exported_and_kept_exact(tmp_path: Path) -> None:
    network = new_trainer().network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with rounded_experts(network):
        for name, tensor in network.state_dict().items():
            if ".experts." in name:
                assert not tensor.equal(before[name])
                assert rounded(tensor).equal(tensor)
            else:
                assert tensor.equal(before[name])
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
    save_network(network, tmp_path, quantisation="fp4")
    exported = load_network(tmp_path).state_dict()
    for name in before:
        if ".experts." in name:
            assert exported[name].equal(rounded(before[name]))


def test_the_indexer_learns_from_its_own_loss() -> None:
    trainer = new_trainer()
    before = [parameter.detach().clone() for parameter in trainer.network.index_parameters()]
    losses = [trainer.step(0.3).index_loss for _ in range(33)][::8]
    assert None not in losses
    changed = [not a.equal(b) for a, b in zip(before, trainer.network.index_parameters(), strict=True)]
    assert all(changed)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(1))
    for matrix in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_an_exported_run_loads_as_the_averaged_network(tmp_path: Path) -> None:
    trainer = new_trainer()
    for _ in range(3):
        trainer.step(0.3)
    trainer.save(tmp_path / "runs" / "tiny")
    export(tmp_path / "runs" / "tiny", tmp_path / "model", quantisation="none", config=TINY)
    loaded = load_network(tmp_path / "model")
    assert loaded.config == TINY
    for name, tensor in loaded.state_dict().items():
        if not name.endswith(".load"):
            torch.testing.assert_close(tensor, trainer.average[name], rtol=1e-2, atol=1e-3)
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == TOKENIZER.read_bytes()


def test_an_exported_run_goes_on_where_its_log_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.SHOW_EVERY_S", -1.0)
    trainer = new_trainer()
    run(trainer, tmp_path / "tiny", minutes=None, steps=3)
    export(tmp_path / "tiny", tmp_path / "model", quantisation="none", config=TINY)
    other = new_trainer(seed=2)
    other.load_exported(tmp_path / "model")
    assert other.progress.step == trainer.progress.step == 3
    assert other.progress.num_tokens == trainer.progress.num_tokens
    exported = load_network(tmp_path / "model").state_dict()
    for name, tensor in other.network.state_dict().items():
        if not name.endswith(".load"):
            assert tensor.equal(exported[name])
            assert other.average[name].equal(tensor)
    assert other.step(0.5).gradient_norm > 0


def test_a_converted_model_is_whole_and_its_values_are_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = SHIPPED
    command = ["export", "--model", str(model), "--quantise", "fp8+fp4", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    main()
    assert "model.safetensors" in capsys.readouterr().out
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields.items() >= json.loads((model / "config.json").read_text()).items()
    assert fields["expert_dtype"] == "fp4"
    for name in ("generation_config.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (model / name).read_bytes()
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path, model)]
    assert "takes {:.1f} instead of {:.1f} MB".format(*(size / 1e6 for size in sizes)) in README.read_text()
    original = load_network(model).named_tensors()
    for name, tensor in load_network(tmp_path).named_tensors().items():
        # Half way between FP4's 4 and 6 a value is off by a fifth of itself; nothing is off by more of the largest.
        assert (tensor - original[name]).abs().max() <= original[name].abs().max() / 5


def test_a_model_is_not_converted_in_place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(SHIPPED)
    monkeypatch.setattr("sys.argv", ["export", "--model", model, "--out", model])
    with pytest.raises(SystemExit):
        main()
    assert "name another one" in capsys.readouterr().err


def test_the_shipped_shapes_have_about_one_and_three_million_active_parameters() -> None:
    assert 0.8e6 < num_active_parameters(MINI_FLASH) < 1.6e6
    assert 2.5e6 < num_active_parameters(MINI_PRO) < 4e6
    assert num_total_parameters(MINI_PRO) < 12e6
    for config in (MINI_FLASH, MINI_PRO):
        assert config.hidden_size % 32 == config.moe_intermediate_size % 32 == 0


def test_without_a_compiler_the_plain_network_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "are_available", lambda: False)
    trainer = new_trainer()
    assert not trainer.is_fast
    losses = [trainer.step(0.3).loss for _ in range(25)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_a_batch_without_a_finite_gradient_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = new_trainer()
    trainer.step(0.3)
    with torch.no_grad():
        trainer.network.norm.weight[0] = float("nan")
    before = {name: tensor.clone() for name, tensor in weights(trainer).items()}
    trainer.step(0.3)
    assert trainer.progress.step == 2
    assert "step 1 left out" in capsys.readouterr().out
    for name, tensor in weights(trainer).items():
        if not name.endswith(".load"):
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_the_budget_counts_the_given_clock_and_not_the_walls(tmp_path: Path) -> None:
    trainer = new_trainer()
    run(trainer, tmp_path, minutes=1.0, steps=None, clock=itertools.count(0, 5).__next__)
    assert 60 <= trainer.progress.elapsed_s < 75
    assert trainer.progress.wall_s < trainer.progress.elapsed_s
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(line["wall_s"] < line["elapsed_s"] for line in lines)
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})


def test_the_command_trains_the_shape_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.train.RUNS", tmp_path)
    monkeypatch.setattr("training.train.SHAPES", {"mini-flash": MINI_FLASH, "mini-pro": TINY})
    # Both would change the process of the tests for good.
    monkeypatch.setattr("training.train._keep_freed_memory", lambda: None)
    monkeypatch.setattr("torch.set_float32_matmul_precision", lambda precision: None)
    command = ["train", "--run", "small", "--shape", "mini-pro", "--steps"]
    monkeypatch.setattr("sys.argv", [*command, "1"])
    train.main()
    monkeypatch.setattr("sys.argv", [*command, "2"])
    train.main()
    assert "continuing small at step 1" in capsys.readouterr().out
    average = torch.load(tmp_path / "small" / "average.pt", weights_only=True)
    assert average["embed.weight"].shape == (TINY.vocab_size, TINY.hidden_size)
