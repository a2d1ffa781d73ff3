"""Mixture of experts: routing by token id or by learned score, clamped SwiGLU experts, one shared expert.

Dimension legend: N tokens, d hidden width, X experts, K experts per token, I expert width.
Source: DeepSeek-V4 report, section 2.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from deepserve.engine.network_config import NetworkConfig


class Route(NamedTuple):
    """Experts of each token in ascending order, so that their outputs are always added in the same order."""

    experts: Tensor
    """[N, K] int64"""
    weights: Tensor
    """[N, K]"""


def route(scores: Tensor, chosen: Tensor, scale: float) -> Route:
    """Weigh the chosen experts by their scores, bias left out: [N, X], [N, K] -> Route."""
    # A mask's set places come out in ascending order; sorting rows of two would cost twenty times as much.
    is_chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)
    experts = is_chosen.nonzero()[:, 1].view_as(chosen)
    weights = scores.gather(1, experts)
    return Route(experts, weights / (weights.sum(-1, keepdim=True) + 1e-20) * scale)


def router_scores(x: Tensor, weight: Tensor) -> Tensor:
    """Affinity of tokens and experts, float32: [N, d], [X, d] -> [N, X]."""
    return F.softplus(F.linear(x.float(), weight.float())).sqrt()


def clamped_swiglu(gate_and_up: Tensor, limit: float) -> Tensor:
    """[..., 2 I], gate first -> [..., I]"""
    gate, up = gate_and_up.chunk(2, dim=-1)
    # Clamps, spelled with the operation whose gradient is one pass.
    return F.silu(F.hardtanh(gate, -torch.inf, limit)) * F.hardtanh(up, -limit, limit)


class Gate(nn.Module):
    """The router of one layer. `load` counts the tokens each expert got since the counts were last taken."""

    load: Tensor
    tid2eid: Tensor
    bias: Tensor

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.is_hash_routed = config.is_hash_routed(layer)
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        if self.is_hash_routed:
            shape = (config.vocab_size, config.num_experts_per_tok)
            self.register_buffer("tid2eid", torch.zeros(shape, dtype=torch.int64))
        else:
            # Moved by `Network.balance_experts`, not by gradients: it decides who is chosen, not how much it counts.
            self.register_buffer("bias", torch.zeros(config.n_routed_experts))
        self.register_buffer("load", torch.zeros(config.n_routed_experts, dtype=torch.int64), persistent=False)

    @override
    def forward(self, x: Tensor, tokens: Tensor) -> Route:
        """x [N, d], tokens [N]"""
        scores = router_scores(x, self.weight)
        if self.is_hash_routed:
            chosen = self.tid2eid[tokens]
        else:
            chosen = (scores.detach() + self.bias).topk(self.config.num_experts_per_tok, dim=-1).indices
        return route(scores, chosen, self.config.routed_scaling_factor)


class Experts(nn.Module):
    """All routed experts of a layer, stacked: w13 holds each expert's w1 rows, then its w3 rows."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        num, width, d = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.limit = config.swiglu_limit
        self.w13 = nn.Parameter(torch.empty(num, 2 * width, d))
        self.w2 = nn.Parameter(torch.empty(num, d, width))

    @override
    def forward(self, x: Tensor, routed: Route, counts: list[int]) -> Tensor:
        """Sum of each token's experts: x [N, d] -> [N, d]; counts [X] tokens per expert."""
        num_tokens, per_token = routed.experts.shape
        order = routed.experts.flatten().argsort(stable=True)
        rows = x[order // per_token]
        hidden = torch.cat([part @ w.T for part, w in zip(rows.split(counts), self.w13, strict=True)])
        hidden = clamped_swiglu(hidden, self.limit) * routed.weights.flatten()[order].unsqueeze(-1).to(x.dtype)
        outputs = torch.cat([part @ w.T for part, w in zip(hidden.split(counts), self.w2, strict=True)])
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return outputs[back].view(num_tokens, per_token, -1).sum(1)


class SharedExpert(nn.Module):
    """The expert every token visits."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.limit = config.swiglu_limit
        self.w1 = nn.Linear(config.hidden_size, config.moe_intermediate_size, bias=False)
        self.w2 = nn.Linear(config.moe_intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.moe_intermediate_size, bias=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        gate_and_up = F.linear(x, torch.cat((self.w1.weight, self.w3.weight)))
        out: Tensor = self.w2(clamped_swiglu(gate_and_up, self.limit))
        return out


class MixtureOfExperts(nn.Module):
    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        self.gate = Gate(config, layer)
        self.experts = Experts(config)
        self.shared_experts = SharedExpert(config)

    @override
    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x [N, d], tokens [N] -> [N, d]"""
        routed: Route = self.gate(x, tokens)
        counts = torch.bincount(routed.experts.flatten(), minlength=len(self.gate.weight))
        self.gate.load += counts
        out: Tensor = self.experts(x, routed, counts.tolist()) + self.shared_experts(x)
        return out
