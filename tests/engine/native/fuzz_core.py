"""One engine of the native core, called through its C ABI, with what must be true of it kept beside."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from deepserve.engine.native import abi
from deepserve.engine.native.abi import CHUNK_TOKENS, Status, Want
from tests.engine.native.fuzz_networks import Shape, exactly


class BrokenPromise(Exception):
    """The core did something its header rules out."""


def promise(is_kept: bool, what: str) -> None:
    if not is_kept:
        raise BrokenPromise(what)


class Core:
    """One engine of the core, with what must be true of it kept beside."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p, shape: Shape) -> None:
        self.shared_library, self.handle, self.shape = library, handle, shape
        self.fault = abi.Fault()
        self.number = ctypes.c_int64()
        self.histories: dict[int, list[int] | None] = {}
        """Sequence -> its tokens; None: its state came from a damaged blob, anything may be in it."""

    @property
    def vocab_size(self) -> int:
        return self.shape.fields["vocab_size"]

    def info(self) -> abi.Info:
        info = abi.Info()
        self.shared_library.ds_engine_info(self.handle, info)
        return info

    def length(self, sequence: int) -> int:
        status = self.shared_library.ds_sequence_length(self.handle, sequence, self.number, self.fault)
        promise(status == Status.OK, f"sequence {sequence} has no length: {self.fault.text}")
        return self.number.value

    def new(self) -> int | None:
        return self._added(self.shared_library.ds_sequence_new(self.handle, self.number, self.fault), [])

    def fork(self, sequence: int) -> int | None:
        history = self.histories[sequence]
        status = self.shared_library.ds_sequence_fork(self.handle, sequence, self.number, self.fault)
        return self._added(status, None if history is None else list(history))

    def load(self, blob: bytes, history: list[int] | None) -> int | None:
        """A sequence from a blob; `history` is what an intact one holds."""
        buffer = exactly(blob)
        status = self.shared_library.ds_sequence_load(self.handle, buffer, len(blob), self.number, self.fault)
        if status == Status.INVALID:
            promise(history is None, f"an intact blob was refused: {self.fault.text}")
            return None
        return self._added(status, history)

    def save(self, sequence: int) -> bytes:
        status = self.shared_library.ds_sequence_blob_size(self.handle, sequence, self.number, self.fault)
        promise(status == Status.OK, self.fault.text)
        size = self.number.value
        blob = (ctypes.c_char * size)()
        status = self.shared_library.ds_sequence_save(self.handle, sequence, blob, size, self.fault)
        promise(status == Status.OK, self.fault.text)
        for wrong in (size - 1, size + 1, -1):
            status = self.shared_library.ds_sequence_save(self.handle, sequence, blob, wrong, self.fault)
            promise(status == Status.INVALID, f"a blob of {wrong} bytes was written instead of {size}")
        return blob.raw

    def free(self, sequence: int) -> None:
        status = self.shared_library.ds_sequence_free(self.handle, sequence, self.fault)
        promise(status == Status.OK, self.fault.text)
        del self.histories[sequence]
        for call in (self.shared_library.ds_sequence_free, self._fork_of, self._length_of):
            promise(call(self.handle, sequence, self.fault) == Status.INVALID, "a freed sequence was known")

    def _fork_of(self, handle: ctypes.c_void_p, sequence: int, fault: abi.Fault) -> int:
        return int(self.shared_library.ds_sequence_fork(handle, sequence, self.number, fault))

    def _length_of(self, handle: ctypes.c_void_p, sequence: int, fault: abi.Fault) -> int:
        return int(self.shared_library.ds_sequence_length(handle, sequence, self.number, fault))

    def _added(self, status: int, history: list[int] | None) -> int | None:
        if status == Status.OUT_OF_MEMORY:
            return None
        promise(status == Status.OK, self.fault.text)
        sequence = self.number.value
        promise(sequence not in self.histories, f"sequence {sequence} was given twice")
        self.histories[sequence] = history
        promise(history is None or self.length(sequence) == len(history), "a new sequence has another length")
        return sequence

    def logits(self, sequence: int, tokens: list[int], sizes: Iterator[int]) -> bytes | None:
        """Append tokens in rows of these sizes; None when memory is used up."""
        pieces = []
        while tokens:
            size = min(next(sizes), CHUNK_TOKENS - self.length(sequence) % CHUNK_TOKENS, len(tokens))
            room = (ctypes.c_float * (size * self.vocab_size))()
            row = abi.RowSpec(sequence=sequence, num_tokens=size, want=Want.LOGITS)
            row.tokens = (ctypes.c_int32 * size)(*tokens[:size])
            row.logits = room
            drawn = (abi.DrawnToken * 1)()
            status = self.shared_library.ds_step(self.handle, ctypes.byref(row), 1, drawn, self.fault)
            if status == Status.OUT_OF_MEMORY:
                return None
            promise(status == Status.OK, self.fault.text)
            pieces.append(bytes(room))
            tokens = tokens[size:]
        return b"".join(pieces)

    def close(self) -> None:
        for sequence in list(self.histories):
            self.free(sequence)
        info = self.info()
        promise(info.free_blocks == info.num_blocks, f"{info.num_blocks - info.free_blocks} blocks are lost")
        promise(info.free_slots == info.num_slots, f"{info.num_slots - info.free_slots} slots are lost")
        self.shared_library.ds_engine_delete(self.handle)
