"""Random networks for the core's C ABI: sizes, plans, and a tensor of a random type for everything they need."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from deepserve.engine.native import abi
from deepserve.engine.native.abi import Dtype, Format, Tensor

_POOL_ITEMS = 1 << 15

_DENSE = {Tensor.WQ_A, Tensor.WQ_B, Tensor.WKV, Tensor.WO_A, Tensor.WO_B, Tensor.INDEX_WQ_B}
_DENSE |= {Tensor.SHARED_W1, Tensor.SHARED_W2, Tensor.SHARED_W3}
_SMALL = {Tensor.COMPRESSOR_WKV, Tensor.COMPRESSOR_WGATE, Tensor.INDEX_WEIGHTS, Tensor.INDEX_WKV, Tensor.INDEX_WGATE}
_EXPERTS = {Tensor.EXPERT_W1, Tensor.EXPERT_W2, Tensor.EXPERT_W3}
_PLAIN = (Dtype.F32, Dtype.F16, Dtype.BF16, Dtype.F64)
_ITEM_BYTES = {Dtype.F64: 8, Dtype.I64: 8, Dtype.F32: 4, Dtype.I32: 4, Dtype.F16: 2, Dtype.BF16: 2}


def exactly(content: bytes) -> Any:  # Any: ctypes makes a type per length
    """An allocation of its own that ends where the content does."""
    return (ctypes.c_char * max(1, len(content))).from_buffer_copy(content or b"\0")


class Numbers:
    """Random but possible weights of every stored type, as bytes."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        values = [chance.gauss(0, 0.2) for _ in range(_POOL_ITEMS)]
        floats = struct.pack(f"<{_POOL_ITEMS}f", *values)
        self._pools = {
            Dtype.F32: floats,
            Dtype.F64: struct.pack(f"<{_POOL_ITEMS}d", *values),
            Dtype.F16: struct.pack(f"<{_POOL_ITEMS}e", *values),
            Dtype.BF16: b"".join(floats[4 * i + 2 : 4 * i + 4] for i in range(_POOL_ITEMS)),
            Dtype.F8_E4M3: bytes(code for code in chance.randbytes(_POOL_ITEMS) if code & 127 != 127),
            Dtype.FP4: chance.randbytes(_POOL_ITEMS),
        }

    def take(self, dtype: Dtype, count: int) -> bytes:
        """`count` numbers, bytes of FP4 counting as one."""
        size = _ITEM_BYTES.get(dtype, 1)
        pool = self._pools[dtype]
        pieces, left = [], count
        while left > 0:
            first = self._chance.randrange(len(pool) // size)
            piece = pool[first * size : (first + left) * size]
            pieces.append(piece)
            left -= len(piece) // size
        return b"".join(pieces)

    def powers(self, count: int, low: int, high: int) -> bytes:
        return bytes(self._chance.randint(low, high) for _ in range(count))


class Shape:
    """The sizes of one random network, and which tensors it needs."""

    def __init__(self, chance: Random, *, formats: dict[str, Format]) -> None:
        needs_groups = Format.MAPPED_FP4 in formats.values()
        wide = [32, 64, 96] if needs_groups else [1, 7, 16, 24, 33, 50, 64, 72]
        rope = chance.choice([2, 8, 16])
        groups = chance.choice([1, 1, 2, 4])
        experts = chance.randint(1, 6)
        self.fields = {
            "vocab_size": chance.choice([1, 2, 64, 65, 301]),
            "hidden_size": chance.choice(wide),
            "num_layers": chance.randint(1, 4),
            "num_heads": groups * chance.randint(1, 3),
            "head_dim": rope + chance.choice([0, 1, 8, 24, 30]),
            "rope_dim": rope,
            "q_rank": chance.choice(wide),
            "o_groups": groups,
            "o_rank": chance.choice([32, 64, 128] if needs_groups else [1, 10, 64, 128]),
            "window": chance.choice([1, 8, 24, 128, 130, 256]),
            "index_heads": chance.choice([1, 3, 8, 17]),
            "index_dim": rope + chance.choice([0, 1, 8, 30]),
            "index_topk": chance.choice([1, 2, 10, 33, 500]),
            "num_experts": experts,
            "experts_per_token": chance.randint(1, experts),
            "expert_width": chance.choice(wide),
            "streams": chance.choice([1, 2, 4, 4, 8]),
            "sinkhorn_steps": chance.choice([1, 3, 20]),
            "max_context": chance.choice([1, 100, 300, 600, 5000, 5000]),
        }
        if needs_groups:  # every matrix has a multiple of 32 inputs
            self.fields |= {"head_dim": 32, "rope_dim": 8, "index_dim": 40}
        self.layers = [
            {
                "ratio": ratio,
                "overlaps": bool(ratio) and chance.random() < 0.5,
                "selects": 0 < ratio <= 8 and chance.random() < 0.7,
                "is_hash_routed": chance.random() < 0.4,
                "rotation": chance.randint(0, 1),
            }
            for ratio in chance.choices([0, 2, 4, 4, 8, 16, 32, 64, 128], k=self.fields["num_layers"])
        ]
        self.frequencies = [0.7**at for at in range(rope)]

    def network(self) -> abi.Network:
        layers = (abi.Layer * max(1, len(self.layers)))()
        for layer, fields in zip(layers, self.layers, strict=False):
            for name, value in fields.items():
                setattr(layer, name, value)
        network = abi.Network(
            abi_version=abi.ABI_VERSION,
            routed_scale=1.5,
            swiglu_limit=10.0,
            hc_eps=1e-6,
            norm_eps=1e-6,
            layers=layers,
            **self.fields,
        )
        for at in range(2):
            network.frequencies[at] = (ctypes.c_float * len(self.frequencies))(*self.frequencies)
        return network

    def tensors(self) -> Iterator[tuple[Tensor, int, int, tuple[int, ...]]]:
        """Every tensor: which, of which layer (-1: none) and expert, and its shape."""
        size = self.fields
        hidden, streams, rank, head = size["hidden_size"], size["streams"], size["q_rank"], size["head_dim"]
        scores = (2 + streams) * streams
        yield Tensor.EMBED, -1, 0, (size["vocab_size"], hidden)
        yield Tensor.HEAD, -1, 0, (size["vocab_size"], hidden)
        yield Tensor.NORM, -1, 0, (hidden,)
        yield Tensor.HC_HEAD_FN, -1, 0, (streams, streams * hidden)
        yield Tensor.HC_HEAD_BASE, -1, 0, (streams,)
        yield Tensor.HC_HEAD_SCALE, -1, 0, (1,)
        for number, layer in enumerate(self.layers):
            shapes: dict[Tensor, tuple[int, ...]] = {Tensor.ATTN_NORM: (hidden,), Tensor.FFN_NORM: (hidden,)}
            for first in (Tensor.HC_ATTN_FN, Tensor.HC_FFN_FN):
                shapes[first] = (scores, streams * hidden)
                shapes[Tensor(first + 1)] = (scores,)
                shapes[Tensor(first + 2)] = (3,)
            shapes |= {
                Tensor.WQ_A: (rank, hidden),
                Tensor.Q_NORM: (rank,),
                Tensor.WQ_B: (size["num_heads"] * head, rank),
                Tensor.WKV: (head, hidden),
                Tensor.KV_NORM: (head,),
                Tensor.WO_A: (size["o_groups"] * size["o_rank"], size["num_heads"] // size["o_groups"] * head),
                Tensor.WO_B: (hidden, size["o_groups"] * size["o_rank"]),
                Tensor.ATTN_SINK: (size["num_heads"],),
                Tensor.GATE: (size["num_experts"], hidden),
                Tensor.SHARED_W1: (size["expert_width"], hidden),
                Tensor.SHARED_W2: (hidden, size["expert_width"]),
                Tensor.SHARED_W3: (size["expert_width"], hidden),
            }
            halves = 2 if layer["overlaps"] else 1
            if layer["ratio"]:
                shapes |= {
                    Tensor.COMPRESSOR_WKV: (halves * head, hidden),
                    Tensor.COMPRESSOR_WGATE: (halves * head, hidden),
                    Tensor.COMPRESSOR_APE: (layer["ratio"], halves * head),
                    Tensor.COMPRESSOR_NORM: (head,),
                }
            if layer["selects"]:
                width = size["index_dim"]
                shapes |= {
                    Tensor.INDEX_WQ_B: (size["index_heads"] * width, rank),
                    Tensor.INDEX_WEIGHTS: (size["index_heads"], hidden),
                    Tensor.INDEX_WKV: (halves * width, hidden),
                    Tensor.INDEX_WGATE: (halves * width, hidden),
                    Tensor.INDEX_APE: (layer["ratio"], halves * width),
                    Tensor.INDEX_NORM: (width,),
                }
            if layer["is_hash_routed"]:
                shapes[Tensor.GATE_TABLE] = (size["vocab_size"], size["experts_per_token"])
            else:
                shapes[Tensor.GATE_BIAS] = (size["num_experts"],)
            for tensor, shape in shapes.items():
                yield tensor, number, 0, shape
            for expert in range(size["num_experts"]):
                yield Tensor.EXPERT_W1, number, expert, (size["expert_width"], hidden)
                yield Tensor.EXPERT_W2, number, expert, (hidden, size["expert_width"])
                yield Tensor.EXPERT_W3, number, expert, (size["expert_width"], hidden)


class Weights:
    """Arrays for every tensor of a network, kept as long as an engine may have them mapped."""

    def __init__(self, chance: Random, numbers: Numbers, shape: Shape, formats: dict[str, Format]) -> None:
        self.arrays: dict[tuple[Tensor, int, int], tuple[abi.Array, abi.Array | None]] = {}
        self._kept: list[object] = []
        self.is_extreme = chance.random() < 0.1
        """Scales from one end of their range to the other."""
        for tensor, layer, expert, wanted in shape.tensors():
            if tensor is Tensor.GATE_TABLE:
                rows = [chance.sample(range(shape.fields["num_experts"]), wanted[1]) for _ in range(wanted[0])]
                flat = [number for row in rows for number in row]
                dtype, letter = chance.choice([(Dtype.I64, "q"), (Dtype.I32, "i")])
                array = self._array(dtype, wanted, struct.pack(f"<{len(flat)}{letter}", *flat))
                self.arrays[tensor, layer, expert] = array, None
                continue
            kept = formats[_kind(tensor)] if _kind(tensor) else None
            self.arrays[tensor, layer, expert] = self._matrix(chance, numbers, tensor, wanted, kept)

    def _matrix(
        self, chance: Random, numbers: Numbers, tensor: Tensor, shape: tuple[int, ...], kept: Format | None
    ) -> tuple[abi.Array, abi.Array | None]:
        count = math.prod(shape)
        dtypes = list(_PLAIN)
        if kept is not None:
            dtypes += [Dtype.F8_E4M3] * 3 + [Dtype.FP4] * (3 if shape[1] % 32 == 0 else 0)
            if kept >= Format.MAPPED_BF16:
                mapped = {Format.MAPPED_BF16: Dtype.BF16, Format.MAPPED_FP4: Dtype.FP4}
                dtypes = [Dtype.BF16 if tensor in _SMALL else mapped.get(kept, Dtype.F8_E4M3)]
        dtype = chance.choice(dtypes)
        low, high = (0, 254) if self.is_extreme else (115, 122)
        if dtype is Dtype.FP4:
            packed = (shape[0], shape[1] // 2)
            scales = (shape[0], shape[1] // 32)
            scale = self._array(Dtype.F8_E8M0, scales, numbers.powers(scales[0] * scales[1], low, high))
            return self._array(dtype, packed, numbers.take(dtype, count // 2)), scale
        if dtype is Dtype.F8_E4M3:
            scales = (-(-shape[0] // 128), -(-shape[1] // 128))
            number = scales[0] * scales[1]
            if kept is not None and kept < Format.MAPPED_BF16 and chance.random() < 0.3:
                scale = self._array(Dtype.F32, scales, numbers.take(Dtype.F32, number))
            else:
                scale = self._array(Dtype.F8_E8M0, scales, numbers.powers(number, low - low // 30, high - 4))
            return self._array(dtype, shape, numbers.take(dtype, count)), scale
        return self._array(dtype, shape, numbers.take(dtype, count)), None

    def _array(self, dtype: Dtype, shape: Sequence[int], content: bytes) -> abi.Array:
        array = abi.Array(dtype=dtype, rank=len(shape), size_bytes=len(content))
        array.shape[: len(shape)] = tuple(shape)
        data = exactly(content)
        array.data = ctypes.addressof(data)
        self._kept.append(data)
        return array


def _kind(tensor: Tensor) -> str:
    """Which of the chosen formats a tensor is kept in; empty: it is no matrix."""
    if tensor is Tensor.HEAD:
        return "head"
    if tensor in _EXPERTS:
        return "expert"
    return "dense" if tensor in _DENSE | _SMALL else ""
