"""The shapes of the shipped models."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from deepserve.engine.network_config import NetworkConfig

TOKENIZER = Path(__file__).with_name("tokenizer.json")
"""The one vocabulary of both models; exported beside their weights."""


def vocabulary_size(path: Path) -> int:
    """Entries of a tokenizer.json, special ones included."""
    content = json.loads(path.read_text(encoding="utf-8"))
    largest: int = max(*content["model"]["vocab"].values(), *(added["id"] for added in content["added_tokens"]))
    return largest + 1


MINI_FLASH = NetworkConfig(
    vocab_size=vocabulary_size(TOKENIZER),
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    head_dim=64,
    qk_rope_head_dim=32,
    q_lora_rank=64,
    o_groups=2,
    o_lora_rank=64,
    sliding_window=1024,
    compress_ratios=(0, 0, 4, 128),
    index_n_heads=16,
    index_head_dim=64,
    index_topk=128,
    n_routed_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=128,
    num_hash_layers=1,
    routed_scaling_factor=1.5,
    hc_mult=4,
    yarn_factor=16.0,
    yarn_original_positions=8192,
    max_position_embeddings=131072,
)
"""Two plain window layers first, as in V4-Flash: copying is learned soonest that way, and with heads of 64.
The window is eight times V4's: a request with its tools, their results and a page of text is inside it, and at this
size words are copied exactly only from there."""

MINI_PRO = msgspec.structs.replace(
    MINI_FLASH,
    hidden_size=192,
    num_hidden_layers=5,
    num_attention_heads=6,
    q_lora_rank=96,
    o_lora_rank=96,
    compress_ratios=(0, 0, 4, 128, 4),
    moe_intermediate_size=192,
)
"""Wider, and a second layer that looks things up in the whole history with what the first one found."""

SHAPES = {"mini-flash": MINI_FLASH, "mini-pro": MINI_PRO}


def num_total_parameters(config: NetworkConfig) -> int:
    """All parameters that are stored."""
    from deepserve.engine.reference.network import Network

    return sum(parameter.numel() for parameter in Network(config).parameters())


def num_active_parameters(config: NetworkConfig) -> int:
    """Parameters that one token passes through: everything but the experts it is not routed to and the input table."""
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    idle = config.num_hidden_layers * (config.n_routed_experts - config.num_experts_per_tok) * expert
    return num_total_parameters(config) - config.vocab_size * config.hidden_size - idle
