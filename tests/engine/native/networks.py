"""Small random networks as checkpoint folders, in every stored type, and the native engine on them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import torch

from deepserve.config import InstructionSet, WeightFormats
from deepserve.engine.interface import CHUNK_TOKENS, Row, SequenceId
from deepserve.engine.native.engine import NativeEngine, load_native_engine
from deepserve.engine.native.shared_library import find_library
from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.options import EngineOptions
from deepserve.engine.reference.checkpoint import save_network
from deepserve.engine.reference.network import Network

if find_library() is None:
    pytest.skip("this installation has no native core", allow_module_level=True)

MEMORY_BYTES = 1 << 26

NARROW: dict[str, Any] = {
    "vocab_size": 301,
    "hidden_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 24,
    "qk_rope_head_dim": 8,
    "q_lora_rank": 33,
    "o_groups": 2,
    "o_lora_rank": 10,
    "sliding_window": 24,
    "compress_ratios": (0, 4, 32, 4),
    "index_n_heads": 9,
    "index_head_dim": 20,
    "index_topk": 13,
    "n_routed_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "num_hash_layers": 1,
    "yarn_factor": 4.0,
    "yarn_original_positions": 256,
    "max_position_embeddings": 4096,
}
"""Every kind of layer and of routing; no size is a multiple of what kernels handle at once."""

WIDE: dict[str, Any] = {
    **NARROW,
    "hidden_size": 160,
    "head_dim": 40,
    "q_lora_rank": 200,
    "o_lora_rank": 128,
    "sliding_window": 130,
    "compress_ratios": (0, 4, 128, 4),
    "moe_intermediate_size": 96,
}
"""Inputs of experts fill FP4's groups of 32; blocks of 128 x 128 are crossed, and some of them are not full."""

Stored = Literal["fp32", "bf16", "fp8+fp4"]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One way of storing weights in a checkpoint and of keeping them in memory."""

    sizes: dict[str, Any]
    stored: Stored
    weights: WeightFormats = WeightFormats()
    is_mapped: bool = False


KINDS = {
    "fp32": Kind(sizes=NARROW, stored="fp32"),
    "bf16": Kind(sizes=NARROW, stored="bf16"),
    "int8": Kind(sizes=NARROW, stored="bf16", weights=WeightFormats(dense="int8", experts="int8", head="int8")),
    "fp4": Kind(sizes=NARROW, stored="bf16", weights=WeightFormats(experts="fp4")),
    "fp4 everywhere": Kind(sizes=NARROW, stored="bf16", weights=WeightFormats(dense="fp4", experts="fp4", head="fp4")),
    "fp4-exact": Kind(sizes=NARROW, stored="bf16", weights=WeightFormats(experts="fp4-exact")),
    "fp8": Kind(sizes=WIDE, stored="fp8+fp4"),
    "fp8 in narrow groups": Kind(sizes={**WIDE, "o_lora_rank": 24}, stored="fp8+fp4"),
    "fp8 everywhere": Kind(sizes=NARROW, stored="bf16", weights=WeightFormats(dense="fp8", experts="fp8", head="fp8")),
    "mapped fp8": Kind(sizes=WIDE, stored="fp8+fp4", is_mapped=True),
    "mapped fp8 in narrow groups": Kind(sizes={**WIDE, "o_lora_rank": 24}, stored="fp8+fp4", is_mapped=True),
    "mapped bf16": Kind(sizes=NARROW, stored="bf16", is_mapped=True),
}


def config_of(sizes: dict[str, Any], **changes: Any) -> NetworkConfig:
    return NetworkConfig(**{**sizes, **changes})


@torch.no_grad()
def random_network(config: NetworkConfig, seed: int = 0) -> Network:
    """Every branch on, no parameter left at its default; logits of a few units.

    Parts of matrices are larger than others, so that neighbouring scales differ wherever matrices are quantised.
    """
    network = Network(config)
    generator = torch.Generator().manual_seed(seed)
    network.initialise(generator)
    for name, tensor in network.named_tensors().items():
        if "norm" in name:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith(("scale", "attn_sink", "ape", "gate.bias")):
            tensor.add_(0.5 * torch.randn(tensor.shape, generator=generator))
        elif tensor.is_floating_point() and tensor.ndim == 2:
            sizes = [-(-size // step) for size, step in zip(tensor.shape, (64, 32), strict=True)]
            powers = torch.randint(-1, 2, sizes, generator=generator).repeat_interleave(64, 0).repeat_interleave(32, 1)
            tensor.mul_(torch.exp2(powers[: tensor.shape[0], : tensor.shape[1]]))
    return network.requires_grad_(False).eval()


def save(network: Network, folder: Path, stored: Stored) -> None:
    if stored == "fp8+fp4":
        save_network(network, folder, quantisation="fp8+fp4")
    else:
        save_network(network, folder, matrices=torch.float32 if stored == "fp32" else torch.bfloat16)


class Checkpoints:
    """Checkpoint folders, each written when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[tuple[Any, ...], Path] = {}

    def folder(self, sizes: dict[str, Any], stored: Stored, seed: int = 0) -> Path:
        key = (tuple(sizes.items()), stored, seed)
        if key not in self._written:
            path = self._folder / str(len(self._written))
            save(random_network(config_of(sizes), seed), path, stored)
            self._written[key] = path
        return self._written[key]

    def engine(
        self, name: str, *, isa: InstructionSet | None = None, num_threads: int = 1, memory_bytes: int = MEMORY_BYTES
    ) -> NativeEngine:
        """A new engine of the kind of this name."""
        kind = KINDS[name]
        options = EngineOptions(
            memory_bytes=memory_bytes,
            isa=isa,
            num_threads=num_threads,
            weights=kind.weights,
            is_mapped=kind.is_mapped,
        )
        return load_native_engine(self.folder(kind.sizes, kind.stored), options)


def some_tokens(length: int, seed: int = 1, vocab_size: int = NARROW["vocab_size"]) -> list[int]:
    return random.Random(seed).choices(range(vocab_size), k=length)


def cut(engine: NativeEngine, sequence: SequenceId, tokens: Sequence[int], sizes: Iterable[int]) -> Iterator[Row]:
    """Rows of these sizes where no border comes before; take each only after the one before was computed."""
    for most in sizes:
        if not tokens:
            return
        size = min(most, CHUNK_TOKENS - engine.length(sequence) % CHUNK_TOKENS)
        yield Row(sequence=sequence, tokens=tokens[:size])
        tokens = tokens[size:]


def feed(
    engine: NativeEngine, sequence: SequenceId, tokens: Sequence[int], sizes: Iterable[int] | None = None
) -> list[bytes]:
    """Append tokens in rows of these sizes, or as long as they may be, and return the logits' bytes of each."""
    rows = cut(engine, sequence, tokens, itertools.repeat(CHUNK_TOKENS) if sizes is None else sizes)
    return [bytes(logits) for row in rows for logits in engine.logits([row])[0]]


def cold(engine: NativeEngine, tokens: Sequence[int], sizes: Iterable[int] | None = None) -> list[bytes]:
    """`feed` to a sequence of its own."""
    sequence = engine.create()
    logits = feed(engine, sequence, tokens, sizes)
    engine.free(sequence)
    return logits
