"""A V4 network as a GGUF file, so that llama.cpp can run the very same weights.

Written for llama.cpp's `deepseek4` architecture as of the release named in `llama.py`. Matrices keep their bits: bf16
stays bf16, FP4 becomes MXFP4, which only moves them; FP8 has no counterpart there and is refused.

Source: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md); names of keys and tensors as in llama.cpp's
src/llama-arch.cpp.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.random_weights import RawTensor
from deepserve.engine.inventory import FP4_GROUP
from deepserve.engine.network_config import NetworkConfig

_ALIGNMENT = 32
_VERSION = 3
_SQRT_SOFTPLUS = 4

# Types of values and of tensors, by the numbers of the specification.
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_TENSOR_TYPES = {"F32": 0, "I32": 26, "BF16": 30, "MXFP4": 39}

_TENSOR_NAMES: tuple[tuple[str, str], ...] = (
    (r"embed\.weight", "token_embd.weight"),
    (r"head\.weight", "output.weight"),
    (r"norm\.weight", "output_norm.weight"),
    (r"hc_head_(fn|base|scale)", r"output_hc_\1.weight"),
    (r"layers\.(\d+)\.(attn|ffn)_norm\.weight", r"blk.\1.\2_norm.weight"),
    (r"layers\.(\d+)\.hc_(attn|ffn)_(fn|base|scale)", r"blk.\1.hc_\2_\3.weight"),
    (r"layers\.(\d+)\.attn\.attn_sink", r"blk.\1.attn_sinks.weight"),
    (r"layers\.(\d+)\.attn\.wq_(a|b)\.weight", r"blk.\1.attn_q_\2.weight"),
    (r"layers\.(\d+)\.attn\.q_norm\.weight", r"blk.\1.attn_q_a_norm.weight"),
    (r"layers\.(\d+)\.attn\.wkv\.weight", r"blk.\1.attn_kv.weight"),
    (r"layers\.(\d+)\.attn\.kv_norm\.weight", r"blk.\1.attn_kv_a_norm.weight"),
    (r"layers\.(\d+)\.attn\.wo_(a|b)\.weight", r"blk.\1.attn_output_\2.weight"),
    (r"layers\.(\d+)\.attn\.compressor\.w(kv|gate)\.weight", r"blk.\1.attn_compressor_\2.weight"),
    (r"layers\.(\d+)\.attn\.compressor\.(ape|norm)(?:\.weight)?", r"blk.\1.attn_compressor_\2.weight"),
    (r"layers\.(\d+)\.attn\.indexer\.wq_b\.weight", r"blk.\1.indexer.attn_q_b.weight"),
    (r"layers\.(\d+)\.attn\.indexer\.weights_proj\.weight", r"blk.\1.indexer.proj.weight"),
    (r"layers\.(\d+)\.attn\.indexer\.compressor\.w(kv|gate)\.weight", r"blk.\1.indexer_compressor_\2.weight"),
    (r"layers\.(\d+)\.attn\.indexer\.compressor\.(ape|norm)(?:\.weight)?", r"blk.\1.indexer_compressor_\2.weight"),
    (r"layers\.(\d+)\.ffn\.gate\.weight", r"blk.\1.ffn_gate_inp.weight"),
    (r"layers\.(\d+)\.ffn\.gate\.bias", r"blk.\1.exp_probs_b.bias"),
    (r"layers\.(\d+)\.ffn\.gate\.tid2eid", r"blk.\1.ffn_gate_tid2eid.weight"),
    (r"layers\.(\d+)\.ffn\.shared_experts\.w1\.weight", r"blk.\1.ffn_gate_shexp.weight"),
    (r"layers\.(\d+)\.ffn\.shared_experts\.w2\.weight", r"blk.\1.ffn_down_shexp.weight"),
    (r"layers\.(\d+)\.ffn\.shared_experts\.w3\.weight", r"blk.\1.ffn_up_shexp.weight"),
)
_EXPERT_NAMES = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}


class _Entry(NamedTuple):
    """A tensor of the file. Its bytes are made when they are written: all together they may not fit the memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    make: Callable[[], NDArray[np.uint8]]


def write_gguf(
    path: Path, config: NetworkConfig, tensors: Mapping[str, RawTensor], *, tokenizer: Mapping[str, bytes] | None = None
) -> None:
    """tensors: by their published names. tokenizer: its fields; None: only ids go in and come out."""
    entries = [*_dense_entries(tensors), *_expert_entries(config, tensors)]
    words = {"tokenizer.ggml.model": _text("none")} if tokenizer is None else tokenizer
    fields = {**_fields(config), **words}
    with path.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", _VERSION, len(entries), len(fields)))
        file.write(b"".join(_encode_string(key) + value for key, value in fields.items()))
        offset = 0
        for entry in entries:
            # Dimensions are listed from the innermost outwards.
            sizes = struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
            file.write(_encode_string(entry.name) + sizes + struct.pack("<IQ", _TENSOR_TYPES[entry.dtype], offset))
            offset += entry.size_bytes + -entry.size_bytes % _ALIGNMENT
        _align(file)
        for entry in entries:
            data = entry.make()
            assert data.nbytes == entry.size_bytes, entry.name
            file.write(data.data)
            _align(file)


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _dense_entries(tensors: Mapping[str, RawTensor]) -> list[_Entry]:
    entries = []
    for name, tensor in tensors.items():
        if ".ffn.experts." in name:
            continue
        for pattern, theirs in _TENSOR_NAMES:
            if match := re.fullmatch(pattern, name):
                entries.append(_dense_entry(match.expand(theirs), tensor))
                break
        else:
            raise ValueError(f"{name} has no name in GGUF files")
    return entries


def _dense_entry(name: str, tensor: RawTensor) -> _Entry:
    if tensor.dtype == "I64":
        narrow = tensor.data.view(np.int64).astype(np.int32).view(np.uint8)
        return _Entry(name, "I32", tensor.shape, narrow.nbytes, lambda: narrow)
    if len(tensor.shape) == 1 and tensor.dtype == "BF16":
        # Vectors are float32 there; every bf16 value is one.
        wide = (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.uint8)
        return _Entry(name, "F32", tensor.shape, wide.nbytes, lambda: wide)
    if tensor.dtype not in ("F32", "BF16"):
        raise ValueError(f"{name} is {tensor.dtype}, which llama.cpp has no equal of")
    return _Entry(name, tensor.dtype, tensor.shape, tensor.data.nbytes, lambda: tensor.data)


def _expert_entries(config: NetworkConfig, tensors: Mapping[str, RawTensor]) -> list[_Entry]:
    """The experts of a layer are stacked."""
    entries = []
    for layer in range(config.num_hidden_layers):
        for part, theirs in _EXPERT_NAMES.items():
            name = f"blk.{layer}.{theirs}.weight"
            num_experts = config.n_routed_experts
            experts = [tensors[f"layers.{layer}.ffn.experts.{number}.{part}.weight"] for number in range(num_experts)]
            outputs, inputs = experts[0].shape
            if experts[0].dtype == "I8":
                inputs *= 2
                size_bytes = num_experts * outputs * inputs // FP4_GROUP * (1 + FP4_GROUP // 2)
                make = partial(_stack_mxfp4, experts)
                entries.append(_Entry(name, "MXFP4", (num_experts, outputs, inputs), size_bytes, make))
            else:
                size_bytes = sum(expert.data.nbytes for expert in experts)
                make = partial(_stack, experts)
                entries.append(_Entry(name, experts[0].dtype, (num_experts, outputs, inputs), size_bytes, make))
    return entries


def _stack(matrices: Sequence[RawTensor]) -> NDArray[np.uint8]:
    return np.concatenate([matrix.data for matrix in matrices])


def _stack_mxfp4(matrices: Sequence[RawTensor]) -> NDArray[np.uint8]:
    return np.concatenate([pack_mxfp4(matrix) for matrix in matrices])


def pack_mxfp4(matrix: RawTensor) -> NDArray[np.uint8]:
    """Per group of 32 inputs: the scale byte, then 16 bytes; values 0..15 in the low half, 16..31 in the high."""
    assert matrix.scale is not None
    pairs = matrix.data.reshape(-1, FP4_GROUP // 2)
    codes = np.stack((pairs & 0x0F, pairs >> 4), axis=-1).reshape(-1, FP4_GROUP)
    halves = codes[:, : FP4_GROUP // 2] | codes[:, FP4_GROUP // 2 :] << 4
    return np.concatenate((matrix.scale.data.reshape(-1, 1), halves), axis=1).reshape(-1)


def _fields(config: NetworkConfig) -> dict[str, bytes]:
    """Metadata of the network by key, encoded."""

    def number(value: int) -> bytes:
        return struct.pack("<II", _UINT32, value)

    def real(value: float) -> bytes:
        return struct.pack("<If", _FLOAT32, value)

    layers = config.num_hidden_layers
    clamps = struct.pack(f"<IIQ{layers}f", _ARRAY, _FLOAT32, layers, *[config.swiglu_limit] * layers)
    ratios = struct.pack(f"<IIQ{layers}i", _ARRAY, _INT32, layers, *config.compress_ratios)
    own = {
        "vocab_size": number(config.vocab_size),
        "context_length": number(config.max_position_embeddings),
        "block_count": number(layers),
        "embedding_length": number(config.hidden_size),
        "embedding_length_out": number(config.hidden_size * config.hc_mult),
        "attention.head_count": number(config.num_attention_heads),
        "attention.head_count_kv": number(1),
        "attention.key_length": number(config.head_dim),
        "attention.value_length": number(config.head_dim),
        "attention.layer_norm_rms_epsilon": real(config.rms_norm_eps),
        "attention.q_lora_rank": number(config.q_lora_rank),
        "attention.sliding_window": number(config.sliding_window),
        "attention.output_group_count": number(config.o_groups),
        "attention.output_lora_rank": number(config.o_lora_rank),
        "attention.compress_ratios": ratios,
        "attention.compress_rope_freq_base": real(config.compress_rope_theta),
        "attention.indexer.head_count": number(config.index_n_heads),
        "attention.indexer.key_length": number(config.index_head_dim),
        "attention.indexer.top_k": number(config.index_topk),
        "rope.dimension_count": number(config.qk_rope_head_dim),
        "rope.freq_base": real(config.rope_theta),
        "expert_count": number(config.n_routed_experts),
        "expert_used_count": number(config.num_experts_per_tok),
        "expert_shared_count": number(config.n_shared_experts),
        "expert_feed_forward_length": number(config.moe_intermediate_size),
        "expert_weights_scale": real(config.routed_scaling_factor),
        "expert_weights_norm": struct.pack("<I?", _BOOL, True),
        "expert_gating_func": number(_SQRT_SOFTPLUS),
        "swiglu_clamp_exp": clamps,
        "swiglu_clamp_shexp": clamps,
        "hyper_connection.count": number(config.hc_mult),
        "hyper_connection.sinkhorn_iterations": number(config.hc_sinkhorn_iters),
        "hyper_connection.epsilon": real(config.hc_eps),
        "hash_layer_count": number(config.num_hash_layers),
    }
    if config.yarn_factor != 1.0:
        own |= {
            "rope.scaling.type": _text("yarn"),
            "rope.scaling.factor": real(config.yarn_factor),
            "rope.scaling.original_context_length": number(config.yarn_original_positions),
            "rope.scaling.yarn_beta_fast": real(config.yarn_beta_fast),
            "rope.scaling.yarn_beta_slow": real(config.yarn_beta_slow),
        }
    return {"general.architecture": _text("deepseek4")} | {f"deepseek4.{key}": value for key, value in own.items()}


def _text(value: str) -> bytes:
    return struct.pack("<I", _STRING) + _encode_string(value)


def _encode_string(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded
