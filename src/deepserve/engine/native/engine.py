"""The native core as an `Engine`: ctypes calls, nothing else. What it computes is said in `csrc/`."""

from __future__ import annotations

import ctypes
import weakref
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
from typing_extensions import override

from deepserve.core.errors import CheckpointError, EngineFailure
from deepserve.engine.interface import Drawn, Engine, EngineInfo, Row, RowFault, SequenceId, Snapshot
from deepserve.engine.machine import count_cores
from deepserve.engine.native.abi import CHUNK_TOKENS, Fault, Info, Status
from deepserve.engine.native.core import Core, load_core
from deepserve.engine.native.mask_worker import MaskWorker
from deepserve.engine.native.step_arrays import StepArrays
from deepserve.engine.options import EngineOptions, Progress


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
        self._sequences: set[SequenceId] = set()
        self._snapshots: set[int] = set()
        vocab_size = core.info.vocab_size
        if masks is None:
            masks = MaskWorker(core.shared_library, vocab_size=vocab_size, has_thread=count_cores() > 1)
        self._arrays = StepArrays(vocab_size=vocab_size, masks=masks)
        self._step = core.shared_library.ds_step
        weakref.finalize(self, masks.close)

    @property
    @override
    def info(self) -> EngineInfo:
        return self._core.info

    @override
    def create(self) -> SequenceId:
        self._check(self._library.ds_sequence_new(self._handle, self._number, self._fault))
        return self._register()

    @override
    def fork(self, sequence: SequenceId) -> SequenceId:
        return self._copy(self._known(sequence))

    @override
    def free(self, sequence: SequenceId) -> None:
        self._check(self._library.ds_sequence_free(self._handle, self._known(sequence), self._fault))
        self._sequences.remove(sequence)

    @override
    def length(self, sequence: SequenceId) -> int:
        return self._length(self._known(sequence))

    @override
    def step(self, rows: Sequence[Row]) -> list[Drawn | RowFault | None]:
        arrays = self._arrays
        arrays.write(rows, known=self._sequences)
        self._check(self._step(self._handle, arrays.rows, len(rows), arrays.drawn, self._fault))
        return arrays.read(rows)

    def logits(self, rows: Sequence[Row]) -> list[list[memoryview]]:
        """Append the rows like `step`, and return the logits of every token of each row; draws are ignored."""
        vocab = self.info.vocab_size
        room = [array("f", bytes(4 * vocab * len(row.tokens))) for row in rows]
        self._arrays.write_for_logits(rows, [values.buffer_info()[0] for values in room], known=self._sequences)
        self._check(self._step(self._handle, self._arrays.rows, len(rows), self._arrays.drawn, self._fault))
        views = [memoryview(values) for values in room]
        return [[view[at : at + vocab] for at in range(0, len(view), vocab)] for view in views]

    @override
    def snapshot(self, sequence: SequenceId) -> NativeSnapshot:
        position = self.length(sequence)
        self._check(self._library.ds_sequence_fork(self._handle, sequence, self._number, self._fault))
        return self._hold(self._number.value, position)

    @override
    def restore(self, snapshot: Snapshot) -> SequenceId:
        return self._copy(self._held(snapshot).handle)

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
        return self._hold(handle, self._length(handle))

    @override
    def free_blocks_ratio(self) -> float:
        info = self._core.sizes()
        free: float = min(info.free_blocks / info.num_blocks, info.free_slots / info.num_slots)
        return free

    def core_info(self) -> Info:
        """What the core says of itself just now."""
        return self._core.sizes()

    # Sequences and snapshots

    def _register(self) -> SequenceId:
        sequence = SequenceId(self._number.value)
        self._sequences.add(sequence)
        return sequence

    def _known(self, sequence: SequenceId) -> SequenceId:
        if sequence not in self._sequences:
            raise ValueError(f"no sequence {sequence}")
        return sequence

    def _length(self, handle: int) -> int:
        self._check(self._library.ds_sequence_length(self._handle, handle, self._number, self._fault))
        return self._number.value

    def _copy(self, handle: int) -> SequenceId:
        self._check(self._library.ds_sequence_fork(self._handle, handle, self._number, self._fault))
        return self._register()

    def _hold(self, handle: int, position: int) -> NativeSnapshot:
        self._snapshots.add(handle)
        blocks = -(-position // CHUNK_TOKENS)
        size_bytes = self._sizes.slot_bytes + blocks * self._sizes.block_bytes
        return NativeSnapshot(handle, position, size_bytes)

    def _held(self, snapshot: Snapshot) -> NativeSnapshot:
        if not isinstance(snapshot, NativeSnapshot) or snapshot.handle not in self._snapshots:
            raise ValueError("not a snapshot that this engine holds")
        return snapshot

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


def load_native_engine(folder: Path, options: EngineOptions, progress: Progress | None = None) -> NativeEngine:
    """Load a checkpoint folder. Raises CheckpointError naming what is wrong with it."""
    return NativeEngine(load_core(folder, options, progress))
