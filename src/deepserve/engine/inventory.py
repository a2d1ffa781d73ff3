"""Which tensors a network of a given configuration has: their published names, shapes and types.

Source: the tensor listings of the DeepSeek-V4 releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from deepserve.engine.network_config import NetworkConfig

Storage = Literal["bf16", "f32", "i64", "fp8", "fp4"]
"""How the published checkpoints store a tensor; quantised ones have a scale beside them."""

FP8_BLOCK = 128
"""A scale of an FP8 matrix covers this many outputs and inputs."""
FP4_GROUP = 32
"""A scale of an FP4 matrix covers this many inputs of one output."""

_FLOATS = ("F64", "F32", "F16", "BF16")
_QUANTISABLE = (*_FLOATS, "F8_E4M3", "I8")
_DTYPES: dict[Storage, tuple[str, ...]] = {
    "bf16": _FLOATS,
    "f32": _FLOATS,
    "i64": ("I64", "I32"),
    "fp8": _QUANTISABLE,
    "fp4": _QUANTISABLE,
}


class ExpectedTensor(msgspec.Struct, frozen=True):
    shape: tuple[int, ...]
    """Of the values: two of them share a byte where FP4 is stored."""
    storage: Storage

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Types that are read in its place; I8 is two FP4 values."""
        return _DTYPES[self.storage]


def stored_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which this many values are stored; FP4 puts two neighbours along the inputs into a byte."""
    return (*shape[:-1], -(-shape[-1] // 2)) if dtype == "I8" else shape


def scale_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales of an [outputs, inputs] matrix stored as this quantised type."""
    outputs, inputs = shape
    if dtype == "I8":
        return outputs, -(-inputs // FP4_GROUP)
    return -(-outputs // FP8_BLOCK), -(-inputs // FP8_BLOCK)


def expected_tensors(config: NetworkConfig) -> Iterator[tuple[str, ExpectedTensor]]:
    """Every tensor by its published name, but the scales and the draft head (`mtp.*`)."""
    d, streams = config.hidden_size, config.hc_mult
    yield "embed.weight", ExpectedTensor((config.vocab_size, d), "bf16")
    for layer in range(config.num_hidden_layers):
        for name, tensor in _layer(config, layer):
            yield f"layers.{layer}.{name}", tensor
    yield "norm.weight", ExpectedTensor((d,), "bf16")
    yield "head.weight", ExpectedTensor((config.vocab_size, d), "bf16")
    yield "hc_head_fn", ExpectedTensor((streams, streams * d), "f32")
    yield "hc_head_base", ExpectedTensor((streams,), "f32")
    yield "hc_head_scale", ExpectedTensor((1,), "f32")


def _layer(config: NetworkConfig, layer: int) -> Iterator[tuple[str, ExpectedTensor]]:
    d, streams = config.hidden_size, config.hc_mult
    num_mixes = (2 + streams) * streams
    for part in ("attn", "ffn"):
        yield f"{part}_norm.weight", ExpectedTensor((d,), "bf16")
        yield f"hc_{part}_fn", ExpectedTensor((num_mixes, streams * d), "f32")
        yield f"hc_{part}_base", ExpectedTensor((num_mixes,), "f32")
        yield f"hc_{part}_scale", ExpectedTensor((3,), "f32")
    for name, tensor in _attention(config, layer):
        yield f"attn.{name}", tensor
    for name, tensor in _experts(config, layer):
        yield f"ffn.{name}", tensor


def _attention(config: NetworkConfig, layer: int) -> Iterator[tuple[str, ExpectedTensor]]:
    d, low, width = config.hidden_size, config.q_lora_rank, config.head_dim
    all_heads, grouped = config.num_attention_heads * width, config.o_groups * config.o_lora_rank
    yield "wq_a.weight", ExpectedTensor((low, d), "fp8")
    yield "q_norm.weight", ExpectedTensor((low,), "bf16")
    yield "wq_b.weight", ExpectedTensor((all_heads, low), "fp8")
    yield "wkv.weight", ExpectedTensor((width, d), "fp8")
    yield "kv_norm.weight", ExpectedTensor((width,), "bf16")
    yield "wo_a.weight", ExpectedTensor((grouped, all_heads // config.o_groups), "fp8")
    yield "wo_b.weight", ExpectedTensor((d, grouped), "fp8")
    yield "attn_sink", ExpectedTensor((config.num_attention_heads,), "f32")
    kind, ratio = config.kind(layer), config.compress_ratios[layer]
    if kind == "window":
        return
    for name, tensor in _compressor(d, width, ratio, overlaps=kind == "csa"):
        yield f"compressor.{name}", tensor
    if kind == "csa":
        yield "indexer.wq_b.weight", ExpectedTensor((config.index_n_heads * config.index_head_dim, low), "fp8")
        yield "indexer.weights_proj.weight", ExpectedTensor((config.index_n_heads, d), "bf16")
        for name, tensor in _compressor(d, config.index_head_dim, ratio, overlaps=True):
            yield f"indexer.compressor.{name}", tensor


def _compressor(d: int, width: int, ratio: int, *, overlaps: bool) -> Iterator[tuple[str, ExpectedTensor]]:
    per_token = 2 * width if overlaps else width
    yield "wkv.weight", ExpectedTensor((per_token, d), "bf16")
    yield "wgate.weight", ExpectedTensor((per_token, d), "bf16")
    yield "ape", ExpectedTensor((ratio, per_token), "f32")
    yield "norm.weight", ExpectedTensor((width,), "bf16")


def _experts(config: NetworkConfig, layer: int) -> Iterator[tuple[str, ExpectedTensor]]:
    d, width = config.hidden_size, config.moe_intermediate_size
    yield "gate.weight", ExpectedTensor((config.n_routed_experts, d), "bf16")
    if config.is_hash_routed(layer):
        yield "gate.tid2eid", ExpectedTensor((config.vocab_size, config.num_experts_per_tok), "i64")
    else:
        yield "gate.bias", ExpectedTensor((config.n_routed_experts,), "f32")
    shapes = {"w1": (width, d), "w2": (d, width), "w3": (width, d)}
    for part, shape in shapes.items():
        yield f"shared_experts.{part}.weight", ExpectedTensor(shape, "fp8")
    for expert in range(config.n_routed_experts):
        for part, shape in shapes.items():
            yield f"experts.{expert}.{part}.weight", ExpectedTensor(shape, "fp4")
