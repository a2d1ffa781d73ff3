"""The reference engine: any mixture of prefill chunks and single tokens of many sequences in one pass, from state.

The mathematics is that of `network.py`; what differs is where keys come from. Every row is computed the same way
whatever stands beside it, see `plan.py`.

Dimension legend: P tokens of the step with padding, N without; G sequences of a group, n tokens of each; H heads,
D head width, d hidden width, S streams, V vocabulary, X experts, K experts per token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from deepserve.core.errors import CheckpointError, EngineFailure
from deepserve.engine.interface import (
    CHUNK_TOKENS,
    Draw,
    Drawn,
    Engine,
    EngineInfo,
    Row,
    RowFault,
    SequenceId,
    Snapshot,
)
from deepserve.engine.network_config import CSA_RATIO, NetworkConfig, encode_config

from .attention import Attention, group_output, grouped_matrix
from .checkpoint import load_network
from .compressor import Compressor, pool
from .experts import MixtureOfExperts, Route, clamped_swiglu, route
from .hyper_connection import HyperWeights, collapse, expand, hyper_head, hyper_mix, lines
from .network import Layer, Network
from .norm import rms_norm
from .plan import ROW_MULTIPLE, Completion, Group, Planner, Segment, StepPlan
from .rotary import rotary_frequencies, rotate_
from .sampling import draw_token
from .state import BLOCK_TOKENS, SequenceState, StatePool
from .state_blob import dump_state, load_state

_INDEX_TILE = 2048
"""Index keys scored at a time; keeps the products of all index heads in the cache."""


class _CompressorWeights(NamedTuple):
    project: Tensor
    """[d, content and gate]"""
    bias: Tensor
    """[ratio, content and gate]: the position bias of the gates, zero for the content."""
    norm: Tensor


class HashTable(NamedTuple):
    """Experts chosen by token id."""

    experts: Tensor
    """[V, K]"""


class Bias(NamedTuple):
    """Experts chosen by score and bias."""

    bias: Tensor
    """[X]"""


class _LayerWeights(NamedTuple):
    """A layer's weights, matrices of the same input side by side in one.

    Matrices are stored [inputs, outputs], the other way round than in a checkpoint: torch multiplies few rows with
    them half as fast again.
    """

    ratio: int
    attn_hyper: HyperWeights
    attn_norm: Tensor
    of_input: Tensor
    """wq_a, wkv, then each compressor's projection, then weights_proj."""
    of_input_widths: list[int]
    q_norm: Tensor
    wq_b: Tensor
    """The indexer's wq_b beside it, if there is one."""
    kv_norm: Tensor
    sink: Tensor
    wo_a: Tensor
    """[groups, heads of a group * D, rank]"""
    wo_b: Tensor
    compressors: list[_CompressorWeights]
    ffn_hyper: HyperWeights
    ffn_norm: Tensor
    of_ffn_input: Tensor
    """The shared expert's w1 and w3, then gate.weight with zero columns up to a multiple of 8.

    Vectorised functions end in a scalar rest that differs in the last bit; 4 rows of 8 columns leave no rest.
    """
    choice: HashTable | Bias
    shared_w2: Tensor
    w13: list[Tensor]
    w2: list[Tensor]


class ReferenceSnapshot(msgspec.Struct, frozen=True, eq=False):
    """A copy of a sequence's private state, and shares in its blocks."""

    state: SequenceState
    position: int
    size_bytes: int


class ReferenceEngine(Engine):
    """Runs a `Network` on one device.

    memory_bytes bounds what sequences and snapshots hold together, weights not included. Equal bits in any batch are
    promised for one thread; more of them split vectors at places that depend on the batch.
    """

    def __init__(
        self, network: Network, *, memory_bytes: int, device: torch.device | str = "cpu", num_threads: int = 1
    ) -> None:
        torch.set_num_threads(num_threads)
        self._config = config = network.config
        self._device = torch.device(device)
        network = network.to(self._device)
        self._pool = StatePool(config, memory_bytes=memory_bytes, device=self._device)
        frequencies = [rotary_frequencies(config, compressed=kind).to(self._device) for kind in (False, True)]
        self._planner = Planner(config, ring=self._pool.ring, frequencies=(frequencies[0], frequencies[1]))
        self._lines = lines(config.hc_mult, self._device)
        with torch.no_grad():
            self._layers = [_gather_weights(layer) for layer in network.layers if isinstance(layer, Layer)]
            self._embed = network.embed.weight.detach()
            self._norm, self._head = network.norm.weight.detach(), network.head.weight.detach()
            self._hc_head = _detached(HyperWeights(network.hc_head_fn, network.hc_head_base, network.hc_head_scale))
        self._info = _describe(network, self._pool, self._device)
        self._sequences: dict[SequenceId, SequenceState] = {}
        self._snapshots: set[int] = set()
        self._num_created = 0

    @property
    @override
    def info(self) -> EngineInfo:
        return self._info

    @override
    def create(self) -> SequenceId:
        return self._register(self._pool.create())

    @override
    def fork(self, sequence: SequenceId) -> SequenceId:
        return self._register(self._pool.copy(self._state(sequence)))

    @override
    def free(self, sequence: SequenceId) -> None:
        self._pool.free(self._state(sequence))
        del self._sequences[sequence]

    @override
    def length(self, sequence: SequenceId) -> int:
        return self._state(sequence).length

    @override
    def snapshot(self, sequence: SequenceId) -> ReferenceSnapshot:
        return self._hold(self._pool.copy(self._state(sequence)))

    @override
    def restore(self, snapshot: Snapshot) -> SequenceId:
        return self._register(self._pool.copy(self._snapshot_state(snapshot)))

    @override
    def release(self, snapshot: Snapshot) -> None:
        state = self._snapshot_state(snapshot)
        self._snapshots.remove(id(state))
        self._pool.free(state)

    @override
    def dump(self, snapshot: Snapshot) -> bytes:
        return dump_state(self._pool, self._config, self._snapshot_state(snapshot))

    @override
    def load(self, blob: bytes) -> ReferenceSnapshot:
        return self._hold(load_state(self._pool, self._config, blob))

    @override
    def free_blocks_ratio(self) -> float:
        return self._pool.free_ratio()

    @override
    def step(self, rows: Sequence[Row]) -> list[Drawn | RowFault | None]:
        last = [range(len(row.tokens) - 1, len(row.tokens)) if row.draw else range(0) for row in rows]
        logits = self._advance(rows, last)
        return [
            None if row.draw is None else draw_token(wanted[0].numpy(), row.draw)
            for row, wanted in zip(rows, logits, strict=True)
        ]

    def logits(self, rows: Sequence[Row]) -> list[Tensor]:
        """Append the rows like `step`, and return the logits of every token of each row, [n, V]; draws are ignored."""
        return self._advance(rows, [range(len(row.tokens)) for row in rows])

    def _register(self, state: SequenceState) -> SequenceId:
        self._num_created += 1
        sequence = SequenceId(self._num_created)
        self._sequences[sequence] = state
        return sequence

    def _hold(self, state: SequenceState) -> ReferenceSnapshot:
        self._snapshots.add(id(state))
        return ReferenceSnapshot(state, state.length, self._pool.size_bytes(state))

    def _state(self, sequence: SequenceId) -> SequenceState:
        if sequence not in self._sequences:
            raise ValueError(f"no sequence {sequence}")
        return self._sequences[sequence]

    def _snapshot_state(self, snapshot: Snapshot) -> SequenceState:
        if not isinstance(snapshot, ReferenceSnapshot) or id(snapshot.state) not in self._snapshots:
            raise ValueError("not a snapshot that this engine holds")
        return snapshot.state

    def _segments(self, rows: Sequence[Row]) -> list[Segment]:
        """Check the caller's side of the contract."""
        segments = [Segment(order, self._state(row.sequence), row.tokens) for order, row in enumerate(rows)]
        if len({row.sequence for row in rows}) < len(rows):
            raise ValueError("a sequence appears twice in one step")
        for row, segment in zip(rows, segments, strict=True):
            if not segment.tokens or segment.start // CHUNK_TOKENS != (segment.end - 1) // CHUNK_TOKENS:
                raise ValueError(f"tokens {segment.start} to {segment.end} cross a multiple of {CHUNK_TOKENS}")
            if segment.end > self._config.max_position_embeddings:
                raise ValueError(f"{segment.end} tokens exceed the context of {self._config.max_position_embeddings}")
            if min(segment.tokens) < 0 or max(segment.tokens) >= self._config.vocab_size:
                raise ValueError(f"token ids must be within 0..{self._config.vocab_size - 1}")
            if row.draw is not None:
                self._check_draw(row.draw)
        return segments

    def _check_draw(self, draw: Draw) -> None:
        named = list(draw.logit_bias)
        if (draw.repetition_penalty, draw.frequency_penalty, draw.presence_penalty) != (1.0, 0.0, 0.0):
            named += draw.output_counts
        if draw.repetition_penalty != 1.0:
            named += draw.prompt_tokens
        if named and not 0 <= min(named) <= max(named) < self._config.vocab_size:
            raise ValueError(f"a draw names token ids outside 0..{self._config.vocab_size - 1}")
        if isinstance(draw.allowed, bytes) and 8 * len(draw.allowed) < self._config.vocab_size:
            raise ValueError(f"a draw's mask covers {8 * len(draw.allowed)} tokens")

    def _advance(self, rows: Sequence[Row], wanted: Sequence[range]) -> list[Tensor]:
        """Append the rows; -> logits after the wanted tokens of each row, [number, V] on the CPU.

        Until everything is computed nothing is written that the sequences' present tokens are read from: windows and
        entries only gain places beyond their length, and tails are held back.
        """
        if not rows:
            return []
        segments = self._segments(rows)
        self._pool.reserve([segment.state for segment in segments])
        try:
            with torch.inference_mode():
                plan = self._planner.plan(segments)
                streams = F.embedding(plan.tokens, self._embed)
                streams = streams.unsqueeze(1).repeat(1, self._config.hc_mult, 1)
                tails: list[tuple[Tensor, int, Tensor]] = []
                for layer in range(len(self._layers)):
                    streams = self._layer(layer, streams, plan, tails)
                places = [first + at for first, span in zip(plan.first_rows, wanted, strict=True) for at in span]
                logits = self._logits(streams, places)
                for stored, ratio, values in tails:
                    tail = plan.tails[ratio]
                    stored[tail.slots, tail.places] = values
        except RuntimeError as error:
            raise EngineFailure(f"the reference engine failed: {error}") from error
        for segment in segments:
            segment.state.length = segment.end
        return list(logits.split_with_sizes([len(span) for span in wanted]))

    def _logits(self, streams: Tensor, places: list[int]) -> Tensor:
        """Logits after these tokens of the step, [len(places), V] on the CPU"""
        if not places:
            return torch.empty(0, self._config.vocab_size)
        # Eight rows, so that the sigmoid over 4 streams leaves no scalar rest (see `Planner`).
        x = hyper_head(streams[places + [0] * (-len(places) % 8)], *self._hc_head, self._config)
        x = rms_norm(x, self._norm, self._config.rms_norm_eps)
        # Always four rows a time: the fastest product for so few, but its bits depend on their number.
        logits = torch.cat([(self._head @ four.T).T for four in x.split(4)[: -(-len(places) // 4)]])
        return logits[: len(places)].cpu()

    def _layer(self, layer: int, streams: Tensor, plan: StepPlan, tails: list[tuple[Tensor, int, Tensor]]) -> Tensor:
        config, weights = self._config, self._layers[layer]
        mix = hyper_mix(streams, weights.attn_hyper, self._lines, config)
        x = rms_norm(collapse(streams, mix.read), weights.attn_norm, config.rms_norm_eps)
        streams = expand(streams, self._attention(layer, x, plan, tails), mix)
        mix = hyper_mix(streams, weights.ffn_hyper, self._lines, config)
        x = rms_norm(collapse(streams, mix.read), weights.ffn_norm, config.rms_norm_eps)
        return expand(streams, self._experts(weights, x, plan), mix)

    def _attention(self, layer: int, x: Tensor, plan: StepPlan, tails: list[tuple[Tensor, int, Tensor]]) -> Tensor:
        """x [P, d] -> [P, d]; windows and finished entries are written, raw compressor inputs go to `tails`."""
        config, weights, num_rows = self._config, self._layers[layer], plan.num_rows
        eps, heads = config.rms_norm_eps, config.num_attention_heads
        angles = plan.history_turns if weights.ratio else plan.window_turns
        of_heads = angles.unsqueeze(1)
        low, kv, *raw = torch.split_with_sizes(x @ weights.of_input, weights.of_input_widths, -1)
        queries = rms_norm(low, weights.q_norm, eps) @ weights.wq_b
        index_queries = queries[:, heads * config.head_dim :]
        queries = queries[:, : heads * config.head_dim].view(-1, heads, config.head_dim)
        queries = rotate_(rms_norm(queries, None, eps), of_heads).mul_(config.head_dim**-0.5)
        kv = rotate_(rms_norm(kv, weights.kv_norm, eps), angles)
        self._pool.windows[layer][plan.slots, plan.ring_places] = kv[:num_rows]

        for number, compressor in enumerate(weights.compressors):
            content_and_gate = raw[number] + compressor.bias[plan.positions % weights.ratio]
            stored = self._pool.tails[layer][number]
            if weights.ratio in plan.completions:
                completion = plan.completions[weights.ratio]
                entries = self._complete(content_and_gate, stored, compressor.norm, completion, weights.ratio)
                self._pool.entries[layer][number][completion.blocks, completion.rows] = entries
            tails.append((stored, weights.ratio, content_and_gate[plan.tails[weights.ratio].rows]))

        outputs = torch.zeros_like(queries)
        if weights.ratio == CSA_RATIO:
            index_queries = index_queries.view(len(x), config.index_n_heads, -1)
            rotate_(index_queries, of_heads)
            index_weights = raw[-1] * (config.index_n_heads * config.index_head_dim) ** -0.5
        for group in plan.groups:
            window = self._read(self._pool.windows[layer], group.slots)
            if weights.ratio == 0:
                outputs[group.rows] = attend_window(queries[group.rows], window, group, weights.sink)
            elif weights.ratio == CSA_RATIO and group.selects:
                scores = self._index_scores(layer, index_queries[group.rows], index_weights[group.rows], group)
                outputs[group.rows] = attend_selected(
                    queries[group.rows], window, self._pool.entries[layer][0], scores, group, weights.sink, config
                )
            else:
                entries = self._read(self._pool.entries[layer][0], group.blocks).flatten(1, 2)
                bias = group.entry_bias[weights.ratio]
                outputs[group.rows] = attend_history(queries[group.rows], window, entries, bias, group, weights.sink)
        # Keys are values too: turning the output back leaves relative positions only.
        return group_output(rotate_(outputs, of_heads.conj()), weights.wo_a, weights.wo_b)

    def _read(self, pool: Tensor, places: Tensor) -> Tensor:
        """Rows of a pool; a single place is a view, not a copy."""
        return pool[int(places[0])].unsqueeze(0) if places.shape == (1,) else pool[places]

    def _complete(self, new: Tensor, tail: Tensor, norm: Tensor, completion: Completion, ratio: int) -> Tensor:
        """Pool source tokens, some of this step and some of the tail, into finished entries [E, width]."""
        known = tail[completion.slots.unsqueeze(1), completion.tail_rows]
        content, gate = torch.where(completion.is_new, new[completion.step_rows], known).chunk(2, -1)
        if ratio == CSA_RATIO:
            # The block before gives its first halves, the own block its second.
            width = content.shape[-1] // 2
            content = torch.cat((content[:, :ratio, :width], content[:, ratio:, width:]), 1)
            gate = torch.cat((gate[:, :ratio, :width], gate[:, ratio:, width:]), 1)
        return rotate_(rms_norm(pool(content, gate), norm, self._config.rms_norm_eps), completion.turns)

    def _index_scores(self, layer: int, queries: Tensor, head_weights: Tensor, group: Group) -> Tensor:
        """Rate every entry of the group's history: queries [G * n, h, D] -> [G * n, entries], -inf if not complete."""
        keys = self._read(self._pool.entries[layer][1], group.blocks).flatten(1, 2)
        heads = queries.shape[1]
        queries = queries.reshape(group.num_sequences, -1, queries.shape[-1])
        scores = []
        for tile in keys.split(_INDEX_TILE, 1):
            products = wide_product(queries, tile.transpose(1, 2)).relu_().view(-1, heads, tile.shape[1])
            scores.append(torch.bmm(head_weights.unsqueeze(1), products).squeeze(1))
        rated = torch.cat(scores, 1) if len(scores) > 1 else scores[0]
        return rated.add_(group.entry_bias[CSA_RATIO].view_as(rated))

    def _experts(self, weights: _LayerWeights, x: Tensor, plan: StepPlan) -> Tensor:
        """x [P, d] -> [P, d]"""
        config = self._config
        gate_and_up, logits = (x @ weights.of_ffn_input).tensor_split((2 * config.moe_intermediate_size,), -1)
        scores = F.softplus(logits.contiguous()).sqrt()[:, : config.n_routed_experts]
        if isinstance(weights.choice, HashTable):
            chosen = weights.choice.experts[plan.tokens]
        else:
            chosen = (scores + weights.choice.bias).topk(config.num_experts_per_tok, dim=-1).indices
        routed = route(scores, chosen, config.routed_scaling_factor)
        shared = clamped_swiglu(gate_and_up, config.swiglu_limit) @ weights.shared_w2
        shared[: plan.num_rows] += visit_experts(x, routed, plan.num_rows, weights.w13, weights.w2, config)
        return shared


def load_reference_engine(folder: Path, *, memory_bytes: int, num_threads: int, device: str = "cpu") -> ReferenceEngine:
    """Load a checkpoint folder. Raises CheckpointError naming what is wrong with it."""
    network = load_network(folder)
    try:
        return ReferenceEngine(network, memory_bytes=memory_bytes, device=device, num_threads=num_threads)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Batched product whose rows do not depend on how many there are: below 4 torch takes another path."""
    rows = a.shape[1]
    if rows >= 4:
        return torch.bmm(a, b)
    return torch.bmm(F.pad(a, (0, 0, 0, 4 - rows)), b)[:, :rows]


def attend_window(queries: Tensor, window: Tensor, group: Group, sink: Tensor) -> Tensor:
    """Attend within the window only: queries [G * n, H, D], window [G, ring, D] -> [G * n, H, D]"""
    scores = _shared_scores(queries, window, group.window_bias)
    weights = _with_sink([scores], sink)
    return _shared_values(weights[0], window).view_as(queries)


def attend_history(
    queries: Tensor, window: Tensor, entries: Tensor, bias: Tensor, group: Group, sink: Tensor
) -> Tensor:
    """Attend to the window and every complete entry: entries [G, E, D], bias [G, n, 1, E] -> [G * n, H, D]"""
    recent = _shared_scores(queries, window, group.window_bias)
    history = _shared_scores(queries, entries, bias)
    weights = _with_sink([recent, history], sink)
    return (_shared_values(weights[0], window) + _shared_values(weights[1], entries)).view_as(queries)


def attend_selected(
    queries: Tensor, window: Tensor, pool: Tensor, scores: Tensor, group: Group, sink: Tensor, config: NetworkConfig
) -> Tensor:
    """Attend to the window and each query's best entries, which are gathered: scores [G * n, E] -> [G * n, H, D]"""
    best = best_entries(scores, config.index_topk)
    bias = scores.gather(1, best).masked_fill_(scores.gather(1, best) > -torch.inf, 0.0)
    per_block = pool.shape[1]
    tables = group.blocks.repeat_interleave(len(queries) // group.num_sequences, 0)
    places = tables.gather(1, best // per_block) * per_block + best % per_block
    entries = pool.flatten(0, 1)[places]
    recent = _shared_scores(queries, window, group.window_bias)
    history = wide_product(queries, entries.transpose(1, 2)) + bias.unsqueeze(1)
    weights = _with_sink([recent, history.view(*recent.shape[:3], -1)], sink)
    selected = wide_product(weights[1].reshape(len(queries), -1, config.index_topk), entries)
    return _shared_values(weights[0], window).view_as(queries) + selected


def best_entries(scores: Tensor, number: int) -> Tensor:
    """The best entries of each row in ascending order; among equal scores the lower entry wins. [N, E] -> [N, number]

    A threshold finds them where no tie straddles it; other rows (and rows that are not finite) are sorted.
    """
    threshold = scores.topk(number, dim=-1).values[:, -1:]
    above = scores >= threshold
    unclear = (above.count_nonzero(-1) != number).nonzero().flatten()
    if len(unclear):
        order = scores[unclear].sort(dim=-1, descending=True, stable=True).indices[:, :number]
        above[unclear] = torch.zeros_like(above[unclear]).scatter_(1, order, True)
    return above.nonzero()[:, 1].view(len(scores), number)


def _shared_scores(queries: Tensor, slots: Tensor, bias: Tensor) -> Tensor:
    """Scores of slots that all tokens of a sequence share: [G * n, H, D], [G, slots, D] -> [G, n, H, slots]"""
    groups, tokens = bias.shape[:2]
    scores = wide_product(queries.reshape(groups, -1, queries.shape[-1]), slots.transpose(1, 2))
    return scores.view(groups, tokens, -1, slots.shape[1]) + bias


def _shared_values(weights: Tensor, slots: Tensor) -> Tensor:
    """[G, n, H, slots], [G, slots, D] -> [G, n * H, D]"""
    return wide_product(weights.flatten(1, 2), slots)


def _with_sink(scores: list[Tensor], sink: Tensor) -> list[Tensor]:
    """One softmax over all scores [G, n, H, *] and the sink [H], whose share is dropped."""
    sinks = sink.view(1, 1, -1, 1).expand(*scores[0].shape[:2], -1, 1)
    weights = torch.cat((*scores, sinks), -1).softmax(-1)
    return list(weights.split([*(part.shape[-1] for part in scores), 1], -1))


def visit_experts(
    x: Tensor, routed: Route, num_rows: int, w13: list[Tensor], w2: list[Tensor], config: NetworkConfig
) -> Tensor:
    """Sum of each token's experts, added in ascending order; every expert's rows are padded. -> [num_rows, d]"""
    per_token = config.num_experts_per_tok
    visits: list[list[int]] = [[] for _ in w13]
    for visit, expert in enumerate(routed.experts[:num_rows].flatten().tolist()):
        visits[expert].append(visit)
    visited = [expert for expert, visitors in enumerate(visits) if visitors]
    gathered: list[int] = []
    places = [0] * (num_rows * per_token)
    counts: list[int] = []
    for expert in visited:
        for place, visit in enumerate(visits[expert], len(gathered)):
            places[visit] = place
        counts.append(len(visits[expert]) + -len(visits[expert]) % ROW_MULTIPLE)
        gathered += visits[expert] + visits[expert][:1] * (counts[-1] - len(visits[expert]))
    order = torch.tensor(gathered, device=x.device)
    inputs = x[order // per_token].split_with_sizes(counts)
    hidden = torch.cat([part @ w13[expert] for part, expert in zip(inputs, visited, strict=True)])
    hidden = clamped_swiglu(hidden, config.swiglu_limit).mul_(routed.weights.flatten()[order].unsqueeze(1))
    parts = hidden.split_with_sizes(counts)
    outputs = torch.cat([part @ w2[expert] for part, expert in zip(parts, visited, strict=True)])
    of_tokens = outputs[torch.tensor(places, device=x.device)].view(num_rows, per_token, -1)
    total = of_tokens[:, 0]
    for nth in range(1, per_token):
        total = total + of_tokens[:, nth]
    return total


def _gather_weights(layer: Layer) -> _LayerWeights:
    attn, ffn = layer.attn, layer.ffn
    assert isinstance(attn, Attention)
    assert isinstance(ffn, MixtureOfExperts)
    gathered = [_gather_compressor(attn.compressor)] if attn.compressor is not None else []
    if attn.indexer is not None:
        gathered.append(_gather_compressor(attn.indexer.compressor))
    of_input = [attn.wq_a.weight, attn.wkv.weight, *(compressor.project.T for compressor in gathered)]
    of_queries = [attn.wq_b.weight]
    if attn.indexer is not None:
        of_input.append(attn.indexer.weights_proj.weight)
        of_queries.append(attn.indexer.wq_b.weight)
    gate = F.pad(ffn.gate.weight, (0, 0, 0, -len(ffn.gate.weight) % 8))
    return _LayerWeights(
        ratio=layer.ratio,
        attn_hyper=_detached(layer.attn_hyper()),
        attn_norm=layer.attn_norm.weight.detach(),
        of_input=torch.cat(of_input).T.contiguous(),
        of_input_widths=[len(matrix) for matrix in of_input],
        q_norm=attn.q_norm.weight.detach(),
        wq_b=torch.cat(of_queries).T.contiguous(),
        kv_norm=attn.kv_norm.weight.detach(),
        sink=attn.attn_sink.detach(),
        wo_a=grouped_matrix(attn.wo_a.weight, attn.config.o_groups).contiguous(),
        wo_b=attn.wo_b.weight.T.contiguous(),
        compressors=gathered,
        ffn_hyper=_detached(layer.ffn_hyper()),
        ffn_norm=layer.ffn_norm.weight.detach(),
        of_ffn_input=torch.cat((ffn.shared_experts.w1.weight, ffn.shared_experts.w3.weight, gate)).T.contiguous(),
        choice=HashTable(ffn.gate.tid2eid) if ffn.gate.is_hash_routed else Bias(ffn.gate.bias),
        shared_w2=ffn.shared_experts.w2.weight.T.contiguous(),
        w13=[matrix.T.contiguous() for matrix in ffn.experts.w13.detach()],
        w2=[matrix.T.contiguous() for matrix in ffn.experts.w2.detach()],
    )


def _gather_compressor(compressor: Compressor) -> _CompressorWeights:
    return _CompressorWeights(
        torch.cat((compressor.wkv.weight, compressor.wgate.weight)).T,
        torch.cat((torch.zeros_like(compressor.ape), compressor.ape), 1),
        compressor.norm.weight.detach(),
    )


def _detached(weights: HyperWeights) -> HyperWeights:
    fn = weights.fn.detach().T.contiguous().T
    return HyperWeights(fn, weights.base.detach(), weights.scale.detach())


def _describe(network: Network, pool: StatePool, device: torch.device) -> EngineInfo:
    config = network.config
    total = active = 0
    digest = hashlib.sha256(msgspec.json.encode(encode_config(config), order="sorted"))
    for name, tensor in network.named_tensors().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        if not tensor.is_floating_point():
            continue
        total += tensor.numel()
        if name == "embed.weight":
            active += config.hidden_size
        elif ".experts." in name:
            active += tensor.numel() * config.num_experts_per_tok // config.n_routed_experts
        else:
            active += tensor.numel()
    return EngineInfo(
        name="reference",
        device=str(device),
        formats="fp32",
        vocab_size=config.vocab_size,
        max_context=config.max_position_embeddings,
        total_parameters=total,
        active_parameters=active,
        state_bytes_per_token=pool.block_bytes / BLOCK_TOKENS,
        state_bytes_fixed=pool.slot_bytes,
        capacity_tokens=(pool.num_blocks - 1) * BLOCK_TOKENS,
        capacity_states=pool.num_slots - 1,
        fingerprint=digest.hexdigest()[:32],
    )
