"""The native engine in float32 against transformers' DeepseekV4ForCausalLM, the oracle of everything here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepserve.config import InstructionSet, WeightFormats
from deepserve.engine.native.engine import NativeEngine, load_native_engine
from deepserve.engine.native.shared_library import instruction_sets, load_library
from deepserve.engine.options import EngineOptions
from deepserve.engine.reference.engine import ReferenceEngine
from deepserve.engine.reference.network import Network
from tests.engine.native.networks import MEMORY_BYTES, NARROW, config_of, feed, random_network, save, some_tokens
from tests.engine.reference import test_engine as reference
from tests.engine.reference.oracle import oracle, ours

VOCAB_SIZE = 301
FP32 = WeightFormats(dense="fp32", experts="fp32", head="fp32")

SHAPES: dict[str, dict[str, Any]] = {
    "short windows, three of five experts, one group": {
        "hidden_size": 72,
        "head_dim": 24,
        "q_lora_rank": 33,
        "o_groups": 1,
        "index_topk": 10,
        "index_n_heads": 16,
        "index_head_dim": 24,
        "n_routed_experts": 5,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 20,
        "sliding_window": 8,
        "compress_ratios": [0, 4, 32, 4],
        "num_hash_layers": 1,
    },
    "windows beyond a block, one expert per token, four groups": {
        "hidden_size": 100,
        "head_dim": 40,
        "num_attention_heads": 8,
        "q_lora_rank": 47,
        "o_groups": 4,
        "o_lora_rank": 10,
        "index_topk": 50,
        "index_n_heads": 8,
        "n_routed_experts": 5,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 33,
        "sliding_window": 130,
        "compress_ratios": [4, 16, 0, 4],
        "num_hash_layers": 2,
    },
    "no hash tables, entries of 128 tokens, wide index keys": {
        "hidden_size": 50,
        "head_dim": 32,
        "num_attention_heads": 6,
        "q_lora_rank": 19,
        "o_groups": 2,
        "o_lora_rank": 24,
        "index_topk": 33,
        "index_n_heads": 32,
        "index_head_dim": 40,
        "n_routed_experts": 9,
        "moe_intermediate_size": 64,
        "sliding_window": 24,
        "num_hidden_layers": 5,
        "compress_ratios": [128, 4, 4, 0, 128],
        "num_hash_layers": 0,
    },
    "hash tables everywhere, one token of window, one head": {
        "hidden_size": 17,
        "head_dim": 9,
        "num_attention_heads": 1,
        "q_lora_rank": 5,
        "o_groups": 1,
        "o_lora_rank": 3,
        "index_topk": 20,
        "index_n_heads": 24,
        "index_head_dim": 9,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 7,
        "sliding_window": 1,
        "compress_ratios": [4, 0, 64, 4],
        "num_hash_layers": 4,
    },
    "the index never selects, long windows, two streams": {
        "hidden_size": 40,
        "head_dim": 40,
        "o_groups": 4,
        "o_lora_rank": 64,
        "index_n_heads": 11,
        "index_topk": 512,
        "n_routed_experts": 5,
        "moe_intermediate_size": 48,
        "sliding_window": 512,
        "hc_mult": 2,
        "compress_ratios": [0, 0, 4, 32],
        "num_hash_layers": 1,
    },
}


def engine_of(network: Network, folder: Path, isa: InstructionSet | None = None) -> NativeEngine:
    save(network, folder, "fp32")
    return load_native_engine(folder, EngineOptions(memory_bytes=MEMORY_BYTES, weights=FP32, isa=isa))


def logits_of(engine: NativeEngine, tokens: list[int]) -> torch.Tensor:
    sequence = engine.create()
    rows = [torch.frombuffer(bytearray(logits), dtype=torch.float32) for logits in feed(engine, sequence, tokens)]
    engine.free(sequence)
    return torch.stack(rows)


@torch.inference_mode()
def assert_equal_to_oracle(model: Any, network: Network, folder: Path, length: int, isa: InstructionSet | None) -> None:
    """Within 1e-5 of the oracle in float64, in proportion where logits go beyond 3.

    That is what rounding leaves: the oracle in float32 is no nearer to itself in float64.
    """
    tokens = some_tokens(length, seed=2, vocab_size=VOCAB_SIZE)
    # The grouped products want strides of 16 bytes, which odd sizes do not have.
    model.set_experts_implementation("eager")
    expected = model.double()(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    found = logits_of(engine_of(network, folder, isa), tokens)
    largest = float(expected.abs().max())
    assert largest > 0.5
    assert float((found - expected).abs().max()) < 1e-5 * max(1.0, largest / 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_transformers_logits(shape: str, tmp_path: Path) -> None:
    """700 tokens, with YaRN. Where two index scores differ by less than rounding, or not at all, either entry may be
    chosen; these networks and tokens have no such case."""
    changes = {"vocab_size": VOCAB_SIZE, **SHAPES[shape]}
    model = oracle(1, **changes)
    assert_equal_to_oracle(model, ours(model, **changes), tmp_path, 700, None)


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "neon"])
def test_every_instruction_set_gives_transformers_logits(isa: InstructionSet, tmp_path: Path) -> None:
    if isa not in instruction_sets(load_library()):
        pytest.skip(f"{isa} is not in this build, or not on this machine")
    changes = {"vocab_size": VOCAB_SIZE, **SHAPES["short windows, three of five experts, one group"]}
    model = oracle(2, **changes)
    # Without fused multiply-add in hardware the generic set is slow.
    assert_equal_to_oracle(model, ours(model, **changes), tmp_path, 150 if isa == "generic" else 600, isa)


@torch.inference_mode()
def test_long_contexts_give_the_references_logits(tmp_path: Path) -> None:
    """6000 tokens, of whose 1500 entries 200 are chosen.

    Among so many some scores differ by less than rounding, where either entry may be chosen: one token in a thousand.
    """
    sizes = {"hidden_size": 64, "head_dim": 32, "q_lora_rank": 32, "o_lora_rank": 16, "moe_intermediate_size": 32}
    choice = {"index_n_heads": 24, "index_head_dim": 32, "index_topk": 200, "sliding_window": 128}
    network = random_network(
        config_of(NARROW, **sizes, **choice, compress_ratios=(0, 4, 128, 4), max_position_embeddings=1 << 14)
    )
    tokens = some_tokens(6000)
    expected = reference.cold(ReferenceEngine(network, memory_bytes=1 << 28), tokens)
    found = logits_of(engine_of(network, tmp_path), tokens)
    errors = (found - expected).abs().amax(1)
    largest = float(expected.abs().max())
    assert errors.quantile(0.999) < 1e-5 * max(1.0, largest / 3)
    assert errors.max() < 0.05 * largest
