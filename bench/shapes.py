"""The networks that are measured, as the fields of their config.json; their weights are random."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]  # Any: JSON

_RATIOS = [0, 0, 4, 128, 4, 128, 4, 128]

NANO: Fields = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "head_dim": 64,
    "q_lora_rank": 128,
    "num_experts_per_tok": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "o_groups": 2,
    "o_lora_rank": 64,
    "index_n_heads": 4,
    "index_head_dim": 64,
    "index_topk": 128,
    "sliding_window": 128,
    "qk_rope_head_dim": 32,
    "compress_ratios": _RATIOS,
    "num_hash_layers": 3,
    "max_position_embeddings": 65536,
}
"""20M parameters, 8M of them active: fits the cache, so it shows everything that is not memory traffic."""

SMALL: Fields = {
    **NANO,
    "hidden_size": 768,
    "moe_intermediate_size": 256,
    "head_dim": 128,
    "q_lora_rank": 384,
    "o_lora_rank": 256,
    "index_n_heads": 8,
    "qk_rope_head_dim": 64,
}
"""109M parameters, 46M active: memory traffic starts to matter."""

FLASH: Fields = {
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_attention_heads": 64,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "num_experts_per_tok": 6,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "sliding_window": 128,
    "qk_rope_head_dim": 64,
    "max_position_embeddings": 1048576,
}
"""One layer of DeepSeek-V4-Flash; who uses it adds the layers it wants and a vocabulary.

Source: config.json of deepseek-ai/DeepSeek-V4-Flash.
"""
FLASH_RATIOS = (0, 0) + (4, 128) * 20 + (4,)
FLASH_VOCAB_SIZE = 129280
