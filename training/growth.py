"""A larger network that computes what a smaller one does, to train on from there.

Every matrix of the smaller one becomes a corner of the larger one's. New channels of the streams hold zeros at first:
what reads them is drawn anew, what writes to them is zero, so both learn from the first step. Norms divide by the
width, and their weights make up for it. Layers that are added write nothing yet, and carry the streams on almost as
they are.

Dimension legend: d hidden width, S streams, H heads, D head width, X experts, I expert width; small -> large.
Source: Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer", with zeros for copies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.reference.compressor import Compressor
from deepserve.engine.reference.network import Layer, Network

_CARRY_LOGIT = 5.0
"""Of a new layer's streams to themselves: 98 % stays where it is."""

_MAY_GROW = frozenset(
    {
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "q_lora_rank",
        "o_lora_rank",
        "compress_ratios",
        "moe_intermediate_size",
    }
)


@torch.no_grad()
def grown(small: Network, config: NetworkConfig, generator: torch.Generator) -> Network:
    """A network of this shape with the same logits, up to rounding and to what layers that are added mix.

    Raises ValueError for a shape that is smaller somewhere, or differs in what cannot grow.
    """
    _check(small.config, config)
    large = Network(config)
    large.initialise(generator)
    wide, narrow = config.hidden_size, small.config.hidden_size
    norm_factor = (narrow / wide) ** 0.5

    large.embed.weight.zero_()[:, :narrow] = small.embed.weight
    large.head.weight[:, :narrow] = small.head.weight
    large.norm.weight[:narrow] = small.norm.weight * norm_factor
    _widen_streams(large.hc_head_fn, small.hc_head_fn, config.hc_mult, norm_factor)
    large.hc_head_base.copy_(small.hc_head_base)
    large.hc_head_scale.copy_(small.hc_head_scale)
    for number, layer in enumerate(large.layers):
        assert isinstance(layer, Layer)
        if number < small.config.num_hidden_layers:
            before = small.layers[number]
            assert isinstance(before, Layer)
            _grow_layer(layer, before, norm_factor)
        else:
            _silence(layer)
    return large


def _check(small: NetworkConfig, large: NetworkConfig) -> None:
    for name in small.__struct_fields__:
        before, after = getattr(small, name), getattr(large, name)
        if name == "compress_ratios":
            fits = after[: len(before)] == before
        elif name in _MAY_GROW:
            fits = after >= before
        else:
            fits = after == before
        if not fits:
            raise ValueError(f"A network with {name} {before} cannot grow into one with {after}.")


def _grow_layer(large: Layer, small: Layer, norm_factor: float) -> None:
    narrow, streams = small.config.hidden_size, small.config.hc_mult
    for name in ("attn", "ffn"):
        _widen_streams(getattr(large, f"hc_{name}_fn"), getattr(small, f"hc_{name}_fn"), streams, norm_factor)
        getattr(large, f"hc_{name}_base").copy_(getattr(small, f"hc_{name}_base"))
        getattr(large, f"hc_{name}_scale").copy_(getattr(small, f"hc_{name}_scale"))
        getattr(large, f"{name}_norm").weight[:narrow] = getattr(small, f"{name}_norm").weight * norm_factor
    _grow_attention(large, small)
    _grow_experts(large, small)


def _grow_attention(layer: Layer, before: Layer) -> None:
    large, small = layer.attn, before.attn
    rank, groups, width = small.config.q_lora_rank, small.config.o_groups, small.config.head_dim
    large.wq_a.weight[rank:] = 0
    _corner(large.wq_a.weight, small.wq_a.weight)
    large.q_norm.weight[:rank] = small.q_norm.weight * (rank / large.config.q_lora_rank) ** 0.5
    _corner(large.wkv.weight, small.wkv.weight)
    large.kv_norm.weight.copy_(small.kv_norm.weight)

    # Heads belong to groups in order, so each group gets its new ones after its old ones.
    _corner(
        large.wq_b.weight.view(groups, -1, width, large.config.q_lora_rank),
        small.wq_b.weight.view(groups, -1, width, rank),
    )
    _corner(large.attn_sink.view(groups, -1), small.attn_sink.view(groups, -1))
    down = large.wo_a.weight.view(groups, large.config.o_lora_rank, -1)
    down[:, : small.config.o_lora_rank] = 0
    _corner(down, small.wo_a.weight.view(groups, small.config.o_lora_rank, -1))
    up = large.wo_b.weight.zero_().view(large.config.hidden_size, groups, -1)
    _corner(up, small.wo_b.weight.view(small.config.hidden_size, groups, -1))

    if large.compressor is not None and small.compressor is not None:
        _grow_compressor(large.compressor, small.compressor)
    if large.indexer is not None and small.indexer is not None:
        _corner(large.indexer.wq_b.weight, small.indexer.wq_b.weight)
        _corner(large.indexer.weights_proj.weight, small.indexer.weights_proj.weight)
        _grow_compressor(large.indexer.compressor, small.indexer.compressor)


def _grow_compressor(large: Compressor, small: Compressor) -> None:
    _corner(large.wkv.weight, small.wkv.weight)
    _corner(large.wgate.weight, small.wgate.weight)
    large.ape.copy_(small.ape)
    large.norm.weight.copy_(small.norm.weight)


def _grow_experts(layer: Layer, before: Layer) -> None:
    large, small = layer.ffn, before.ffn
    _corner(large.gate.weight, small.gate.weight)
    if large.gate.is_hash_routed:
        large.gate.tid2eid.copy_(small.gate.tid2eid)
    else:
        large.gate.bias.copy_(small.gate.bias)
    _corner(large.experts.w13.unflatten(1, (2, -1)), small.experts.w13.unflatten(1, (2, -1)))
    _corner(large.experts.w2.zero_(), small.experts.w2)
    _corner(large.shared_experts.w1.weight, small.shared_experts.w1.weight)
    _corner(large.shared_experts.w3.weight, small.shared_experts.w3.weight)
    _corner(large.shared_experts.w2.weight.zero_(), small.shared_experts.w2.weight)


def _silence(layer: Layer) -> None:
    """Let a new layer write nothing, and carry on the streams nearly unmixed."""
    for weight in (layer.attn.wo_b.weight, layer.ffn.experts.w2, layer.ffn.shared_experts.w2.weight):
        weight.zero_()
    streams = layer.config.hc_mult
    for fn, base in ((layer.hc_attn_fn, layer.hc_attn_base), (layer.hc_ffn_fn, layer.hc_ffn_base)):
        fn[2 * streams :] = 0
        base[2 * streams :] = (_CARRY_LOGIT * torch.eye(streams)).flatten()


def _corner(large: Tensor, small: Tensor) -> None:
    """Copy into the lowest indices of every dimension."""
    large[tuple(slice(size) for size in small.shape)] = small


def _widen_streams(large: Tensor, small: Tensor, streams: int, norm_factor: float) -> None:
    """Scores of normed, flattened streams: [scores, S * d]."""
    _corner(large.unflatten(1, (streams, -1)), small.unflatten(1, (streams, -1)) * norm_factor)
