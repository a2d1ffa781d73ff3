"""Tiny random networks in two hands: transformers' DeepseekV4ForCausalLM as the oracle, and ours with its weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

from deepserve.engine.network_config import decode_config
from deepserve.engine.reference.network import Network

torch.set_num_threads(1)

TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 32,
    "qk_rope_head_dim": 8,
    "q_lora_rank": 32,
    "o_groups": 2,
    "o_lora_rank": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "index_n_heads": 16,
    "index_head_dim": 16,
    "index_topk": 512,
    "sliding_window": 8,
    "compress_ratios": [0, 4, 128, 4],
    "num_hash_layers": 2,
    "max_position_embeddings": 1024,
}
YARN = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 256,
    "beta_fast": 32,
    "beta_slow": 1,
}


def oracle(seed: int = 0, **changes: Any) -> Any:  # Any: transformers has no types
    """A model with every branch on and no parameter left at its default of zero."""
    rope = {"rope_type": "yarn", **{name: value for name, value in YARN.items() if name != "type"}}
    fields = {**TINY, **changes}
    rate = max([ratio for ratio in fields["compress_ratios"] if ratio > 4], default=128)
    names = {0: "sliding_attention", 4: "compressed_sparse_attention", rate: "heavily_compressed_attention"}
    fields["layer_types"] = [names[ratio] for ratio in fields.pop("compress_ratios")]
    rates = {"compressed_sparse_attention": 4, "heavily_compressed_attention": rate}
    config = DeepseekV4Config(**fields, compress_rates=rates, rope_parameters=rope)
    model: Any = DeepseekV4ForCausalLM(config)
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("tid2eid"):
                ranks = torch.rand(config.vocab_size, config.n_routed_experts, generator=generator)
                tensor.copy_(ranks.argsort(-1)[:, : config.num_experts_per_tok])
            elif name.endswith("inv_freq"):
                continue
            elif "norm" in name:
                tensor.copy_(1 + 0.2 * torch.randn(tensor.shape, generator=generator))
            elif name.endswith(("base", "scale", "sinks", "position_bias", "correction_bias")):
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


_RENAMES = {
    "embed.": "model.embed_tokens.",
    "head.weight": "lm_head.weight",
    "norm.weight": "model.norm.weight",
    "hc_head_": "model.hc_head.hc_",
}
_LAYER_RENAMES = [
    ("attn.indexer.compressor.", "self_attn.compressor.indexer."),
    ("attn.indexer.weights_proj", "self_attn.compressor.indexer.scorer.weights_proj"),
    ("attn.indexer.", "self_attn.compressor.indexer."),
    ("attn.attn_sink", "self_attn.sinks"),
    ("attn.", "self_attn."),
    ("ffn.", "mlp."),
    ("attn_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("hc_attn_", "attn_hc."),
    ("hc_ffn_", "ffn_hc."),
]
_PART_RENAMES = [
    ("self_attn.wq_a.", "self_attn.q_a_proj."),
    ("wq_b.", "q_b_proj."),
    ("self_attn.wkv.", "self_attn.kv_proj."),
    ("wo_a.", "o_a_proj."),
    ("wo_b.", "o_b_proj."),
    (".q_norm.", ".q_a_norm."),
    (".wkv.", ".kv_proj."),
    (".wgate.", ".gate_proj."),
    (".ape", ".position_bias"),
    ("compressor.norm.", "compressor.kv_norm."),
    ("indexer.norm.", "indexer.kv_norm."),
    ("gate.bias", "gate.e_score_correction_bias"),
    ("shared_experts.w1.", "shared_experts.gate_proj."),
    ("shared_experts.w2.", "shared_experts.down_proj."),
    ("shared_experts.w3.", "shared_experts.up_proj."),
]


def oracle_tensor(model: Any, name: str) -> torch.Tensor:
    """The oracle's tensor with this official name; written apart from the loader, which it tests."""
    tensors: dict[str, torch.Tensor] = model.state_dict()
    if not name.startswith("layers."):
        for ours, theirs in _RENAMES.items():
            if name.startswith(ours):
                return tensors[name.replace(ours, theirs, 1)]
        raise KeyError(name)
    _, layer, rest = name.split(".", 2)
    if rest.startswith("ffn.experts."):
        _, _, expert, part, _ = rest.split(".")
        prefix = f"model.layers.{layer}.mlp.experts"
        if part == "w2":
            return tensors[f"{prefix}.down_proj"][int(expert)]
        return tensors[f"{prefix}.gate_up_proj"][int(expert)].chunk(2)[part == "w3"]
    for ours, theirs in _LAYER_RENAMES:
        if rest.startswith(ours):
            rest = rest.replace(ours, theirs, 1)
            break
    for ours, theirs in _PART_RENAMES:
        rest = rest.replace(ours, theirs)
    return tensors[f"model.layers.{layer}.{rest}"]


def ours(model: Any, **changes: Any) -> Network:
    """Our network with the oracle's weights."""
    network = Network(decode_config({**TINY, "rope_scaling": YARN, **changes}))
    network.load_tensors(lambda name: oracle_tensor(model, name))
    return network.eval()
