"""Attention over a recent window and a compressed history, with a sink; the lightning indexer of CSA layers.

The modules hold the weights under their official names and know the dense form, whole sequences from position 0,
which is what training and tests use. Decoding from stored state is `engine.py`'s.

Dimension legend: B sequences, T tokens, H heads, D head width, E compressed entries, m tokens per entry,
W window, Q queries of one block, S slots a block's queries may read.
Source: DeepSeek-V4 report, section 2.3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from deepserve.engine.network_config import NetworkConfig

from .compressor import Compressor
from .norm import RMSNorm, rms_norm
from .rotary import Rotation, rotary_frequencies, rotate, rotation


class _SinkAttention(torch.autograd.Function):
    """Softmax attention whose last slot is a learned logit per head instead of a key; no second pass over scores."""

    @staticmethod
    @override
    def forward(ctx: Any, queries: Tensor, slots: Tensor, bias: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
        # Any: autograd's context
        heads, rows = queries.shape[-3:-1]
        flat = queries.flatten(-3, -2)
        scores = (flat @ slots.transpose(-1, -2)).unflatten(-2, (heads, rows))
        scores += bias.unsqueeze(-3)
        scores[..., -1] = sink.unsqueeze(-1)
        weights = scores.softmax(-1)
        ctx.save_for_backward(flat, slots, weights)
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)
        return (weights.flatten(-3, -2) @ slots).unflatten(-2, (heads, rows)), weights

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
        flat, slots, weights = ctx.saved_tensors
        heads, rows = weights.shape[-3:-1]
        grad = grads[0].flatten(-3, -2)
        weights = weights.flatten(-3, -2)
        grad_weights = grad @ slots.transpose(-1, -2)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_sink = grad_scores[..., -1].unflatten(-1, (heads, rows)).flatten(0, -3).sum((0, 2))
        # The sink's slot is a zero vector: its column must not reach the queries, and does not.
        grad_slots = weights.transpose(-1, -2) @ grad + grad_scores.transpose(-1, -2) @ flat
        return (grad_scores @ slots).unflatten(-2, (heads, rows)), grad_slots, None, grad_sink


def sink_attention(queries: Tensor, slots: Tensor, bias: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from every head to shared vectors that are keys and values at once.

    queries [..., H, Q, D] already scaled; slots [..., S, D] of which the last is a zero vector standing for the
    sink; bias [..., Q, S] is added to the scores; sink [H] is the logit of the last slot.
    -> outputs [..., H, Q, D] and weights [..., H, Q, S] (no gradient flows through the weights)
    """
    outputs, weights = _SinkAttention.apply(queries, slots, bias, sink)  # type: ignore[no-untyped-call]  # torch: untyped
    return outputs, weights


def index_scores(queries: Tensor, keys: Tensor, head_weights: Tensor) -> Tensor:
    """Rate every entry for every token: sum over index heads of weight * ReLU(query . key).

    queries [B, T, h, D], keys [B, E, D], head_weights [B, T, h] already scaled -> [B, T, E]
    Exact ties are normal: ReLU makes zeros.
    """
    heads = queries.shape[2]
    products = (queries.flatten(1, 2) @ keys.transpose(1, 2)).relu().unflatten(1, (-1, heads))
    scores: Tensor = (head_weights.unsqueeze(2) @ products).squeeze(2)
    return scores


def select_entries(scores: Tensor, top_k: int) -> Tensor:
    """Mask of the best top_k entries of each row; ties go to the lower index. scores [..., E] -> bool [..., E]"""
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter_(-1, order[..., :top_k], True)


def grouped_matrix(wo_a: Tensor, groups: int) -> Tensor:
    """[groups * rank, inputs of a group] as stored -> [groups, inputs of a group, rank]"""
    return wo_a.view(groups, -1, wo_a.shape[1]).transpose(1, 2)


def group_output(heads: Tensor, wo_a: Tensor, wo_b: Tensor) -> Tensor:
    """Project each group of consecutive heads down on its own, then all of them to the hidden width.

    heads [N, H, D], wo_a [groups, H * D / groups, rank], wo_b [groups * rank, d] -> [N, d]
    """
    grouped = heads.reshape(len(heads), len(wo_a), -1).transpose(0, 1)
    return torch.bmm(grouped, wo_a).transpose(0, 1).flatten(1) @ wo_b


class DenseView(NamedTuple):
    """What every layer with one ratio shares in a pass over whole sequences: angles and who may read what."""

    rotation: Rotation
    """Of the tokens, [T, R]."""
    entry_rotation: Rotation
    """Of the entries, [E, R]: the position of the first token of each."""
    block: int
    """Queries per block, a divisor of the window, or T where the window covers everything."""
    num_before: int
    """Blocks a block's queries read before their own."""
    window_bias: Tensor
    """[blocks, Q, Q * (num_before + 1)]: 0 or -inf."""
    entry_bias: Tensor
    """[blocks, Q, E]: -inf until the token that completes the entry."""


def dense_view(config: NetworkConfig, ratio: int, length: int, device: torch.device) -> DenseView:
    """Lay out attention over `length` tokens in a layer of this ratio."""
    window = config.sliding_window
    block = length if length <= window else window // 2 if window % 2 == 0 else window
    num_blocks = -(-length // block)
    num_before = window // block if length > window else 0
    queries = torch.arange(num_blocks * block, device=device).view(num_blocks, block, 1)
    keys = torch.arange(-num_before * block, block, device=device) + queries[:, :1]
    readable = (keys >= 0) & (keys <= queries) & (keys > queries - window)
    entries = torch.arange(length // ratio if ratio else 0, device=device)
    complete = entries < (queries + 1) // max(ratio, 1)
    frequencies = rotary_frequencies(config, compressed=ratio > 0).to(device)
    return DenseView(
        rotation(torch.arange(length, device=device), frequencies),
        rotation(entries * ratio, frequencies),
        block,
        num_before,
        torch.zeros(readable.shape, device=device).masked_fill_(~readable, float("-inf")),
        torch.zeros(complete.shape, device=device).masked_fill_(~complete, float("-inf")),
    )


class Indexer(nn.Module):
    """Chooses which entries a CSA query reads. The language loss does not reach it, see `index_loss`."""

    def __init__(self, config: NetworkConfig, ratio: int) -> None:
        super().__init__()
        self.heads, self.width = config.index_n_heads, config.index_head_dim
        self.wq_b = nn.Linear(config.q_lora_rank, self.heads * self.width, bias=False)
        self.weights_proj = nn.Linear(config.hidden_size, self.heads, bias=False)
        self.compressor = Compressor(config.hidden_size, self.width, ratio, overlaps=True, eps=config.rms_norm_eps)

    @property
    def scale(self) -> float:
        return float((self.width * self.heads) ** -0.5)

    @override
    def forward(self, x: Tensor, low_queries: Tensor, view: DenseView) -> Tensor:
        """Score entries for whole sequences: x [B, T, d], low_queries [B, T, q_lora] -> [B, T, E], not masked."""
        keys = rotate(self.compressor(x), view.entry_rotation)
        queries = self.wq_b(low_queries).unflatten(-1, (self.heads, self.width))
        queries = rotate(queries, view.rotation.for_heads())
        return index_scores(queries, keys, self.weights_proj(x) * self.scale)


def index_loss(scores: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Distillation of the indexer: KL from the attention the heads really pay to entries to the softmax of scores.

    scores [B, T, E]; weights [B, T, E] attention mass, averaged over heads, a constant; bias [T, E] is -inf where
    an entry is not complete. Averaged over the tokens that have a choice, those with two entries or more.
    """
    can_choose = (bias == 0).sum(-1) > 1
    if not can_choose.any():
        return scores.sum() * 0.0
    scores, weights, bias = scores[:, can_choose], weights[:, can_choose], bias[can_choose]
    target = weights / weights.sum(-1, keepdim=True).clamp_min(1e-20)
    guess = (scores + bias).log_softmax(-1).masked_fill(bias != 0, 0.0)
    return (torch.xlogy(target, target) - target * guess).sum(-1).mean()


class Attention(nn.Module):
    """One layer's attention weights, and the attention of whole sequences."""

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.kind = config.kind(layer)
        d, heads, width, eps = config.hidden_size, config.num_attention_heads, config.head_dim, config.rms_norm_eps
        self.wq_a = nn.Linear(d, config.q_lora_rank, bias=False)
        self.q_norm = RMSNorm(config.q_lora_rank, eps)
        self.wq_b = nn.Linear(config.q_lora_rank, heads * width, bias=False)
        self.wkv = nn.Linear(d, width, bias=False)
        self.kv_norm = RMSNorm(width, eps)
        self.wo_a = nn.Linear(heads * width // config.o_groups, config.o_groups * config.o_lora_rank, bias=False)
        self.wo_b = nn.Linear(config.o_groups * config.o_lora_rank, d, bias=False)
        self.attn_sink = nn.Parameter(torch.zeros(heads))
        self.compressor: Compressor | None = None
        self.indexer: Indexer | None = None
        if self.kind != "window":
            ratio = config.compress_ratios[layer]
            self.compressor = Compressor(d, width, ratio, overlaps=self.kind == "csa", eps=eps)
            if self.kind == "csa":
                self.indexer = Indexer(config, ratio)

    @override
    def forward(self, x: Tensor, view: DenseView, *, with_index_loss: bool) -> tuple[Tensor, Tensor | None]:
        """x [B, T, d], the normalised layer input -> output [B, T, d] and the indexer's loss, if asked for."""
        config = self.config
        batch, length, _ = x.shape
        low_queries = self.q_norm(self.wq_a(x))
        queries = self.wq_b(low_queries).unflatten(-1, (config.num_attention_heads, config.head_dim))
        queries = rotate(rms_norm(queries, None, config.rms_norm_eps), view.rotation.for_heads())
        keys = rotate(self.kv_norm(self.wkv(x)), view.rotation)

        # Queries go in blocks, so that no score outside the window and its rounding is ever computed.
        num_blocks, block = view.window_bias.shape[0], view.block
        missing = num_blocks * block - length
        blocked = F.pad(queries * config.head_dim**-0.5, (0, 0, 0, 0, 0, missing))
        blocked = blocked.unflatten(1, (num_blocks, block)).transpose(2, 3)
        line = F.pad(keys, (0, 0, view.num_before * block, missing)).unflatten(1, (-1, block))
        window = [line[:, first : first + num_blocks] for first in range(view.num_before + 1)]

        entries = x.new_zeros(batch, 0, config.head_dim)
        if self.compressor is not None:
            entries = rotate(self.compressor(x), view.entry_rotation)
        num_entries = entries.shape[1]
        entry_bias, scores = view.entry_bias.expand(batch, -1, -1, -1), None
        must_choose = num_entries > config.index_topk
        if self.indexer is not None and (must_choose or with_index_loss):
            # Detached: the distillation loss trains the indexer and nothing else.
            scores = self.indexer(x.detach(), low_queries.detach(), view)
            if must_choose:
                flat_bias = view.entry_bias.flatten(0, 1)
                chosen = select_entries(scores.detach() + flat_bias[:length], config.index_topk)
                chosen = F.pad(chosen, (0, 0, 0, missing)).unflatten(1, (num_blocks, block))
                entry_bias = entry_bias.masked_fill(~chosen, float("-inf"))

        # The sink's slot comes last; before it, unreadable ones round the width up for the matrix products.
        num_window = view.window_bias.shape[-1]
        spare = -(num_window + num_entries + 1) % 16
        shared = F.pad(entries, (0, 0, 0, spare + 1))
        slots = torch.cat((*window, shared.unsqueeze(1).expand(-1, num_blocks, -1, -1)), 2)
        window_bias = view.window_bias.expand(batch, -1, -1, -1)
        bias = F.pad(torch.cat((window_bias, entry_bias), -1), (0, spare + 1), value=float("-inf"))
        outputs, weights = sink_attention(blocked, slots, bias, self.attn_sink)

        loss = None
        if scores is not None and with_index_loss:
            mass = weights[..., num_window : num_window + num_entries].mean(2).flatten(1, 2)[:, :length]
            loss = index_loss(scores, mass, view.entry_bias.flatten(0, 1)[:length])
        outputs = outputs.transpose(2, 3).flatten(1, 2)[:, :length]
        # Keys are values too, so values arrive rotated; turning the output back leaves relative positions only.
        outputs = rotate(outputs, view.rotation.inverse().for_heads())
        wo_a = grouped_matrix(self.wo_a.weight, config.o_groups)
        return group_output(outputs.flatten(0, 1), wo_a, self.wo_b.weight.T).view(batch, length, -1), loss
