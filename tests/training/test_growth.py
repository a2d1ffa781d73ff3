"""Growing: the larger network says what the smaller one did, and learns with all of its weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from training.batches import Plan
from training.growth import grown
from training.shape import MINI_FLASH, MINI_PRO, TOKENIZER
from training.train import GROWN_HEAD_START, Trainer, run
from training.vocabulary import Encoder

from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.reference.checkpoint import save_network
from deepserve.engine.reference.network import Network

SMALL = msgspec.structs.replace(
    MINI_FLASH,
    hidden_size=32,
    num_hidden_layers=3,
    compress_ratios=(0, 4, 128),
    head_dim=32,
    qk_rope_head_dim=16,
    q_lora_rank=16,
    o_lora_rank=16,
    index_n_heads=2,
    index_head_dim=16,
    n_routed_experts=4,
    moe_intermediate_size=32,
    sliding_window=64,
)
WIDE = msgspec.structs.replace(
    SMALL, hidden_size=64, num_attention_heads=6, q_lora_rank=24, o_lora_rank=24, moe_intermediate_size=64
)
DEEP = msgspec.structs.replace(SMALL, num_hidden_layers=4, compress_ratios=(0, 4, 128, 4))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("training.schedule.plan", lambda share, number: Plan(rows=2, length=192, copy_share=0.0))


def small_network() -> Network:
    """Norms, sinks and balances away from where they begin."""
    generator = torch.Generator().manual_seed(3)
    network = Network(SMALL)
    network.initialise(generator)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "norm" in name or "sink" in name or name.endswith((".bias", "ape")):
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return network


def log_probabilities(network: Network) -> torch.Tensor:
    tokens = torch.randint(SMALL.vocab_size, (2, 300), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits: torch.Tensor = network(tokens)
    return logits.log_softmax(-1)


def test_a_wider_network_says_the_same() -> None:
    small = small_network()
    large = grown(small, WIDE, torch.Generator().manual_seed(1))
    torch.testing.assert_close(log_probabilities(large), log_probabilities(small), rtol=0, atol=2e-3)


def test_a_deeper_network_says_nearly_the_same() -> None:
    small = small_network()
    before = log_probabilities(small)
    after = log_probabilities(grown(small, DEEP, torch.Generator().manual_seed(1)))
    fresh = Network(DEEP)
    fresh.initialise(torch.Generator().manual_seed(1))

    def divergence(other: torch.Tensor) -> float:
        return float((before.exp() * (before - other)).sum(-1).mean())

    assert divergence(after) < 0.02
    assert divergence(log_probabilities(fresh)) > 10 * divergence(after)


def test_a_shape_that_cannot_come_of_growing_is_refused_by_name() -> None:
    small = small_network()
    for wrong, name in (
        (msgspec.structs.replace(WIDE, hidden_size=16), "hidden_size 32"),
        (msgspec.structs.replace(WIDE, n_routed_experts=8), "n_routed_experts 4"),
        (msgspec.structs.replace(DEEP, compress_ratios=(0, 0, 4, 128)), "compress_ratios"),
    ):
        with pytest.raises(ValueError, match=name):
            grown(small, wrong, torch.Generator())


def test_the_shipped_shapes_can_grow_into_each_other() -> None:
    small = Network(MINI_FLASH)
    small.initialise(torch.Generator().manual_seed(1))
    assert grown(small, MINI_PRO, torch.Generator().manual_seed(1)).config == MINI_PRO


def begin_grown(folder: Path, config: NetworkConfig) -> Trainer:
    save_network(small_network(), folder)
    trainer = Trainer(config, Encoder.load(TOKENIZER), seed=1)
    trainer.grow(folder)
    return trainer


def test_the_new_parts_of_every_matrix_learn(tmp_path: Path) -> None:
    trainer = begin_grown(tmp_path / "small", msgspec.structs.replace(WIDE, sliding_window=128))
    before = {name: parameter.detach().clone() for name, parameter in trainer.network.named_parameters()}
    for _ in range(3):
        trainer.step(0.5)
    for one in trainer.optimizer.matrices:
        # Experts that nobody chose have nothing to learn from, and the indexer's turn comes later.
        if ".experts." not in one.name and "indexer" not in one.name:
            is_still = one.parameter.detach() == before[one.name]
            assert is_still.float().mean() < 0.02, one.name


def test_a_grown_run_begins_where_the_schedule_converses_and_its_own_time_at_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = begin_grown(tmp_path / "small", WIDE)
    shares: list[float] = []
    step = trainer.step

    def noted(share: float) -> object:
        shares.append(share)
        return step(share)

    monkeypatch.setattr(trainer, "step", noted)
    assert (trainer.progress.elapsed_s, trainer.progress.num_tokens) == (0, 0)
    run(trainer, tmp_path / "run", minutes=None, steps=4)
    assert shares == pytest.approx([GROWN_HEAD_START + (1 - GROWN_HEAD_START) * done / 4 for done in range(4)])
    again = Trainer(WIDE, Encoder.load(TOKENIZER), seed=2)
    again.load(tmp_path / "run")
    assert again.progress.head_start == GROWN_HEAD_START
