"""The losses of a batch, made for speed on one CPU core: the same numbers as the plain network's, with its weights.

What differs from `deepserve.engine.reference.network`: compiled kernels for all that is not a matrix product, logits
only where something is learned, and rows that hold several documents which do not see each other.

Dimension legend: B rows, T tokens of a row, N = B * T, d hidden width, H heads, D head width, G groups of queries
(rows times blocks), Q queries of a block, E compressed entries, P positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.reference.attention import Attention, Indexer, group_output, grouped_matrix, index_scores
from deepserve.engine.reference.compressor import Compressor, overlap_slots, pool
from deepserve.engine.reference.experts import MixtureOfExperts
from deepserve.engine.reference.hyper_connection import HyperWeights, hyper_head
from deepserve.engine.reference.network import Layer, Network
from deepserve.engine.reference.rotary import rotary_frequencies
from training import kernels
from training.kernels import Turning

_INDEX_CHUNK = 128
"""Tokens whose scores for all entries are held at once."""


class _View(NamedTuple):
    """What layers with one ratio share: angles, blocks of queries, and who may read what."""

    turning: Turning
    entry_turning: Turning
    block: int
    num_before: int
    num_blocks: int
    ranges: Tensor
    """[G, Q, 4] int32: slots of the window and slots of the entries, as half-open ranges."""
    readable_entries: Tensor
    """[B, T, 2] first entry and the one after the last that a token may read."""
    is_first: Tensor
    """[B, E] whether an entry's block begins a document."""

    @property
    def num_window(self) -> int:
        return self.block * (self.num_before + 1)


def _view(config: NetworkConfig, ratio: int, starts: Tensor) -> _View:
    """starts [B, T]: where the document of each token begins; a multiple of 4, or 0."""
    batch, length = starts.shape
    window = config.sliding_window
    block = length if length <= window else window // 2 if window % 2 == 0 else window
    num_before = window // block if length > window else 0
    num_blocks = -(-length // block)
    positions = torch.arange(length)
    missing = num_blocks * block - length

    base = (positions // block - num_before) * block
    low = torch.maximum(starts, (positions - window + 1).clamp_min(0)) - base
    high = (positions + 1 - base).expand(batch, -1)
    num_entries = length // ratio if ratio else 0
    entry_low = -(-starts // max(ratio, 1)) if ratio else torch.zeros_like(starts)
    entry_high = torch.maximum(entry_low, (positions + 1) // ratio) if ratio else entry_low
    entry_low, entry_high = entry_low.clamp_max(num_entries), entry_high.clamp_max(num_entries)
    num_window = block * (num_before + 1)
    ranges = torch.stack((low, high, entry_low + num_window, entry_high + num_window), -1)
    unread = torch.tensor((0, 0, num_window, num_window)).expand(batch, missing, 4)
    ranges = torch.cat((ranges, unread), 1).view(batch * num_blocks, block, 4)
    frequencies = rotary_frequencies(config, compressed=ratio > 0)
    entry_positions = torch.arange(num_entries) * ratio
    return _View(
        kernels.turning(positions, frequencies),
        kernels.turning(entry_positions, frequencies),
        block,
        num_before,
        num_blocks,
        ranges.to(torch.int32).contiguous(),
        torch.stack((entry_low, entry_high), -1),
        starts[:, entry_positions] == entry_positions,
    )


def _entries(compressor: Compressor, x: Tensor, view: _View) -> Tensor:
    """Compressed entries, turned: [B, T, d] -> [B, E, D]; the first of a document knows no block before it."""
    num_entries = x.shape[1] // compressor.ratio
    used = x[:, : num_entries * compressor.ratio]
    both = F.linear(used, torch.cat((compressor.wkv.weight, compressor.wgate.weight)))
    content, gate = both.unflatten(1, (num_entries, compressor.ratio)).chunk(2, -1)
    gate = gate + compressor.ape
    if compressor.overlaps:
        absent = (x.shape[0], compressor.ratio, compressor.width)
        content = overlap_slots(content, content.new_zeros(absent))
        gate = overlap_slots(gate, gate.new_full(absent, float("-inf")))
        is_absent = view.is_first[:, :, None, None] & (torch.arange(2 * compressor.ratio)[:, None] < compressor.ratio)
        gate = gate.masked_fill(is_absent, float("-inf"))
    return kernels.norm_turn(pool(content, gate), compressor.norm.weight, view.entry_turning, compressor.norm.eps)


class _Index(NamedTuple):
    """The indexer over a batch: queries and weights for every token, keys for every entry."""

    queries: Tensor
    """[B, T, h, D]"""
    keys: Tensor
    head_weights: Tensor
    """[B, T, h], scaled"""


def _index(indexer: Indexer, x: Tensor, low_queries: Tensor, view: _View) -> _Index:
    queries = indexer.wq_b(low_queries).unflatten(-1, (indexer.heads, indexer.width))
    return _Index(
        kernels.turn(queries, view.turning, heads=indexer.heads),
        _entries(indexer.compressor, x, view),
        indexer.weights_proj(x) * indexer.scale,
    )


@torch.no_grad()
def _chosen(index: _Index, view: _View, top_k: int) -> Tensor:
    """Which entries the indexer picks for every token: uint8 [B, T, E]; a token with fewer readable ones gets all."""
    length, num_entries = index.queries.shape[1], index.keys.shape[1]
    parts = []
    for first in range(0, length, _INDEX_CHUNK):
        part = slice(first, min(first + _INDEX_CHUNK, length))
        ranges = view.readable_entries[:, part]
        after = max(1, int(ranges[..., 1].max()))
        scores = index_scores(index.queries[:, part], index.keys[:, :after], index.head_weights[:, part])
        parts.append(F.pad(kernels.choose(scores, ranges, top_k), (0, num_entries - after)))
    return torch.cat(parts, 1)


def _is_readable(ranges: Tensor, num_entries: int) -> Tensor:
    """[..., 2] -> bool [..., E]"""
    entries = torch.arange(num_entries)
    return (entries >= ranges[..., :1]) & (entries < ranges[..., 1:])


def _divergence(queries: Tensor, keys: Tensor, head_weights: Tensor, mass: Tensor, ranges: Tensor) -> Tensor:
    """Sum over tokens with a choice of the KL from attention's mass on the entries to the softmax of the scores."""
    scores = index_scores(queries, keys, head_weights)
    is_readable = _is_readable(ranges, keys.shape[1])
    can_choose = (ranges[..., 1] - ranges[..., 0] > 1).unsqueeze(-1)
    target = (mass / mass.sum(-1, keepdim=True).clamp_min(1e-20)).masked_fill(~(can_choose & is_readable), 0.0)
    guess = scores.masked_fill(~is_readable, float("-inf")).log_softmax(-1)
    guess = guess.masked_fill(~(can_choose & is_readable), 0.0)
    return (torch.xlogy(target, target) - target * guess).sum()


def _index_loss(index: _Index, mass: Tensor, view: _View, positions: Tensor) -> Tensor:
    """Mean distillation loss at some positions [B, P] of each row; mass [B, P, E] is what attention paid."""
    ranges = _at(view.readable_entries, positions)
    queries, head_weights = _at(index.queries, positions), _at(index.head_weights, positions)
    total = mass.new_zeros(())
    for first in range(0, positions.shape[1], _INDEX_CHUNK):
        part = slice(first, first + _INDEX_CHUNK)
        total = total + checkpoint(
            _divergence,
            queries[:, part],
            index.keys,
            head_weights[:, part],
            mass[:, part],
            ranges[:, part],
            use_reentrant=False,
        )
    num_choosing = (ranges[..., 1] - ranges[..., 0] > 1).sum()
    loss: Tensor = total / num_choosing.clamp_min(1)
    return loss


def _at(rows: Tensor, positions: Tensor) -> Tensor:
    """rows [B, T, ...], positions [B, P] -> [B, P, ...]"""
    return rows[torch.arange(len(rows)).unsqueeze(1), positions]


def _attention(
    attn: Attention, x: Tensor, view: _View, index_positions: Tensor | None, *, selects: bool
) -> tuple[Tensor, Tensor | None]:
    """x [B, T, d] -> output [N, d], and the indexer's loss at the positions asked for."""
    config = attn.config
    batch, length, _ = x.shape
    heads, width, eps = config.num_attention_heads, config.head_dim, config.rms_norm_eps
    both = F.linear(x, torch.cat((attn.wq_a.weight, attn.wkv.weight)))
    low_queries = kernels.norm(both[..., : config.q_lora_rank], attn.q_norm.weight, eps)
    queries = attn.wq_b(low_queries).unflatten(-1, (heads, width))
    queries = kernels.norm_turn(queries, None, view.turning, eps, heads=heads, factor=width**-0.5)
    keys = kernels.norm_turn(both[..., config.q_lora_rank :], attn.kv_norm.weight, view.turning, eps)

    num_blocks, block = view.num_blocks, view.block
    missing = num_blocks * block - length
    blocked = F.pad(queries, (0, 0, 0, 0, 0, missing)) if missing else queries
    blocked = blocked.unflatten(1, (num_blocks, block)).transpose(2, 3).flatten(0, 1)
    line = F.pad(keys, (0, 0, view.num_before * block, missing)).unflatten(1, (-1, block))
    window = [line[:, first : first + num_blocks] for first in range(view.num_before + 1)]

    entries = x.new_zeros(batch, 0, width)
    if attn.compressor is not None:
        entries = _entries(attn.compressor, x, view)
    num_entries = entries.shape[1]
    index, chosen = None, None
    if attn.indexer is not None and (index_positions is not None or (selects and num_entries > config.index_topk)):
        index = _index(attn.indexer, x.detach(), low_queries.detach(), view)
        if selects and num_entries > config.index_topk:
            chosen = _chosen(index, view, config.index_topk)
            chosen = F.pad(chosen, (0, 0, 0, missing)).view(batch * num_blocks, block, num_entries)

    # The sink's slot comes last; before it, unreadable ones round the width up for the matrix products.
    spare = -(view.num_window + num_entries + 1) % 16
    shared = F.pad(entries, (0, 0, 0, spare + 1))
    slots = torch.cat((*window, shared.unsqueeze(1).expand(-1, num_blocks, -1, -1)), 2).flatten(0, 1)
    outputs, weights = kernels.attend(blocked, slots, view.ranges, chosen, attn.attn_sink, view.num_window)

    loss = None
    if index is not None and index_positions is not None:
        mass = weights.view(batch, num_blocks, heads, block, -1)[..., view.num_window : view.num_window + num_entries]
        rows = torch.arange(batch).unsqueeze(1)
        mass = mass[rows, index_positions // block, :, index_positions % block].float().mean(2)
        loss = _index_loss(index, mass, view, index_positions)
    outputs = outputs.unflatten(0, (batch, num_blocks)).transpose(2, 3).flatten(1, 2)[:, :length]
    outputs = kernels.turn(outputs, view.turning, heads=heads, back=True)
    wo_a = grouped_matrix(attn.wo_a.weight, config.o_groups)
    return group_output(outputs.flatten(0, 1), wo_a, attn.wo_b.weight.T), loss


def _experts(ffn: MixtureOfExperts, x: Tensor, tokens: Tensor) -> Tensor:
    routed = ffn.gate(x, tokens)
    counts = torch.bincount(routed.experts.flatten(), minlength=len(ffn.gate.weight))
    ffn.gate.load += counts
    limit = ffn.experts.limit
    out = kernels.experts(x, routed.weights, ffn.experts.w13, ffn.experts.w2, routed.experts, counts.tolist(), limit)
    shared = ffn.shared_experts
    both = F.linear(x, torch.cat((shared.w1.weight, shared.w3.weight)))
    return torch.addmm(out, kernels.swiglu(both, limit), shared.w2.weight.T)


def _read(streams: Tensor, hyper: HyperWeights, weight: Tensor, config: NetworkConfig) -> tuple[Tensor, Tensor]:
    return kernels.read(
        streams,
        hyper.fn,
        hyper.base,
        hyper.scale,
        weight,
        steps=2 * config.hc_sinkhorn_iters - 1,
        hyper_eps=config.hc_eps,
        eps=config.rms_norm_eps,
    )


def losses(
    network: Network,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    starts: Tensor | None = None,
    index_positions: Tensor | None = None,
    selects: bool = True,
) -> tuple[Tensor, Tensor]:
    """The weighted mean loss of predicting targets from tokens, all [B, T], and the mean of the indexers' losses.

    starts [B, T]: where each token's document begins (a multiple of 4), nothing before which is seen; by default the
    row is one document. index_positions [B, P]: where the indexers are trained, by default nowhere. selects: whether
    the indexers' choice decides what is read, as when serving.
    """
    config = network.config
    if starts is None:
        starts = torch.zeros_like(tokens)
    views = {ratio: _view(config, ratio, starts) for ratio in sorted(set(config.compress_ratios))}
    is_learned = weights.flatten() > 0
    learned = is_learned.nonzero().squeeze(1)
    streams = F.embedding(tokens.flatten(), network.embed.weight).unsqueeze(1).repeat(1, config.hc_mult, 1)
    index_losses = []
    flat_tokens = tokens.flatten()
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        x, mixes = _read(streams, layer.attn_hyper(), layer.attn_norm.weight, config)
        out, index_loss = _attention(
            layer.attn, x.view(*tokens.shape, -1), views[layer.ratio], index_positions, selects=selects
        )
        if index_loss is not None:
            index_losses.append(index_loss)
        streams = kernels.write(streams, out, mixes)
        if number == len(network.layers) - 1:
            # Nothing reads the other tokens' streams any more.
            streams, flat_tokens = streams.index_select(0, learned), flat_tokens[learned]
        x, mixes = _read(streams, layer.ffn_hyper(), layer.ffn_norm.weight, config)
        streams = kernels.write(streams, _experts(layer.ffn, x, flat_tokens), mixes)
    x = hyper_head(streams, network.hc_head_fn, network.hc_head_base, network.hc_head_scale, config)
    x = kernels.norm(x, network.norm.weight, config.rms_norm_eps)
    learned_weights = weights.flatten()[learned]
    total = kernels.head_loss(
        x, network.head.weight, targets.flatten()[learned], learned_weights / learned_weights.sum()
    )
    return total, torch.stack(index_losses).mean() if index_losses else total.new_zeros(())
