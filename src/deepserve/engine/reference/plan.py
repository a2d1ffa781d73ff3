"""One step's rows of any sequences, laid out for the layers: all of it is indices, worked out once for every layer.

Two promises are kept here. A token's arithmetic depends on its own absolute position only: rows never cross a border
of 128 tokens, and what a query may read is padded to a width that its own 128-token block decides. And no product has
few rows: torch's differ in the last bit below 4 rows, so steps are padded to a multiple of 4. Vectorised functions
(sigmoid, softplus, sine) end in a scalar rest that differs too; what they are given has a multiple of 32 numbers.

Dimension legend: N tokens of the step, P with padding; G sequences in a group, n tokens of each; E new entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from deepserve.engine.network_config import CSA_RATIO, NetworkConfig

from .rotary import turns
from .state import BLOCK_TOKENS, SequenceState

ROW_MULTIPLE = 4


class Segment(NamedTuple):
    """Consecutive tokens of one sequence; `order` is its place among the step's rows as asked for."""

    order: int
    state: SequenceState
    tokens: Sequence[int]

    @property
    def start(self) -> int:
        return self.state.length

    @property
    def end(self) -> int:
        return self.state.length + len(self.tokens)

    @property
    def block(self) -> int:
        return self.state.length // BLOCK_TOKENS


class Group(NamedTuple):
    """Sequences that append equally many tokens and read equally wide history: one batched product each."""

    rows: slice
    """Their tokens in the step, sequence by sequence."""
    num_sequences: int
    slots: Tensor
    """[G]"""
    window_bias: Tensor
    """[G, n, 1, ring]: 0 where the ring holds a position in the query's window, else -inf."""
    blocks: Tensor
    """[G, blocks]: the history, padded with block 0."""
    entry_bias: Mapping[int, Tensor]
    """Per ratio [G, n, 1, entries of the blocks]: -inf until the query's position completes the entry."""
    selects: bool
    """CSA queries may see more entries than the indexer lets through."""


class Completion(NamedTuple):
    """Entries that a step completes in layers of one ratio, and where their source tokens are."""

    slots: Tensor
    """[E]"""
    is_new: Tensor
    """[E, slots of an entry, 1]: the source token is in this step, else in its sequence's tail."""
    step_rows: Tensor
    """[E, slots of an entry]"""
    tail_rows: Tensor
    """[E, slots of an entry]"""
    blocks: Tensor
    """[E]: where the entry goes, with `rows`."""
    rows: Tensor
    turns: Tensor
    """[E, R / 2]"""


class Tail(NamedTuple):
    """Which of the step's tokens stay in the tails of a ratio's layers."""

    rows: Tensor
    slots: Tensor
    places: Tensor


class StepPlan(NamedTuple):
    num_rows: int
    """N: real tokens; what follows them up to P is padding."""
    tokens: Tensor
    """[P]"""
    positions: Tensor
    """[P]"""
    slots: Tensor
    """[N]"""
    ring_places: Tensor
    """[N]"""
    window_turns: Tensor
    """[P, R / 2], for layers without a compressor."""
    history_turns: Tensor
    """[P, R / 2], for layers with one."""
    groups: list[Group]
    completions: Mapping[int, Completion]
    """Per ratio; absent where the step completes nothing."""
    tails: Mapping[int, Tail]
    """Per ratio."""
    first_rows: list[int]
    """First token of each segment, by `order`."""


class Planner:
    """Lays out steps for one network and its state."""

    def __init__(self, config: NetworkConfig, *, ring: int, frequencies: tuple[Tensor, Tensor]) -> None:
        self._config = config
        self._ring = ring
        self._window_frequencies, self._history_frequencies = frequencies
        self._device = frequencies[0].device
        self._ratios = sorted(set(config.compress_ratios) - {0})

    def plan(self, segments: Sequence[Segment]) -> StepPlan:
        """Segments have blocks to write to already."""
        segments = sorted(segments, key=self._group_key)
        firsts: list[int] = []
        num_rows = 0
        for segment in segments:
            firsts.append(num_rows)
            num_rows += len(segment.tokens)
        padding = [0] * (-num_rows % ROW_MULTIPLE)
        lengths = self._tensor([len(segment.tokens) for segment in segments])
        starts = self._tensor([segment.start for segment in segments])
        slots = self._tensor([segment.state.slot for segment in segments]).repeat_interleave(lengths)
        ends = (starts + lengths).repeat_interleave(lengths)
        offsets = (starts - self._tensor(firsts)).repeat_interleave(lengths)
        positions = torch.arange(num_rows, device=self._device) + offsets
        padded = torch.cat((positions, self._tensor(padding)))

        groups, place = [], 0
        for key, members in groupby(segments, self._group_key):
            group = list(members)
            end = place + len(group) * len(group[0].tokens)
            groups.append(self._group(group, slice(place, end), positions[place:end], key))
            place = end
        order = {segment.order: first for segment, first in zip(segments, firsts, strict=True)}
        return StepPlan(
            num_rows=num_rows,
            tokens=self._tensor([token for segment in segments for token in segment.tokens] + padding),
            positions=padded,
            slots=slots,
            ring_places=positions % self._ring,
            window_turns=self._turns(padded, self._window_frequencies),
            history_turns=self._turns(padded, self._history_frequencies),
            groups=groups,
            completions={
                ratio: completion
                for ratio in self._ratios
                if (completion := self._completion(segments, firsts, ratio)) is not None
            },
            tails={ratio: self._tail(positions, ends, slots, ratio) for ratio in self._ratios},
            first_rows=[order[at] for at in sorted(order)],
        )

    def _turns(self, positions: Tensor, frequencies: Tensor) -> Tensor:
        """Vectorised functions end in a scalar rest that differs in the last bit; 32 rows leave no rest."""
        padded = torch.zeros(-(-len(positions) // 32) * 32, dtype=torch.int64, device=self._device)
        padded[: len(positions)] = positions
        return turns(padded, frequencies)[: len(positions)]

    def _tensor(self, values: Sequence[Sequence[int]] | Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)

    def _group_key(self, segment: Segment) -> tuple[int, int, bool]:
        selects = (segment.block + 1) * (BLOCK_TOKENS // CSA_RATIO) > self._config.index_topk
        return len(segment.tokens), padded_blocks(segment.block), selects

    def _group(self, segments: list[Segment], rows: slice, positions: Tensor, key: tuple[int, int, bool]) -> Group:
        _, num_blocks, selects = key
        queries = positions.view(len(segments), -1, 1)
        ages = (queries - torch.arange(self._ring, device=self._device)) % self._ring
        readable = (ages < self._config.sliding_window) & (ages <= queries)
        tables = [segment.state.blocks[: segment.block + 1] for segment in segments]
        entry_bias = {}
        for ratio in self._ratios:
            entries = torch.arange(num_blocks * (BLOCK_TOKENS // ratio), device=self._device)
            entry_bias[ratio] = _bias(entries < (queries + 1) // ratio)
        return Group(
            rows=rows,
            num_sequences=len(segments),
            slots=self._tensor([segment.state.slot for segment in segments]),
            window_bias=_bias(readable),
            blocks=torch.tensor([table + [0] * (num_blocks - len(table)) for table in tables], device=self._device),
            entry_bias=entry_bias,
            selects=selects,
        )

    def _completion(self, segments: Sequence[Segment], firsts: list[int], ratio: int) -> Completion | None:
        found = [
            (segment.state.slot, segment.state.blocks[segment.block], entry, segment.start, first)
            for segment, first in zip(segments, firsts, strict=True)
            for entry in range(segment.start // ratio, segment.end // ratio)
        ]
        if not found:
            return None
        slots, blocks, entries, starts, firsts_of = self._tensor(found).T.contiguous()
        # An overlapping entry also pools the block before its own.
        reach = torch.arange(-ratio if ratio == CSA_RATIO else 0, ratio, device=self._device)
        sources = (entries * ratio).unsqueeze(1) + reach
        is_new = sources >= starts.unsqueeze(1)
        rows = (firsts_of.unsqueeze(1) + sources - starts.unsqueeze(1)).clamp_min(0)
        return Completion(
            slots=slots,
            is_new=is_new.unsqueeze(-1),
            step_rows=rows,
            tail_rows=sources % tail_positions(ratio),
            blocks=blocks,
            rows=entries % (BLOCK_TOKENS // ratio),
            turns=self._turns(entries * ratio, self._history_frequencies),
        )

    def _tail(self, positions: Tensor, ends: Tensor, slots: Tensor, ratio: int) -> Tail:
        length = tail_positions(ratio)
        rows = (ends - positions <= length).nonzero().flatten()
        return Tail(rows, slots[rows], positions[rows] % length)


def tail_positions(ratio: int) -> int:
    """Tokens a compressor's tail keeps: an overlapping entry pools two blocks."""
    return 2 * ratio if ratio == CSA_RATIO else ratio


def padded_blocks(block: int) -> int:
    """Blocks of history that a query in this block reads, padding included: at most a quarter more than needed.

    At least 4: with ratio 128 a block is one entry, and torch's products differ below 4 columns as below 4 rows.
    """
    needed = max(block + 1, 4)
    step = max(1, (1 << (needed.bit_length() - 1)) // 4)
    return -(-needed // step) * step


def _bias(readable: Tensor) -> Tensor:
    """[G, n, slots] -> [G, n, 1, slots]"""
    return torch.zeros(readable.shape, device=readable.device).masked_fill_(~readable, float("-inf")).unsqueeze(2)
