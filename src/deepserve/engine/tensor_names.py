"""The spellings of tensor names found in checkpoints, all turned into the published one.

Four kinds are known: the published names; transformers' own; what transformers 5.23 saves, published names within
layers and its own outside; and repacks with older DeepSeek spellings (`self_attn`, `mlp`, `weight_scale_inv`,
`e_score_correction_bias`), which the published converter accepts too. No spelling means two different things, so
nobody has to say which one a checkpoint uses.

Sources: conversion_mapping.py of transformers 5.23; inference/convert.py of the DeepSeek-V4 releases.
"""

from __future__ import annotations

import re

_OUTSIDE = {
    "embed_tokens.weight": "embed.weight",
    "lm_head.weight": "head.weight",
    "hc_head.hc_fn": "hc_head_fn",
    "hc_head.hc_base": "hc_head_base",
    "hc_head.hc_scale": "hc_head_scale",
}

_WITHIN: tuple[tuple[str, str], ...] = (
    ("self_attn.compressor.indexer.scorer.", "attn.indexer."),
    ("self_attn.compressor.indexer.q_b_proj.", "attn.indexer.wq_b."),
    ("self_attn.compressor.indexer.", "attn.indexer.compressor."),
    ("self_attn.", "attn."),
    ("mlp.", "ffn."),
    ("input_layernorm.", "attn_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
    ("attn_hc.", "hc_attn_"),
    ("ffn_hc.", "hc_ffn_"),
)
"""Start of a name within a layer -> published start; the first that matches."""

_PARTS = {
    "sinks": "attn_sink",
    "q_a_proj": "wq_a",
    "q_b_proj": "wq_b",
    "kv_proj": "wkv",
    "o_a_proj": "wo_a",
    "o_b_proj": "wo_b",
    "q_a_norm": "q_norm",
    "q_a_layernorm": "q_norm",
    "kv_a_layernorm": "kv_norm",
    "position_bias": "ape",
    "down_proj": "w2",
    "up_proj": "w3",
    "e_score_correction_bias": "bias",
    "weight_scale_inv": "scale",
}

_LAYER = re.compile(r"(layers\.\d+\.)(.*)", re.DOTALL)


def published_name(stored: str) -> str:
    """The published spelling of a stored name; a name of no known spelling comes back as it is or nearly so.

    Stacked experts, which only transformers has, become `….ffn.experts.gate_up_proj` and `….ffn.experts.w2`; their
    scales end in `_scale_inv` instead of `.scale`.
    """
    name = stored.removeprefix("model.")
    match = _LAYER.fullmatch(name)
    if not match:
        return _OUTSIDE.get(name, name)
    prefix, name = match.groups()
    for start, published in _WITHIN:
        if name.startswith(start):
            name = published + name.removeprefix(start)
            break
    parts = name.split(".")
    return prefix + ".".join(_published_part(parts, place) for place in range(len(parts)))


def _published_part(parts: list[str], place: int) -> str:
    """Some parts mean something else elsewhere."""
    part, before = parts[place], parts[place - 1] if place else ""
    if part == "gate_proj":
        return "wgate" if before == "compressor" else "w1"
    if part == "kv_norm" and before == "compressor":
        return "norm"
    if part == "norm" and before == "attn":
        return "kv_norm"
    return _PARTS.get(part, part)
