"""The native core as an `Engine`: ctypes calls, nothing else. What it computes is said in `csrc/`.

Numbers are written straight into the core's structs, because a step of a small model takes a quarter of a
millisecond and every attribute set through ctypes would cost as much as some arithmetic.
"""

from __future__ import annotations

import ctypes
import struct
import weakref
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
from typing_extensions import override

from deepserve.core.errors import CheckpointError, EngineFailure
from deepserve.engine.interface import Draw, Drawn, Engine, EngineInfo, Row, RowFault, SequenceId, Snapshot
from deepserve.engine.machine import count_cores
from deepserve.engine.mask_source import NO_MASK, MaskSource
from deepserve.engine.native.abi import (
    CHUNK_TOKENS,
    DrawnToken,
    DrawSpec,
    Fault,
    Info,
    LateMask,
    MaskState,
    RowFaultKind,
    RowSpec,
    Status,
    Want,
)
from deepserve.engine.native.core import Core, load_core
from deepserve.engine.native.mask_worker import MaskJob, MaskWorker
from deepserve.engine.options import EngineOptions, Progress

_ROW = struct.Struct("=qQiiQQ")
_DRAW = struct.Struct("=6d2Q6i6QqQ")
_LATE = struct.Struct("=Qqi4x")
_ANSWER = struct.Struct("=ii")
assert _ROW.size == ctypes.sizeof(RowSpec)
assert _DRAW.size == ctypes.sizeof(DrawSpec)
assert _LATE.size == ctypes.sizeof(LateMask)

_DRAWN_BYTES = ctypes.sizeof(DrawnToken)
assert int(MaskState.AWAITED) == 0, "a step's masks become awaited by being zeroed"
_NO_LOGPROBS = -1
_NOTHING, _TOKEN, _LOGITS = int(Want.NOTHING), int(Want.TOKEN), int(Want.LOGITS)  # plain: they are packed as they are
_FAULTS = {
    RowFaultKind.NOT_FINITE: "the model's logits are not finite",
    RowFaultKind.NOTHING_ALLOWED: "no token is allowed here",
    RowFaultKind.NO_MASK: NO_MASK,
}


class NativeSnapshot(msgspec.Struct, frozen=True, eq=False):
    """A sequence of the core's that nobody appends to. Shares complete blocks with the one it was taken of."""

    handle: int
    position: int
    size_bytes: int


class NativeEngine(Engine):
    """Runs a loaded `Core`. Closes the mask worker when it is collected."""

    def __init__(self, core: Core, *, masks: MaskWorker | None = None) -> None:
        self._core = core
        self._library = core.shared_library
        self._handle = core.handle
        self._fault = Fault()
        self._number = ctypes.c_int64()
        self._sizes = core.sizes()
        self._lengths: dict[SequenceId, int] = {}
        self._snapshots: set[int] = set()
        self._mask_jobs: list[MaskJob] = []
        self._is_mask_late = False
        self._make_room(8)
        self._masks = masks or MaskWorker(
            core.shared_library, vocab_size=core.info.vocab_size, has_thread=count_cores() > 1
        )
        weakref.finalize(self, self._masks.close)

    @property
    @override
    def info(self) -> EngineInfo:
        return self._core.info

    @override
    def create(self) -> SequenceId:
        self._check(self._library.ds_sequence_new(self._handle, self._number, self._fault))
        return self._register(0)

    @override
    def fork(self, sequence: SequenceId) -> SequenceId:
        return self._copy(sequence, self.length(sequence))

    @override
    def free(self, sequence: SequenceId) -> None:
        self.length(sequence)
        self._check(self._library.ds_sequence_free(self._handle, sequence, self._fault))
        del self._lengths[sequence]

    @override
    def length(self, sequence: SequenceId) -> int:
        if sequence not in self._lengths:
            raise ValueError(f"no sequence {sequence}")
        return self._lengths[sequence]

    @override
    def step(self, rows: Sequence[Row]) -> list[Drawn | RowFault | None]:
        self._write_rows(rows, [_NOTHING if row.draw is None else _TOKEN for row in rows])
        jobs, self._mask_jobs = self._mask_jobs, []
        if jobs:
            self._masks.take(jobs)
        self._run(rows)
        drawn = self._drawn
        results: list[Drawn | RowFault | None] = []
        for number, row in enumerate(rows):
            if row.draw is None:
                results.append(None)
                continue
            token, fault = _ANSWER.unpack_from(drawn, number * _DRAWN_BYTES)
            if fault:
                results.append(RowFault(_FAULTS[RowFaultKind(fault)]))
            elif row.draw.num_top_logprobs is None:
                results.append(Drawn(token))
            else:
                results.append(_with_logprobs(drawn[number]))
        return results

    def logits(self, rows: Sequence[Row]) -> list[list[memoryview]]:
        """Append the rows like `step`, and return the logits of every token of each row; draws are ignored."""
        vocab = self.info.vocab_size
        room = [array("f", bytes(4 * vocab * len(row.tokens))) for row in rows]
        self._write_rows(rows, [_LOGITS] * len(rows), [values.buffer_info()[0] for values in room])
        self._run(rows)
        views = [memoryview(values) for values in room]
        return [[view[at : at + vocab] for at in range(0, len(view), vocab)] for view in views]

    @override
    def snapshot(self, sequence: SequenceId) -> NativeSnapshot:
        position = self.length(sequence)
        self._check(self._library.ds_sequence_fork(self._handle, sequence, self._number, self._fault))
        return self._hold(position)

    @override
    def restore(self, snapshot: Snapshot) -> SequenceId:
        return self._copy(self._held(snapshot).handle, snapshot.position)

    @override
    def release(self, snapshot: Snapshot) -> None:
        handle = self._held(snapshot).handle
        self._check(self._library.ds_sequence_free(self._handle, handle, self._fault))
        self._snapshots.remove(handle)

    @override
    def dump(self, snapshot: Snapshot) -> bytes:
        handle = self._held(snapshot).handle
        self._check(self._library.ds_sequence_blob_size(self._handle, handle, self._number, self._fault))
        blob = ctypes.create_string_buffer(self._number.value)
        self._check(self._library.ds_sequence_save(self._handle, handle, blob, len(blob), self._fault))
        return blob.raw

    @override
    def load(self, blob: bytes) -> NativeSnapshot:
        self._check(self._library.ds_sequence_load(self._handle, blob, len(blob), self._number, self._fault))
        handle = self._number.value
        self._check(self._library.ds_sequence_length(self._handle, handle, self._number, self._fault))
        position = self._number.value
        self._number.value = handle
        return self._hold(position)

    @override
    def free_blocks_ratio(self) -> float:
        info = self._core.sizes()
        free: float = min(info.free_blocks / info.num_blocks, info.free_slots / info.num_slots)
        return free

    def core_info(self) -> Info:
        """What the core says of itself just now."""
        return self._core.sizes()

    # Sequences and snapshots

    def _register(self, length: int) -> SequenceId:
        sequence = SequenceId(self._number.value)
        self._lengths[sequence] = length
        return sequence

    def _copy(self, handle: int, length: int) -> SequenceId:
        self._check(self._library.ds_sequence_fork(self._handle, handle, self._number, self._fault))
        return self._register(length)

    def _hold(self, position: int) -> NativeSnapshot:
        self._snapshots.add(self._number.value)
        blocks = -(-position // CHUNK_TOKENS)
        size_bytes = self._sizes.slot_bytes + blocks * self._sizes.block_bytes
        return NativeSnapshot(self._number.value, position, size_bytes)

    def _held(self, snapshot: Snapshot) -> NativeSnapshot:
        if not isinstance(snapshot, NativeSnapshot) or snapshot.handle not in self._snapshots:
            raise ValueError("not a snapshot that this engine holds")
        return snapshot

    # One step

    def _make_room(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows = (RowSpec * num_rows)()
        self._draws = (DrawSpec * num_rows)()
        self._drawn = (DrawnToken * num_rows)()
        self._late_masks = (LateMask * num_rows)()
        self._tokens = (ctypes.c_int32 * (num_rows * CHUNK_TOKENS))()
        self._late_mask_places = list(self._late_masks)
        self._late_masks_at = ctypes.addressof(self._late_masks)
        self._draws_at = ctypes.addressof(self._draws)
        self._tokens_at = ctypes.addressof(self._tokens)

    def _write_rows(self, rows: Sequence[Row], wants: Sequence[int], logits: Sequence[int] = ()) -> None:
        if len(rows) > self._num_rows:
            self._make_room(2 * len(rows))
        # Arrays that draws point to; they must outlive the step.
        self._kept: list[object] = []
        num_sources = sum([row.draw is not None and callable(row.draw.allowed) for row in rows])
        self._is_mask_late = num_sources > 0 and self._masks.is_worth_waking(num_sources)
        self._mask_jobs = []
        if self._is_mask_late:
            ctypes.memset(self._late_masks_at, 0, len(rows) * _LATE.size)
        for number, row in enumerate(rows):
            if row.sequence not in self._lengths:
                raise ValueError(f"no sequence {row.sequence}")
            num_tokens = len(row.tokens)
            if not 0 < num_tokens <= CHUNK_TOKENS:
                raise ValueError(f"a row has 1 to {CHUNK_TOKENS} tokens, not {num_tokens}")
            place = number * CHUNK_TOKENS * 4
            try:
                struct.pack_into(f"={num_tokens}i", self._tokens, place, *row.tokens)
            except struct.error as error:
                raise ValueError(f"token ids must be within 0..{self.info.vocab_size - 1}: {error}") from error
            draw_at = 0
            if wants[number] == _TOKEN and row.draw is not None:
                self._write_draw(number, row.draw)
                draw_at = self._draws_at + number * _DRAW.size
            _ROW.pack_into(
                self._rows,
                number * _ROW.size,
                row.sequence,
                self._tokens_at + place,
                num_tokens,
                wants[number],
                draw_at,
                logits[number] if logits else 0,
            )

    def _write_draw(self, number: int, draw: Draw) -> None:
        biases = bias_values = prompt = counted = counts = mask = (0, 0)
        if draw.logit_bias:
            biases = self._array("i", draw.logit_bias.keys())
            bias_values = self._array("d", draw.logit_bias.values())
        if draw.repetition_penalty != 1.0:
            prompt = self._array("i", draw.prompt_tokens)
        if draw.output_counts and (draw.repetition_penalty, draw.frequency_penalty, draw.presence_penalty) != (1, 0, 0):
            counted = self._array("i", draw.output_counts.keys())
            counts = self._array("i", draw.output_counts.values())
        late_mask, allowed = 0, draw.allowed
        if callable(allowed):
            allowed, late_mask = self._begin_mask(number, allowed)
        if allowed is not None:
            mask = self._array("B", allowed)
        try:
            _DRAW.pack_into(
                self._draws,
                number * _DRAW.size,
                draw.temperature,
                draw.top_p,
                draw.min_p,
                draw.repetition_penalty,
                draw.frequency_penalty,
                draw.presence_penalty,
                draw.seed & _MASK,
                draw.position & _MASK,
                draw.top_k,
                _NO_LOGPROBS if draw.num_top_logprobs is None else draw.num_top_logprobs,
                biases[1],
                prompt[1],
                counted[1],
                allowed is not None,
                biases[0],
                bias_values[0],
                prompt[0],
                counted[0],
                counts[0],
                mask[0],
                mask[1],
                late_mask,
            )
        except struct.error as error:
            raise ValueError(f"a draw holds numbers out of range: {error}") from error

    def _begin_mask(self, number: int, source: MaskSource) -> tuple[bytes | None, int]:
        """A mask that is computed now; or none, and the address where it will stand or is known to fail."""
        at = self._late_masks_at + number * _LATE.size
        if self._is_mask_late:
            self._mask_jobs.append(MaskJob(source, self._late_mask_places[number]))
            return None, at
        mask = self._masks.compute(source)
        if mask is not None:
            return mask, 0
        _LATE.pack_into(self._late_masks, number * _LATE.size, 0, 0, MaskState.FAILED)
        return None, at

    def _array(self, kind: str, values: Iterable[float]) -> tuple[int, int]:
        """Address and length of a copy that lives as long as the step."""
        try:
            kept = array(kind, values)
        except OverflowError as error:
            raise ValueError(f"a draw names token ids outside 0..{self.info.vocab_size - 1}") from error
        self._kept.append(kept)
        address, length = kept.buffer_info()
        return address, length

    def _run(self, rows: Sequence[Row]) -> None:
        status = self._library.ds_step(self._handle, self._rows, len(rows), self._drawn, self._fault)
        if status:
            for row in rows:  # an engine out of memory may have had to give sequences up
                self._library.ds_sequence_length(self._handle, row.sequence, self._number, None)
                self._lengths[row.sequence] = self._number.value
            self._raise(status)
        for row in rows:
            self._lengths[row.sequence] += len(row.tokens)

    def _check(self, status: int) -> None:
        if status:
            self._raise(status)

    def _raise(self, status: int) -> NoReturn:
        message = self._fault.text
        match Status(status):
            case Status.OUT_OF_MEMORY:
                raise EngineFailure(message)
            case Status.CHECKPOINT | Status.IO:
                raise CheckpointError(message)
            case _:
                raise ValueError(message)


_MASK = (1 << 64) - 1


def _with_logprobs(drawn: DrawnToken) -> Drawn:
    top = tuple((drawn.top_tokens[at], drawn.top_logprobs[at]) for at in range(drawn.num_top))
    return Drawn(drawn.token, drawn.logprob, top)


def load_native_engine(folder: Path, options: EngineOptions, progress: Progress | None = None) -> NativeEngine:
    """Load a checkpoint folder. Raises CheckpointError naming what is wrong with it."""
    return NativeEngine(load_core(folder, options, progress))
