"""`csrc/deepserve_core.h` as ctypes see it; what each field means is said there.

Names are the header's without `ds_` and `DS_`, in the same order. A test reads the header and compares everything
here with it, so the two cannot drift apart. Knows nothing of where the library lies or how it is used.

Pointers to bytes (`const uint8_t *`) are `c_char_p`, so that Python's bytes pass as they are; pointers to anything
(`void *`) are plain addresses.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char, c_char_p, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from enum import IntEnum
from typing import Any

ABI_VERSION = 2
CHUNK_TOKENS = 128


class Status(IntEnum):
    OK = 0
    INVALID = 1
    CHECKPOINT = 2
    OUT_OF_MEMORY = 3
    IO = 4


class Dtype(IntEnum):
    F32 = 0
    F16 = 1
    BF16 = 2
    F64 = 3
    F8_E4M3 = 4
    F8_E8M0 = 5
    FP4 = 6
    I32 = 7
    I64 = 8


class Format(IntEnum):
    F32 = 0
    BF16 = 1
    INT8 = 2
    FP4 = 3
    FP4_EXACT = 4
    FP8 = 5
    MAPPED_BF16 = 6
    MAPPED_FP4 = 7
    MAPPED_FP8 = 8


class StateType(IntEnum):
    F32 = 0
    BF16 = 1


class Tensor(IntEnum):
    EMBED = 0
    HEAD = 1
    NORM = 2
    HC_HEAD_FN = 3
    HC_HEAD_BASE = 4
    HC_HEAD_SCALE = 5
    ATTN_NORM = 6
    FFN_NORM = 7
    HC_ATTN_FN = 8
    HC_ATTN_BASE = 9
    HC_ATTN_SCALE = 10
    HC_FFN_FN = 11
    HC_FFN_BASE = 12
    HC_FFN_SCALE = 13
    WQ_A = 14
    Q_NORM = 15
    WQ_B = 16
    WKV = 17
    KV_NORM = 18
    WO_A = 19
    WO_B = 20
    ATTN_SINK = 21
    COMPRESSOR_WKV = 22
    COMPRESSOR_WGATE = 23
    COMPRESSOR_APE = 24
    COMPRESSOR_NORM = 25
    INDEX_WQ_B = 26
    INDEX_WEIGHTS = 27
    INDEX_WKV = 28
    INDEX_WGATE = 29
    INDEX_APE = 30
    INDEX_NORM = 31
    GATE = 32
    GATE_BIAS = 33
    GATE_TABLE = 34
    EXPERT_W1 = 35
    EXPERT_W2 = 36
    EXPERT_W3 = 37
    SHARED_W1 = 38
    SHARED_W2 = 39
    SHARED_W3 = 40


class Want(IntEnum):
    NOTHING = 0
    TOKEN = 1
    LOGITS = 2


class MaskState(IntEnum):
    AWAITED = 0
    READY = 1
    FAILED = 2


class RowFaultKind(IntEnum):
    FINE = 0
    NOT_FINITE = 1
    NOTHING_ALLOWED = 2
    NO_MASK = 3


class Fault(Structure):
    _fields_ = (("message", c_char * 512),)

    @property
    def text(self) -> str:
        return bytes(self.message).decode("utf-8", errors="replace")


class Layer(Structure):
    _fields_ = (
        ("ratio", c_int32),
        ("overlaps", c_int32),
        ("selects", c_int32),
        ("is_hash_routed", c_int32),
        ("rotation", c_int32),
    )


class Network(Structure):
    _fields_ = (
        ("abi_version", c_int32),
        ("vocab_size", c_int32),
        ("hidden_size", c_int32),
        ("num_layers", c_int32),
        ("num_heads", c_int32),
        ("head_dim", c_int32),
        ("rope_dim", c_int32),
        ("q_rank", c_int32),
        ("o_groups", c_int32),
        ("o_rank", c_int32),
        ("window", c_int32),
        ("index_heads", c_int32),
        ("index_dim", c_int32),
        ("index_topk", c_int32),
        ("num_experts", c_int32),
        ("experts_per_token", c_int32),
        ("expert_width", c_int32),
        ("streams", c_int32),
        ("sinkhorn_steps", c_int32),
        ("max_context", c_int32),
        ("routed_scale", c_float),
        ("swiglu_limit", c_float),
        ("hc_eps", c_float),
        ("norm_eps", c_float),
        ("layers", POINTER(Layer)),
        ("frequencies", POINTER(c_float) * 2),
    )


class Options(Structure):
    _fields_ = (
        ("dense_format", c_int32),
        ("expert_format", c_int32),
        ("head_format", c_int32),
        ("state_type", c_int32),
        ("num_threads", c_int32),
        ("memory_bytes", c_int64),
        ("isa", c_char_p),
    )


class Array(Structure):
    _fields_ = (
        ("dtype", c_int32),
        ("rank", c_int32),
        ("shape", c_int64 * 3),
        ("data", c_void_p),
        ("size_bytes", c_int64),
    )


class LateMask(Structure):
    _fields_ = (
        ("bits", c_char_p),
        ("num_bytes", c_int64),
        ("state", c_int32),
    )


class DrawSpec(Structure):
    """`ds_draw`; its own name, because `Draw` is the engine interface's."""

    _fields_ = (
        ("temperature", c_double),
        ("top_p", c_double),
        ("min_p", c_double),
        ("repetition_penalty", c_double),
        ("frequency_penalty", c_double),
        ("presence_penalty", c_double),
        ("seed", c_uint64),
        ("position", c_uint64),
        ("top_k", c_int32),
        ("num_top_logprobs", c_int32),
        ("num_biases", c_int32),
        ("num_prompt_tokens", c_int32),
        ("num_counts", c_int32),
        ("has_mask", c_int32),
        ("bias_tokens", POINTER(c_int32)),
        ("bias_values", POINTER(c_double)),
        ("prompt_tokens", POINTER(c_int32)),
        ("count_tokens", POINTER(c_int32)),
        ("counts", POINTER(c_int32)),
        ("mask", c_char_p),
        ("mask_bytes", c_int64),
        ("late_mask", POINTER(LateMask)),
    )


class RowSpec(Structure):
    """`ds_row`; its own name, because `Row` is the engine interface's."""

    _fields_ = (
        ("sequence", c_int64),
        ("tokens", POINTER(c_int32)),
        ("num_tokens", c_int32),
        ("want", c_int32),
        ("draw", POINTER(DrawSpec)),
        ("logits", POINTER(c_float)),
    )


class DrawnToken(Structure):
    """`ds_drawn`; its own name, because `Drawn` is the engine interface's."""

    _fields_ = (
        ("token", c_int32),
        ("fault", c_int32),
        ("num_top", c_int32),
        ("top_tokens", c_int32 * 20),
        ("logprob", c_double),
        ("top_logprobs", c_double * 20),
    )


class Info(Structure):
    _fields_ = (
        ("weight_bytes", c_int64),
        ("active_weight_bytes", c_int64),
        ("block_bytes", c_int64),
        ("slot_bytes", c_int64),
        ("num_blocks", c_int64),
        ("num_slots", c_int64),
        ("free_blocks", c_int64),
        ("free_slots", c_int64),
        ("num_threads", c_int32),
        ("has_huge_pages", c_int32),
        ("isa", c_char * 16),
    )


_ENGINE = c_void_p
_FAULT = POINTER(Fault)
_NUMBER = POINTER(c_int64)  # where a call writes a size, a count or a sequence

FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {  # Any: ctypes has no common type for types of C
    "ds_abi_version": (c_int32, ()),
    "ds_isas": (c_char_p, ()),
    "ds_engine_new": (c_int32, (POINTER(Network), POINTER(Options), POINTER(_ENGINE), _FAULT)),
    "ds_engine_delete": (None, (_ENGINE,)),
    "ds_engine_put": (c_int32, (_ENGINE, c_int32, c_int32, c_int32, POINTER(Array), POINTER(Array), _FAULT)),
    "ds_engine_seal": (c_int32, (_ENGINE, _FAULT)),
    "ds_engine_info": (None, (_ENGINE, POINTER(Info))),
    "ds_engine_save_packed": (c_int32, (_ENGINE, c_char_p, c_char_p, _FAULT)),
    "ds_engine_load_packed": (c_int32, (_ENGINE, c_char_p, c_char_p, _FAULT)),
    "ds_sequence_new": (c_int32, (_ENGINE, _NUMBER, _FAULT)),
    "ds_sequence_fork": (c_int32, (_ENGINE, c_int64, _NUMBER, _FAULT)),
    "ds_sequence_free": (c_int32, (_ENGINE, c_int64, _FAULT)),
    "ds_sequence_length": (c_int32, (_ENGINE, c_int64, _NUMBER, _FAULT)),
    "ds_sequence_blob_size": (c_int32, (_ENGINE, c_int64, _NUMBER, _FAULT)),
    "ds_sequence_save": (c_int32, (_ENGINE, c_int64, c_void_p, c_int64, _FAULT)),
    "ds_sequence_load": (c_int32, (_ENGINE, c_void_p, c_int64, _NUMBER, _FAULT)),
    "ds_step": (c_int32, (_ENGINE, POINTER(RowSpec), c_int32, POINTER(DrawnToken), _FAULT)),
    "ds_mask_settle": (None, (POINTER(LateMask), c_char_p, c_int64)),
    "ds_file_map": (c_void_p, (c_char_p, _NUMBER, _FAULT)),
    "ds_file_unmap": (None, (c_void_p, c_int64)),
    "ds_measure_read_bandwidth": (c_double, (c_int64, c_int32)),
    "ds_test_multiply": (
        c_int32,
        (c_char_p, c_int32, POINTER(Array), POINTER(Array), POINTER(c_float), c_int32, POINTER(c_float), _FAULT),
    ),
    "ds_test_select": (c_int32, (c_char_p, POINTER(c_float), c_int32, c_int32, POINTER(c_int32), _FAULT)),
}
"""Name -> type of what it returns, types of its arguments."""


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the signature of every function. Raises AttributeError for one that the library lacks."""
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
