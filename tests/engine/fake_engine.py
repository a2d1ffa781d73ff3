"""An engine without a network: the next token is a hash of the history, so tests of what stands above need no torch.

It keeps the contract strictly (rows across a border, unknown sequences and reuse raise), counts what it is asked, holds
sequences to its capacity, and fails where a test tells it to.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

import msgspec

from deepserve.core.errors import EngineFailure
from deepserve.engine.interface import (
    CHUNK_TOKENS,
    Draw,
    Drawn,
    EngineInfo,
    Row,
    RowFault,
    SequenceId,
    Snapshot,
    uniform,
)
from deepserve.engine.mask_source import NO_MASK, computed_mask

VOCAB_SIZE = 256

_BLOB_MAGIC = b"FAKE"

Script = Callable[[Sequence[int], Draw], int]
"""The next token after a history."""


def hashed_token(history: Sequence[int], draw: Draw) -> int:
    """A token that depends on every token before it, on the seed and on the position, and on nothing else."""
    digest = hashlib.blake2b(array("I", history).tobytes(), digest_size=8).digest()
    if draw.temperature == 0:
        return digest[0]
    return int(uniform(draw.seed ^ int.from_bytes(digest, "little"), draw.position) * VOCAB_SIZE)


class FakeSnapshot(msgspec.Struct, frozen=True, eq=False):
    history: tuple[int, ...]
    size_bytes: int

    @property
    def position(self) -> int:
        return len(self.history)


class FakeEngine:
    """script        decides tokens
    fail_step     called before each step with its number (from 0) and the histories of its rows; may raise
    faulty        histories after which a row is a RowFault
    tears         a failing step leaves its sequences advanced, as an engine that cannot roll back would
    """

    def __init__(
        self,
        *,
        script: Script = hashed_token,
        capacity_tokens: int = 1 << 23,
        capacity_states: int = 2000,
        max_context: int = 65536,
        vocab_size: int = VOCAB_SIZE,
        fail_step: Callable[[int, list[list[int]]], None] | None = None,
        faulty: Callable[[Sequence[int]], bool] | None = None,
        tears: bool = False,
    ) -> None:
        self.info = EngineInfo(
            name="fake",
            device="cpu",
            formats="none",
            vocab_size=vocab_size,
            max_context=max_context,
            total_parameters=0,
            active_parameters=0,
            state_bytes_per_token=96,
            state_bytes_fixed=1000,
            capacity_tokens=capacity_tokens,
            capacity_states=capacity_states,
            fingerprint="fake",
        )
        self.script = script
        self.fail_step = fail_step
        self.faulty = faulty
        self.tears = tears
        self.sequences: dict[SequenceId, list[int]] = {}
        self.snapshots: list[FakeSnapshot] = []
        self.steps: list[list[int]] = []
        self.most_used = 0.0
        self._undefined: set[SequenceId] = set()
        self._next_id = 0

    @property
    def num_computed(self) -> int:
        return sum(sum(rows) for rows in self.steps)

    def create(self) -> SequenceId:
        return self._add([])

    def fork(self, sequence: SequenceId) -> SequenceId:
        return self._add(list(self._history(sequence)))

    def free(self, sequence: SequenceId) -> None:
        self._check_known(sequence)
        self._undefined.discard(sequence)
        del self.sequences[sequence]

    def length(self, sequence: SequenceId) -> int:
        return len(self._history(sequence))

    def step(self, rows: Sequence[Row]) -> Sequence[Drawn | RowFault | None]:
        histories = [self._extended(row) for row in rows]
        if len({row.sequence for row in rows}) != len(rows):
            raise ValueError("a sequence appears twice in a step")
        number = len(self.steps)
        self.steps.append([len(row.tokens) for row in rows])
        try:
            if self.fail_step is not None:
                self.fail_step(number, histories)
            if self._used(dict(zip((row.sequence for row in rows), histories, strict=True))) > 1:
                raise EngineFailure("out of memory")
        except Exception:
            if self.tears:
                self._commit(rows, histories)
            raise
        self._commit(rows, histories)
        return [self._outcome(row, history) for row, history in zip(rows, histories, strict=True)]

    def snapshot(self, sequence: SequenceId) -> FakeSnapshot:
        self._check_room()
        snapshot = FakeSnapshot(history=tuple(self._history(sequence)), size_bytes=self.info.state_bytes_fixed)
        self.snapshots.append(snapshot)
        return snapshot

    def restore(self, snapshot: Snapshot) -> SequenceId:
        assert isinstance(snapshot, FakeSnapshot)
        assert any(known is snapshot for known in self.snapshots), "a released snapshot was restored"
        return self._add(list(snapshot.history))

    def release(self, snapshot: Snapshot) -> None:
        index = next(index for index, known in enumerate(self.snapshots) if known is snapshot)
        del self.snapshots[index]

    def dump(self, snapshot: Snapshot) -> bytes:
        assert isinstance(snapshot, FakeSnapshot)
        assert any(known is snapshot for known in self.snapshots), "a released snapshot was dumped"
        return _BLOB_MAGIC + array("I", snapshot.history).tobytes()

    def load(self, blob: bytes) -> FakeSnapshot:
        packed = blob.removeprefix(_BLOB_MAGIC)
        if not blob.startswith(_BLOB_MAGIC) or len(packed) % 4:
            raise ValueError("not a state of the fake engine")
        history = tuple(array("I", packed))
        if max(history, default=0) >= self.info.vocab_size or len(history) > self.info.max_context:
            raise ValueError("the state does not fit this engine")
        self._check_room()
        snapshot = FakeSnapshot(history=history, size_bytes=self.info.state_bytes_fixed)
        self.snapshots.append(snapshot)
        return snapshot

    def free_blocks_ratio(self) -> float:
        return max(0.0, 1 - self._used({}))

    def _check_room(self) -> None:
        if len(self.sequences) + len(self.snapshots) >= self.info.capacity_states:
            raise EngineFailure("out of states")

    def _add(self, history: list[int]) -> SequenceId:
        self._check_room()
        self._next_id += 1
        self.sequences[SequenceId(self._next_id)] = history
        return SequenceId(self._next_id)

    def _check_known(self, sequence: SequenceId) -> None:
        if sequence not in self.sequences:
            raise ValueError(f"unknown sequence {sequence}")

    def _history(self, sequence: SequenceId) -> list[int]:
        self._check_known(sequence)
        if sequence in self._undefined:
            raise ValueError("a faulty sequence may only be freed")
        return self.sequences[sequence]

    def _extended(self, row: Row) -> list[int]:
        before = self._history(row.sequence)
        start, end = len(before), len(before) + len(row.tokens)
        if not row.tokens or start // CHUNK_TOKENS != (end - 1) // CHUNK_TOKENS:
            raise ValueError(f"row of {len(row.tokens)} tokens at {start}")
        if not all(0 <= token < self.info.vocab_size for token in row.tokens):
            raise ValueError("token outside the vocabulary")
        return [*before, *row.tokens]

    def _commit(self, rows: Sequence[Row], histories: Sequence[list[int]]) -> None:
        for row, history in zip(rows, histories, strict=True):
            self.sequences[row.sequence] = history
        self.most_used = max(self.most_used, self._used({}))

    def _outcome(self, row: Row, history: list[int]) -> Drawn | RowFault | None:
        if self.faulty is not None and self.faulty(history):
            self._undefined.add(row.sequence)
            return RowFault("not finite")
        if row.draw is None:
            return None
        token = self.script(history, row.draw)
        allowed = row.draw.allowed
        if callable(allowed):
            allowed = computed_mask(allowed, vocab_size=self.info.vocab_size)
            if allowed is None:
                self._undefined.add(row.sequence)
                return RowFault(NO_MASK)
        if allowed is not None and not allowed[token // 8] >> token % 8 & 1:
            token = next(other for other in range(self.info.vocab_size) if allowed[other // 8] >> other % 8 & 1)
        if row.draw.num_top_logprobs is None:
            return Drawn(token)
        return Drawn(token, -0.5, tuple((other, -0.5 - other) for other in range(row.draw.num_top_logprobs)))

    def _used(self, changed: dict[SequenceId, list[int]]) -> float:
        """Share of the memory in use; blocks with equal histories count once, as if they were shared."""
        num_states = (len(self.sequences) + len(self.snapshots)) / self.info.capacity_states
        if self.info.capacity_tokens > 1_000_000:
            return num_states  # far from any limit, and counting blocks takes long
        histories = [changed.get(sequence, history) for sequence, history in self.sequences.items()]
        blocks: set[bytes] = set()
        num_tails = 0
        for history in [*histories, *(snapshot.history for snapshot in self.snapshots)]:
            packed = array("I", history).tobytes()
            full = len(history) // CHUNK_TOKENS
            blocks.update(packed[: 4 * CHUNK_TOKENS * (block + 1)] for block in range(full))
            num_tails += len(history) % CHUNK_TOKENS > 0
        return max(num_states, (len(blocks) + num_tails) * CHUNK_TOKENS / self.info.capacity_tokens)
