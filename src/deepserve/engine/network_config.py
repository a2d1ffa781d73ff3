"""The shape of a DeepSeek V4 network, read from a `config.json` in any of its three spellings.

Spellings: the published checkpoints', the reference inference code's (`dim`, `n_layers`, ...) and transformers'
(`layer_types`, `mlp_layer_types`, `compress_rates`, nested `rope_parameters`). Nothing here knows tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepserve.core.errors import CheckpointError

LayerKind = Literal["window", "csa", "hca"]

CSA_RATIO = 4
"""The one ratio whose blocks overlap and are read through the indexer; every other compressed layer is HCA."""

_RATIO_OF_LAYER_TYPE = {"sliding_attention": 0, "compressed_sparse_attention": CSA_RATIO}

_REFERENCE_SPELLINGS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "rope_head_dim": "qk_rope_head_dim",
    "window_size": "sliding_window",
    "moe_inter_dim": "moe_intermediate_size",
    "n_activated_experts": "num_experts_per_tok",
    "n_hash_layers": "num_hash_layers",
    "route_scale": "routed_scaling_factor",
    "score_func": "scoring_func",
    "norm_eps": "rms_norm_eps",
    "max_seq_len": "max_position_embeddings",
    "rope_factor": "yarn_factor",
    "original_seq_len": "yarn_original_positions",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}

_YARN_FIELDS = {
    "factor": "yarn_factor",
    "original_max_position_embeddings": "yarn_original_positions",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "qk_rope_head_dim",
    "q_lora_rank",
    "o_groups",
    "o_lora_rank",
    "sliding_window",
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "hc_mult",
    "hc_sinkhorn_iters",
    "max_position_embeddings",
)


_LARGEST = 1 << 24
"""No size of a real network comes near; beyond it the products of sizes would overflow."""


class _Foreign(msgspec.Struct):
    """Types of the fields that are read before they become a `NetworkConfig`."""

    num_hidden_layers: int | None = None
    head_dim: int | None = None
    compress_ratios: list[int] | None = None
    layer_types: list[str] | None = None
    mlp_layer_types: list[str] | None = None
    compress_rates: dict[str, int] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and constants of one network; names as in the published `config.json` where it has one."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    sliding_window: int = 128
    compress_ratios: tuple[int, ...]
    """One per layer: 0 window only, 4 CSA, anything else HCA. Entries of the draft head are dropped."""
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    n_shared_experts: int = 1
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_hash_layers: int = 3
    """The first layers choose experts by token id."""
    routed_scaling_factor: float = 1.5
    swiglu_limit: float = 10.0
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    yarn_factor: float = 1.0
    """Only in layers with a compressor; 1 is plain RoPE."""
    yarn_original_positions: int = 0
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    max_position_embeddings: int

    def kind(self, layer: int) -> LayerKind:
        ratio = self.compress_ratios[layer]
        return "window" if ratio == 0 else "csa" if ratio == CSA_RATIO else "hca"

    def is_hash_routed(self, layer: int) -> bool:
        return layer < self.num_hash_layers

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise CheckpointError(f"{name} must be at least 1, not {getattr(self, name)}")
            if getattr(self, name) > _LARGEST:
                raise CheckpointError(f"{name} must be at most {_LARGEST}, not {getattr(self, name)}")
        for name in ("rope_theta", "compress_rope_theta"):
            if getattr(self, name) <= 1:
                raise CheckpointError(f"{name} must be more than 1, not {getattr(self, name)}")
        for name in ("hc_eps", "rms_norm_eps", "swiglu_limit", "yarn_factor"):
            if getattr(self, name) <= 0:
                raise CheckpointError(f"{name} must be more than 0, not {getattr(self, name)}")
        if len(self.compress_ratios) != self.num_hidden_layers:
            raise CheckpointError(
                f"compress_ratios has {len(self.compress_ratios)} entries for {self.num_hidden_layers} layers"
            )
        if any(ratio < 0 or ratio == 1 for ratio in self.compress_ratios):
            raise CheckpointError(f"compress_ratios must be 0 or at least 2: {list(self.compress_ratios)}")
        if self.qk_rope_head_dim % 2 or self.qk_rope_head_dim > min(self.head_dim, self.index_head_dim):
            raise CheckpointError(
                f"qk_rope_head_dim {self.qk_rope_head_dim} must be even and fit in head_dim {self.head_dim} "
                f"and index_head_dim {self.index_head_dim}"
            )
        if self.num_attention_heads % self.o_groups:
            raise CheckpointError(
                f"o_groups {self.o_groups} does not divide num_attention_heads {self.num_attention_heads}"
            )
        if self.num_experts_per_tok > self.n_routed_experts:
            raise CheckpointError(f"num_experts_per_tok is {self.num_experts_per_tok} of {self.n_routed_experts}")
        if self.n_shared_experts != 1:
            raise CheckpointError(f"n_shared_experts must be 1, not {self.n_shared_experts}")
        if self.yarn_factor != 1.0 and self.yarn_original_positions < 1:
            raise CheckpointError("YaRN needs original_max_position_embeddings")


def decode_config(fields: Mapping[str, Any]) -> NetworkConfig:
    """Read the decoded JSON object of a `config.json`; unknown keys are ignored, they describe other software.

    Raises CheckpointError naming the key that is missing, of the wrong type or out of range.
    """
    values: dict[str, Any] = {_REFERENCE_SPELLINGS.get(name, name): value for name, value in fields.items()}
    try:
        msgspec.convert(values, _Foreign)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"config.json: {error}") from error
    _require(values, "scoring_func", "sqrtsoftplus")
    _require(values, "hidden_act", "silu")
    _require(values, "norm_topk_prob", True)
    _require(values, "num_key_value_heads", 1)
    _require(values, "tie_word_embeddings", False)
    if values.get("model_type", "deepseek_v4") != "deepseek_v4":
        raise CheckpointError(f"model_type {values['model_type']!r} is not deepseek_v4")
    values.update(_yarn(values))
    for name, read in (
        ("compress_ratios", _compress_ratios),
        ("num_hash_layers", _num_hash_layers),
        ("qk_rope_head_dim", _rope_width),
    ):
        value = read(values)
        if value is not None:
            values[name] = value
    known = {name: values[name] for name in NetworkConfig.__struct_fields__ if values.get(name) is not None}
    try:
        return msgspec.convert(known, NetworkConfig, strict=True)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"config.json: {error}") from error


def load_config(path: Path) -> NetworkConfig:
    """Read `config.json` at this path."""
    try:
        fields = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return decode_config(fields)


def encode_config(config: NetworkConfig) -> dict[str, Any]:
    """Write the official spelling; `decode_config` reads it back to an equal value."""
    fields = msgspec.to_builtins(config)
    yarn = {name: fields.pop(field) for name, field in _YARN_FIELDS.items()}
    if config.yarn_factor != 1.0:
        fields["rope_scaling"] = {"type": "yarn", **yarn}
    return {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        **fields,
        "num_key_value_heads": 1,
        "scoring_func": "sqrtsoftplus",
        "norm_topk_prob": True,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def _require(values: Mapping[str, Any], name: str, only: object) -> None:
    if values.get(name, only) != only:
        raise CheckpointError(f"{name} {values[name]!r} is not supported, only {only!r}")


def _yarn(values: Mapping[str, Any]) -> dict[str, Any]:
    """Scaling of the compressed layers, from `rope_scaling` or transformers' `rope_parameters`."""
    scaling = values.get("rope_scaling") or values.get("rope_parameters") or {}
    found: dict[str, Any] = {}
    if "compress" in scaling:
        for part, name in (("main", "rope_theta"), ("compress", "compress_rope_theta")):
            if isinstance(scaling.get(part), Mapping) and "rope_theta" in scaling[part]:
                found[name] = scaling[part]["rope_theta"]
        scaling = scaling["compress"]
        if not isinstance(scaling, Mapping):
            raise CheckpointError("rope_parameters: `compress` must be an object")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "yarn":
        found.update({_YARN_FIELDS[name]: value for name, value in scaling.items() if name in _YARN_FIELDS})
    elif kind != "default":
        raise CheckpointError(f"rope scaling type {kind!r} is not supported, only yarn")
    return found


def _compress_ratios(values: Mapping[str, Any]) -> object:
    ratios = values.get("compress_ratios")
    rates = values.get("compress_rates") or {}
    if rates.get("compressed_sparse_attention", CSA_RATIO) != CSA_RATIO:
        raise CheckpointError(f"the rate of compressed_sparse_attention must be {CSA_RATIO}")
    if ratios is None and values.get("layer_types") is not None:
        known = {**_RATIO_OF_LAYER_TYPE, "heavily_compressed_attention": rates.get("heavily_compressed_attention", 128)}
        unknown = sorted(set(values["layer_types"]) - set(known))
        if unknown:
            raise CheckpointError(f"layer_types: unknown {', '.join(unknown)}")
        ratios = [known[kind] for kind in values["layer_types"]]
    if not isinstance(ratios, list | tuple):
        raise CheckpointError("compress_ratios (or layer_types) is missing")
    # What follows the backbone's entries belongs to the draft head.
    return ratios[: values.get("num_hidden_layers")]


def _num_hash_layers(values: Mapping[str, Any]) -> int | None:
    kinds: list[str] | None = values.get("mlp_layer_types")
    if kinds is None:
        return None
    num_hash = sum(kind == "hash_moe" for kind in kinds)
    if kinds != ["hash_moe"] * num_hash + ["moe"] * (len(kinds) - num_hash):
        raise CheckpointError("mlp_layer_types must be hash_moe layers followed by moe layers")
    return num_hash


def _rope_width(values: Mapping[str, Any]) -> int | None:
    factor = values.get("partial_rotary_factor")
    if values.get("qk_rope_head_dim") is None and factor is not None and "head_dim" in values:
        return int(values["head_dim"] * factor)
    return None
