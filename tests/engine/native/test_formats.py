"""What each weight format costs: mean Kullback-Leibler divergence from the native engine in float32, in nats.

The bounds are twice what was measured when they were written. Each format alone decides its numbers (every instruction
set gives the same bits), so they move with the core's arithmetic or with the shipped weights only: the texts are fixed,
and of the kind that these weights were trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training.rendering import prompt
from training.showcase import showcase

from deepserve.config import WeightFormats
from deepserve.engine.native.engine import load_native_engine
from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.options import EngineOptions
from deepserve.engine.reference.checkpoint import load_network, save_network
from deepserve.engine.reference.engine import ReferenceEngine
from deepserve.engine.reference.network import Network
from deepserve.prompt.tokenizer import Tokenizer
from tests.conftest import MINI_FLASH
from tests.engine.native.networks import NARROW, WIDE, cold, config_of, random_network, save, some_tokens
from tests.engine.reference import test_engine as reference

MEMORY_BYTES = 1 << 28
FP32 = WeightFormats(dense="fp32", experts="fp32", head="fp32")

FORMATS = {
    "bf16": WeightFormats(dense="bf16", experts="bf16", head="bf16"),
    "int8": WeightFormats(dense="int8", experts="int8", head="int8"),
    "bf16, fp4 experts": WeightFormats(dense="bf16", experts="fp4", head="bf16"),
    "bf16, fp4-exact experts": WeightFormats(dense="bf16", experts="fp4-exact", head="bf16"),
    "int8, fp4 experts": WeightFormats(dense="int8", experts="fp4", head="int8"),
    "fp8, fp4 experts": WeightFormats(dense="fp8", experts="fp4", head="bf16"),
    "fp8": WeightFormats(dense="fp8", experts="fp8", head="fp8"),
}


def logits_of(folder: Path, texts: list[list[int]], **options: Any) -> torch.Tensor:
    """Of every token of some texts, [tokens, V] in float64."""
    engine = load_native_engine(folder, EngineOptions(memory_bytes=MEMORY_BYTES, **options))
    rows = b"".join(row for text in texts for row in cold(engine, text))
    return torch.frombuffer(bytearray(rows), dtype=torch.float32).view(-1, engine.info.vocab_size).double()


def divergence(logits: torch.Tensor, other: torch.Tensor) -> float:
    """Mean over the tokens of KL(softmax(logits) || softmax(other))."""
    mine, theirs = logits.log_softmax(-1), other.log_softmax(-1)
    return float((mine.exp() * (mine - theirs)).sum(-1).mean())


# The shipped model, on conversations that it was not trained on


@pytest.fixture(scope="module")
def conversations() -> list[list[int]]:
    """What people try first, each alone and all in one row, in which the indexer has to choose."""
    tokenizer = Tokenizer((MINI_FLASH / "tokenizer.json").read_text(encoding="utf-8"))
    asked = [*showcase(thinking=True), *showcase(thinking=False)]
    texts = [tokenizer.encode(prompt(each)).ids for each in asked]
    long = [token for text in texts for token in text]
    assert len(long) > 4 * 128
    return [*texts, long]


@pytest.fixture(scope="module")
def shipped(conversations: list[list[int]]) -> torch.Tensor:
    return logits_of(MINI_FLASH, conversations, weights=FP32)


@pytest.mark.parametrize(
    ("formats", "bound"),
    [
        ("bf16", 6.5e-4),
        ("int8", 9e-3),
        ("bf16, fp4 experts", 4.5e-3),
        ("bf16, fp4-exact experts", 6.5e-4),
        ("int8, fp4 experts", 7e-3),
        ("fp8, fp4 experts", 1.1e-2),
        ("fp8", 1.3e-2),
    ],
)
def test_formats_cost_the_shipped_model_little(
    conversations: list[list[int]], shipped: torch.Tensor, formats: str, bound: float
) -> None:
    """Its experts ship in FP4, so that only activations in eight bits cost anything there."""
    found = logits_of(MINI_FLASH, conversations, weights=FORMATS[formats])
    assert 0 < divergence(shipped, found) < bound


@pytest.mark.parametrize("is_mapped", [False, True])
def test_published_types_cost_little_beyond_their_own_rounding(
    conversations: list[list[int]], is_mapped: bool, tmp_path: Path
) -> None:
    """Mapped and packed, against the very numbers the exported file holds, kept as float32."""
    save_network(load_network(MINI_FLASH), tmp_path, quantisation="fp8+fp4")
    exact = logits_of(tmp_path, conversations, weights=FP32)
    assert 0 < divergence(exact, logits_of(tmp_path, conversations, is_mapped=is_mapped)) < 2.3e-3


# A random network, as it is before training


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = NetworkConfig(
        vocab_size=2048,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        head_dim=64,
        qk_rope_head_dim=32,
        q_lora_rank=128,
        o_groups=2,
        o_lora_rank=64,
        compress_ratios=(0, 0, 4, 128, 4, 128),
        index_n_heads=16,
        index_head_dim=64,
        index_topk=64,
        n_routed_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=128,
        max_position_embeddings=4096,
    )
    network = Network(config)
    network.initialise(torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("fresh")
    save(network, folder, "fp32")
    return folder


@pytest.fixture(scope="module")
def before_training(fresh: Path) -> torch.Tensor:
    return logits_of(fresh, [some_tokens(600, vocab_size=2048)], weights=FP32)


@pytest.mark.parametrize(
    ("formats", "bound"),
    [
        ("bf16", 6e-3),
        ("int8", 2e-2),
        ("bf16, fp4 experts", 0.15),
        ("bf16, fp4-exact experts", 0.15),
        ("int8, fp4 experts", 0.15),
        ("fp8, fp4 experts", 0.17),
        ("fp8", 0.07),
    ],
)
def test_formats_cost_a_random_network_more_but_not_much(
    fresh: Path, before_training: torch.Tensor, formats: str, bound: float
) -> None:
    """Its router has no favourites yet, so that rounding turns many of its choices."""
    found = logits_of(fresh, [some_tokens(600, vocab_size=2048)], weights=FORMATS[formats])
    assert 0 < divergence(before_training, found) < bound


def test_fp4_costs_by_its_weights_and_not_by_its_activations(fresh: Path, before_training: torch.Tensor) -> None:
    """Eight bits for activations are lost in what four bits for weights cost that were not trained in them."""
    exact, fast = (
        divergence(
            before_training,
            logits_of(fresh, [some_tokens(600, vocab_size=2048)], weights=FORMATS[f"bf16, {name} experts"]),
        )
        for name in ("fp4-exact", "fp4")
    )
    assert abs(fast - exact) < 0.1 * exact


# Quantised checkpoints against the reference engine on the numbers they stand for


@pytest.mark.parametrize("o_rank", [24, 128])
def test_quantised_weights_mean_what_the_reference_reads(o_rank: int, tmp_path: Path) -> None:
    """Kept as float32 they give the reference's logits, but for rounding in both; multiplied as they are, nearly."""
    save(random_network(config_of(WIDE, o_lora_rank=o_rank)), tmp_path, "fp8+fp4")
    tokens = some_tokens(250)
    expected = reference.cold(ReferenceEngine(load_network(tmp_path), memory_bytes=1 << 26), tokens).double()
    exact = logits_of(tmp_path, [tokens], weights=FP32)
    assert (exact - expected).abs().max() < 2e-5 * max(1.0, float(expected.abs().max()) / 3)
    for is_mapped in (False, True):
        assert 0 < divergence(expected, logits_of(tmp_path, [tokens], is_mapped=is_mapped)) < 3e-2


@pytest.mark.parametrize(("kept", "bound"), [("fp8", 0.03), ("fp4", 0.13), ("int8", 0.01), ("bf16", 0.003)])
def test_rounding_is_to_nearest(kept: Any, bound: float, tmp_path: Path) -> None:  # Any: a name known to be one
    """Of the head alone, relative to all logits: what the formats' steps make of normal weights, and hardly more."""
    save(random_network(config_of(NARROW)), tmp_path, "fp32")
    tokens = some_tokens(100)
    exact = logits_of(tmp_path, [tokens], weights=FP32)
    found = logits_of(tmp_path, [tokens], weights=WeightFormats(dense="fp32", experts="fp32", head=kept))
    error = float((found - exact).norm() / exact.norm())
    assert bound / 3 < error < bound
