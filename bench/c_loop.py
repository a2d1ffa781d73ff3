"""The native core by itself, driven as a C program would drive it: prepared rows, one call a step, nothing else.

What the engine around it costs is then the difference to `NativeEngine` and `Scheduler`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.random_weights import RawTensor
from deepserve.engine.interface import CHUNK_TOKENS
from deepserve.engine.native import abi
from deepserve.engine.native.abi import Format, Status, Want
from deepserve.engine.native.core import DTYPES, describe_network, place_of
from deepserve.engine.native.shared_library import load_library
from deepserve.engine.network_config import NetworkConfig


class CoreFault(Exception):
    """What the core said when it refused."""


class CLoop:
    """One network in the core, and its sequences.

    tensors: by published names
    """

    def __init__(
        self,
        config: NetworkConfig,
        tensors: Iterable[tuple[str, RawTensor]],
        *,
        dense: Format = Format.BF16,
        experts: Format = Format.FP4,
        head: Format = Format.BF16,
        states: abi.StateType = abi.StateType.BF16,
        num_threads: int = 1,
        memory_bytes: int = 1 << 30,
        isa: str | None = None,
    ) -> None:
        self.config = config
        self._library = load_library()
        self._fault = abi.Fault()
        self._engine = ctypes.c_void_p()
        options = abi.Options(dense, experts, head, states, num_threads, memory_bytes, isa and isa.encode())
        self._check("new", describe_network(config), options, self._engine)
        for name, tensor in tensors:
            arrays = [None if stored is None else _array(stored) for stored in (tensor, tensor.scale)]
            self._check("put", self._engine, *place_of(name), *arrays)
        self._check("seal", self._engine)

    def close(self) -> None:
        if self._engine:
            self._library.ds_engine_delete(self._engine)
            self._engine = ctypes.c_void_p()

    def __enter__(self) -> CLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def info(self) -> abi.Info:
        info = abi.Info()
        self._library.ds_engine_info(self._engine, info)
        return info

    def create(self) -> int:
        return self._sequence("ds_sequence_new")

    def load(self, blob: NDArray[np.uint8]) -> int:
        return self._sequence("ds_sequence_load", blob.ctypes.data, blob.nbytes)

    def free(self, sequence: int) -> None:
        self._call("ds_sequence_free", self._engine, sequence)

    def step(self, rows: Sequence[tuple[int, Sequence[int]]], *, wants_token: bool) -> list[int]:
        """Append each row's tokens to its sequence; the greedy token after each if wanted."""
        prepared = Rows(len(rows))
        for place, (sequence, tokens) in enumerate(rows):
            prepared.set(place, sequence, tokens, Want.TOKEN if wants_token else Want.NOTHING)
        self.run(prepared)
        return [drawn.token for drawn in prepared.drawn]

    def run(self, rows: Rows) -> None:
        status = self._library.ds_step(self._engine, rows.specs, rows.num_rows, rows.drawn, self._fault)
        if status != Status.OK:
            raise CoreFault(self._fault.text)

    def prefill(self, sequence: int, tokens: Sequence[int], *, start: int = 0, rows_of: int = CHUNK_TOKENS) -> int:
        """Append tokens from this position on, in rows that end at its multiples; the greedy token after them."""
        token = -1
        while tokens:
            size = rows_of - start % rows_of
            chunk, tokens = tokens[:size], tokens[size:]
            start += len(chunk)
            [token] = self.step([(sequence, chunk)], wants_token=not tokens)
        return token

    def decode(self, sequences: Sequence[int], number: int, *, temperature: float = 0.0, top_p: float = 1.0) -> None:
        """So many tokens for each sequence: the C loop."""
        rows = Rows(len(sequences), temperature=temperature, top_p=top_p)
        for place, sequence in enumerate(sequences):
            rows.set(place, sequence, [5 + place], Want.TOKEN)
        for position in range(number):
            rows.draw.position = position
            self.run(rows)
            for place in range(len(sequences)):
                rows.tokens[place][0] = rows.drawn[place].token

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """After each token of a new sequence: [tokens, vocabulary]"""
        sequence = self.create()
        logits = np.empty((len(tokens), self.config.vocab_size), np.float32)
        for first in range(0, len(tokens), CHUNK_TOKENS):
            rows = Rows(1)
            rows.set(0, sequence, tokens[first : first + CHUNK_TOKENS], Want.LOGITS)
            rows.specs[0].logits = logits[first:].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            self.run(rows)
        self.free(sequence)
        return logits

    def _sequence(self, function: str, *arguments: object) -> int:
        number = ctypes.c_int64()
        self._call(function, self._engine, *arguments, number)
        return number.value

    def _check(self, what: str, *arguments: object) -> None:
        self._call(f"ds_engine_{what}", *arguments)

    def _call(self, function: str, *arguments: object) -> None:
        if getattr(self._library, function)(*arguments, self._fault) != Status.OK:
            raise CoreFault(f"{function}: {self._fault.text}")


class Rows:
    """The arguments of one step, to be used again and again."""

    def __init__(self, num_rows: int, *, temperature: float = 0.0, top_p: float = 1.0) -> None:
        self.num_rows = num_rows
        self.specs = (abi.RowSpec * num_rows)()
        self.drawn = (abi.DrawnToken * num_rows)()
        self.tokens: list[ctypes.Array[ctypes.c_int32]] = [(ctypes.c_int32 * 0)()] * num_rows
        self.draw = abi.DrawSpec(
            temperature=temperature, top_p=top_p, repetition_penalty=1.0, seed=1, num_top_logprobs=-1
        )

    def set(self, place: int, sequence: int, tokens: Sequence[int], want: Want) -> None:
        self.tokens[place] = (ctypes.c_int32 * len(tokens))(*tokens)
        spec = self.specs[place]
        spec.sequence, spec.tokens, spec.num_tokens, spec.want = sequence, self.tokens[place], len(tokens), want
        spec.draw = ctypes.pointer(self.draw)


def _array(tensor: RawTensor) -> abi.Array:
    shape = (ctypes.c_int64 * 3)(*tensor.shape)
    return abi.Array(DTYPES[tensor.dtype], len(tensor.shape), shape, tensor.data.ctypes.data, tensor.data.nbytes)
