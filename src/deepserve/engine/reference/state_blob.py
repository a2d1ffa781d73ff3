"""A sequence's state as bytes that another process with the same weights can go on from; the native core's layout.

Little endian, nothing aligned:

    8 bytes  the magic, whose last byte is the version
    int64    position: tokens the state covers
    int32    number of layers, head_dim, index_head_dim, sliding_window, type of rows, type of index keys
    int32    for each layer: ratio, overlaps, selects
    then for each layer
      window    the rows of the last `sliding_window` positions, ascending
      and where it compresses, for its compressor and then, if it selects, for the index compressor
      entries   all complete ones
      tail      content and gate, float32, of the tokens since the last complete entry; where entries overlap, also of
                the block before. The position bias is in the gate already

Rows (window and entries) are float32 or bfloat16. Index keys are float32, or int8 with a float32 factor after each
key. Here float32 is written and every type is read. Nothing in a blob proves who wrote it; that is up to its keeper.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepserve.engine.network_config import NetworkConfig

from .state import SequenceState, StatePool

MAGIC = b"DSSTATE\x01"

_HEADER = struct.Struct("<8sq6i")
_LAYER = struct.Struct("<3i")
_FLOAT32, _BFLOAT16, _INT8 = 0, 1, 1


class _Section(NamedTuple):
    """`length` consecutive vectors of one part of a layer's state."""

    part: Literal["window", "entries", "tail"]
    layer: int
    compressor: int
    """0 main, 1 index."""
    first: int
    """Position of the first vector; number of the first entry."""
    length: int
    width: int


def dump_state(pool: StatePool, config: NetworkConfig, state: SequenceState) -> bytes:
    parts = [_header(config, state.length)]
    for section in _sections(config, state.length):
        values = _stored(pool, state, section).cpu().numpy()
        parts.append(values.astype("<f4", copy=False).tobytes())
    return b"".join(parts)


def load_state(pool: StatePool, config: NetworkConfig, blob: bytes) -> SequenceState:
    """A new state in the pool.

    Raises ValueError for a blob that is damaged or of another network, EngineFailure when memory is used up.
    """
    position, row_type, key_type = _check_header(config, blob)
    sections = []
    offset = _HEADER.size + config.num_hidden_layers * _LAYER.size
    for section in _sections(config, position):
        element = _element(section, row_type, key_type)
        sections.append((section, element, offset))
        offset += section.length * element.itemsize
    if len(blob) != offset:
        raise ValueError(f"the state has {len(blob)} bytes, {position} tokens of this network take {offset}")
    state = pool.create(position)
    try:
        for section, element, offset in sections:
            values = _decode(np.frombuffer(blob, element, section.length, offset))
            if not np.isfinite(values).all():
                raise ValueError(
                    f"the state's {section.part} of layer {section.layer} holds values that are not finite"
                )
            _store(pool, state, section, torch.from_numpy(values))
    except ValueError:
        pool.free(state)
        raise
    return state


def _sections(config: NetworkConfig, position: int) -> Iterator[_Section]:
    """What follows the header, in order."""
    for layer, ratio in enumerate(config.compress_ratios):
        first = max(0, position - config.sliding_window)
        yield _Section("window", layer, 0, first, position - first, config.head_dim)
        if not ratio:
            continue
        is_csa = config.kind(layer) == "csa"
        widths = (config.head_dim, config.index_head_dim) if is_csa else (config.head_dim,)
        first = max(0, position // ratio * ratio - (ratio if is_csa else 0))
        for compressor, width in enumerate(widths):
            yield _Section("entries", layer, compressor, 0, position // ratio, width)
            # A content and a gate; two halves of each where entries overlap.
            yield _Section("tail", layer, compressor, first, position - first, (4 if is_csa else 2) * width)


def _layer_plan(config: NetworkConfig, layer: int) -> tuple[int, int, int]:
    """ratio, overlaps, selects"""
    is_csa = config.kind(layer) == "csa"
    return config.compress_ratios[layer], is_csa, is_csa


def _header(config: NetworkConfig, position: int) -> bytes:
    sizes = (config.num_hidden_layers, config.head_dim, config.index_head_dim, config.sliding_window)
    layers = (_LAYER.pack(*_layer_plan(config, layer)) for layer in range(config.num_hidden_layers))
    return _HEADER.pack(MAGIC, position, *sizes, _FLOAT32, _FLOAT32) + b"".join(layers)


def _check_header(config: NetworkConfig, blob: bytes) -> tuple[int, int, int]:
    """-> position, type of rows, type of index keys"""
    if len(blob) < _HEADER.size:
        raise ValueError(f"the state has {len(blob)} bytes, too few to be one")
    magic, position, *sizes, row_type, key_type = _HEADER.unpack_from(blob)
    if magic != MAGIC:
        raise ValueError("the state begins with other bytes than this version's")
    names = ("num_hidden_layers", "head_dim", "index_head_dim", "sliding_window")
    for name, theirs in zip(names, sizes, strict=True):
        if theirs != getattr(config, name):
            raise ValueError(f"the state's {name} is {theirs}, this network's {getattr(config, name)}")
    if len(blob) < _HEADER.size + config.num_hidden_layers * _LAYER.size:
        raise ValueError("the state ends within its list of layers")
    for layer in range(config.num_hidden_layers):
        plan = _LAYER.unpack_from(blob, _HEADER.size + layer * _LAYER.size)
        if plan != _layer_plan(config, layer):
            raise ValueError(
                f"layer {layer} of the state has ratio, overlaps, selects {plan}, this network's "
                f"{tuple(map(int, _layer_plan(config, layer)))}"
            )
    if not 0 <= position <= config.max_position_embeddings:
        raise ValueError(f"the state's position {position} is outside 0..{config.max_position_embeddings}")
    if row_type not in (_FLOAT32, _BFLOAT16) or key_type not in (_FLOAT32, _INT8):
        raise ValueError(f"the state's types of rows {row_type} and of index keys {key_type} are unknown")
    return position, row_type, key_type


def _element(section: _Section, row_type: int, key_type: int) -> np.dtype[Any]:
    """How one vector lies in the blob. Any: numpy's types of records"""
    is_key = section.part == "entries" and section.compressor == 1
    if is_key and key_type == _INT8:
        return np.dtype([("values", "i1", (section.width,)), ("factor", "<f4")])
    is_short = section.part != "tail" and not is_key and row_type == _BFLOAT16
    return np.dtype(("<u2" if is_short else "<f4", (section.width,)))


def _decode(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Vectors as read -> float32 [length, width], in memory of its own. Any: numpy's types of records"""
    if stored.dtype.names:
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the values
            keys: NDArray[np.float32] = stored["values"].astype(np.float32) * stored["factor"][:, None]
        return keys
    if stored.dtype == np.dtype("<u2"):
        # bfloat16 is the upper half of a float32.
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def _stored(pool: StatePool, state: SequenceState, section: _Section) -> Tensor:
    """-> [length, width]"""
    positions = torch.arange(section.first, section.first + section.length)
    match section.part:
        case "window":
            return pool.windows[section.layer][state.slot, positions % pool.ring]
        case "entries":
            return pool.entries[section.layer][section.compressor][state.blocks].flatten(0, 1)[: section.length]
        case "tail":
            tail = pool.tails[section.layer][section.compressor]
            return tail[state.slot, positions % tail.shape[1]]


def _store(pool: StatePool, state: SequenceState, section: _Section, values: Tensor) -> None:
    """values [length, width] on the CPU"""
    positions = torch.arange(section.first, section.first + section.length)
    match section.part:
        case "window":
            target = pool.windows[section.layer]
            target[state.slot, positions % pool.ring] = values.to(target.device)
        case "entries":
            target = pool.entries[section.layer][section.compressor]
            per_block = target.shape[1]
            for place, block in zip(range(0, section.length, per_block), state.blocks, strict=False):
                part = values[place : place + per_block]
                target[block, : len(part)] = part.to(target.device)
        case "tail":
            target = pool.tails[section.layer][section.compressor]
            target[state.slot, positions % target.shape[1]] = values.to(target.device)
