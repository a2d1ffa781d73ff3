"""What the engine remembers of sequences: shared blocks of compressed history, and a private slot for the rest.

A block covers 128 tokens: in every CSA layer 32 entries and 32 index keys, in every HCA layer 128 / ratio entries.
Blocks are counted references; whoever writes to a block must own it alone, so complete blocks are shared by forks and
snapshots and never copied. A slot holds what is not append-only: per layer a ring of recent window vectors, and a
ring of the compressors' raw inputs (content and gate) of tokens whose entry is not finished.

Slot 0 and block 0 belong to nobody: padding reads them, and they stay zero.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from deepserve.core.errors import EngineFailure
from deepserve.engine.interface import CHUNK_TOKENS
from deepserve.engine.network_config import NetworkConfig

BLOCK_TOKENS = CHUNK_TOKENS

_SLOT_SHARE = 1 / 3
"""Part of the memory for slots. A slot is worth some ten blocks, and snapshots need both."""


class SequenceState(msgspec.Struct):
    """One sequence or snapshot: its first `length` tokens, and where they are kept."""

    slot: int
    length: int = 0
    blocks: list[int] = []


class StatePool:
    """All state memory of one engine, allocated once; the operating system provides pages as they are touched."""

    def __init__(self, config: NetworkConfig, *, memory_bytes: int, device: torch.device) -> None:
        kinds = [config.kind(layer) for layer in range(config.num_hidden_layers)]
        blocks_back = -(-config.sliding_window // BLOCK_TOKENS)
        self.ring = (1 + blocks_back) * BLOCK_TOKENS
        """Positions of a window ring: a chunk's own block, and every block its window reaches back into."""

        block_shapes: list[tuple[int, int]] = []
        slot_shapes: list[tuple[int, int]] = [(self.ring, config.head_dim)] * len(kinds)
        for layer, kind in enumerate(kinds):
            ratio = config.compress_ratios[layer]
            if ratio and BLOCK_TOKENS % ratio:
                raise ValueError(f"compress ratio {ratio} of layer {layer} does not divide {BLOCK_TOKENS}")
            widths = {"window": (), "csa": (config.head_dim, config.index_head_dim), "hca": (config.head_dim,)}[kind]
            for width in widths:
                block_shapes.append((BLOCK_TOKENS // ratio, width))
                # Overlapping blocks keep two halves of a token's content, and the block before; gates come beside.
                slot_shapes.append((2 * ratio, 4 * width) if kind == "csa" else (ratio, 2 * width))
        item = torch.float32.itemsize
        self.block_bytes = max(sum(rows * width for rows, width in block_shapes) * item, 1)
        self.slot_bytes = sum(rows * width for rows, width in slot_shapes) * item
        self.num_slots = int(memory_bytes * _SLOT_SHARE) // self.slot_bytes
        self.num_blocks = int(memory_bytes * (1 - _SLOT_SHARE)) // self.block_bytes
        if min(self.num_slots, self.num_blocks) < 4:
            needed = 12 * max(self.slot_bytes, self.block_bytes)
            raise ValueError(f"{memory_bytes} bytes of state memory are too few, this model needs {needed}")
        # Beyond this many blocks indices would not fit, and no machine has the memory.
        self.num_blocks = min(self.num_blocks, 1 << 30)

        def allocate(number: int, shapes: list[tuple[int, int]]) -> list[Tensor]:
            tensors = [torch.empty(number, rows, width, device=device) for rows, width in shapes]
            for tensor in tensors:
                tensor[0] = 0
            return tensors

        self._block_tensors = allocate(self.num_blocks, block_shapes)
        self._slot_tensors = allocate(self.num_slots, slot_shapes)
        self.windows = self._slot_tensors[: len(kinds)]
        """[slots, ring, D] per layer; position p is at p % ring."""
        self.tails: list[list[Tensor]] = []
        """Per layer, per compressor (main, index): [slots, positions, content and gate]; p at p % positions."""
        self.entries: list[list[Tensor]] = []
        """Per layer, per compressor: [blocks, entries per block, width]."""
        tails, entries = iter(self._slot_tensors[len(kinds) :]), iter(self._block_tensors)
        for kind in kinds:
            number = {"window": 0, "csa": 2, "hca": 1}[kind]
            self.tails.append([next(tails) for _ in range(number)])
            self.entries.append([next(entries) for _ in range(number)])

        self._free_slots = list(range(self.num_slots - 1, 0, -1))
        self._free_blocks = list(range(self.num_blocks - 1, 0, -1))
        self._references = [0] * self.num_blocks

    def create(self, length: int = 0) -> SequenceState:
        """An empty state; of `length` tokens if given, whose content the caller fills in.

        Raises EngineFailure when memory is used up; nothing has changed then.
        """
        num_blocks = -(-length // BLOCK_TOKENS)
        if num_blocks > len(self._free_blocks):
            raise EngineFailure(f"state memory is full: {len(self._free_blocks)} blocks free, {num_blocks} needed")
        slot = self._take_slot()
        for window in self.windows:
            window[slot] = 0
        for tail in (tail for tails in self.tails for tail in tails):
            # Before the first token there is no content, and gates of -inf keep it out of the first entry.
            content, gate = tail[slot].chunk(2, dim=-1)
            content.zero_()
            gate.fill_(float("-inf"))
        return SequenceState(slot, length, [self._take_block() for _ in range(num_blocks)])

    def copy(self, state: SequenceState) -> SequenceState:
        """The same history once more: the slot copied, the blocks shared."""
        slot = self._take_slot()
        for tensor in self._slot_tensors:
            tensor[slot] = tensor[state.slot]
        for block in state.blocks:
            self._references[block] += 1
        return SequenceState(slot, state.length, list(state.blocks))

    def free(self, state: SequenceState) -> None:
        self._free_slots.append(state.slot)
        for block in state.blocks:
            self._drop(block)
        state.blocks.clear()

    def reserve(self, states: list[SequenceState]) -> None:
        """Give each sequence a block of its own to write its next token into; all of them or none.

        Raises EngineFailure when memory is used up; nothing has changed then.
        """
        needy = [state for state in states if not self._can_write(state)]
        if len(needy) > len(self._free_blocks):
            raise EngineFailure(f"state memory is full: {len(self._free_blocks)} blocks free, {len(needy)} needed")
        for state in needy:
            block = self._take_block()
            at = state.length // BLOCK_TOKENS
            if at < len(state.blocks):
                for tensor in self._block_tensors:
                    tensor[block] = tensor[state.blocks[at]]
                self._drop(state.blocks[at])
                state.blocks[at] = block
            else:
                state.blocks.append(block)

    def free_ratio(self) -> float:
        return min(
            len(self._free_blocks) / (self.num_blocks - 1),
            len(self._free_slots) / (self.num_slots - 1),
        )

    def size_bytes(self, state: SequenceState) -> int:
        return self.slot_bytes + len(state.blocks) * self.block_bytes

    def _can_write(self, state: SequenceState) -> bool:
        at = state.length // BLOCK_TOKENS
        return at < len(state.blocks) and self._references[state.blocks[at]] == 1

    def _take_slot(self) -> int:
        if not self._free_slots:
            raise EngineFailure(f"state memory is full: all {self.num_slots - 1} slots hold sequences or snapshots")
        return self._free_slots.pop()

    def _take_block(self) -> int:
        """A block of zeros: what padding may read must be finite."""
        block = self._free_blocks.pop()
        self._references[block] = 1
        for tensor in self._block_tensors:
            tensor[block] = 0
        return block

    def _drop(self, block: int) -> None:
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free_blocks.append(block)
