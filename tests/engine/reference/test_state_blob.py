"""States as bytes: they continue with the same bits in another engine, and what does not fit is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from deepserve.core.errors import EngineFailure
from deepserve.engine.interface import Row
from deepserve.engine.reference.engine import ReferenceEngine
from tests.engine.reference.oracle import TINY, oracle, ours
from tests.engine.reference.test_engine import MEMORY, cold, feed, some_tokens

CHANGES: dict[str, Any] = {"index_topk": 10, "sliding_window": 24, "compress_ratios": [0, 4, 32, 4]}
HEADER_BYTES = 8 + 8 + 6 * 4 + 4 * 12


def engine_of(**changes: Any) -> ReferenceEngine:
    return ReferenceEngine(ours(oracle(**changes), **changes), memory_bytes=MEMORY)


@pytest.fixture(scope="module")
def engine() -> Iterator[ReferenceEngine]:
    shared = engine_of(**CHANGES)
    yield shared
    assert shared.free_blocks_ratio() == 1.0


@pytest.fixture(scope="module")
def other() -> Iterator[ReferenceEngine]:
    """Another process, as it were: its own memory, the same weights."""
    shared = engine_of(**CHANGES)
    yield shared
    assert shared.free_blocks_ratio() == 1.0


def dumped(engine: ReferenceEngine, tokens: list[int]) -> bytes:
    sequence = engine.create()
    if tokens:
        feed(engine, sequence, tokens)
    snapshot = engine.snapshot(sequence)
    engine.free(sequence)
    blob = engine.dump(snapshot)
    engine.release(snapshot)
    return blob


def test_a_loaded_state_continues_bit_for_bit_at_every_position(
    engine: ReferenceEngine, other: ReferenceEngine
) -> None:
    """Dumped at 0 to 300 and loaded elsewhere, each continues as the original did: one token, then up to eight."""
    tokens = some_tokens(330)
    expected = cold(engine, tokens)
    sequence = engine.create()
    for position in range(301):
        snapshot = engine.snapshot(sequence)
        blob = engine.dump(snapshot)
        loaded = other.load(blob)
        assert (loaded.position, loaded.size_bytes) == (position, snapshot.size_bytes)
        assert other.dump(loaded) == blob
        restored = other.restore(loaded)
        other.release(loaded)
        engine.release(snapshot)
        more = feed(other, restored, tokens[position : position + 1])
        more = torch.cat((more, feed(other, restored, tokens[position + 1 : position + 9])))
        assert torch.equal(more, expected[position : position + 9]), position
        other.free(restored)
        engine.step([Row(sequence=sequence, tokens=tokens[position : position + 1])])
    engine.free(sequence)


def test_the_layout_is_the_documented_one(engine: ReferenceEngine) -> None:
    """Sizes by arithmetic of the document, not of the code."""
    position, window = 101, 24
    head, index = TINY["head_dim"], TINY["index_head_dim"]
    blob = dumped(engine, some_tokens(position))
    assert struct.unpack_from("<8sq6i", blob) == (b"DSSTATE\x01", position, 4, head, index, window, 0, 0)
    assert struct.unpack_from("<12i", blob, 40) == (0, 0, 0, 4, 1, 1, 32, 0, 0, 4, 1, 1)
    swa = window * head
    # 25 entries of 4 tokens are complete; one token and the block before are in the tail, two halves each.
    csa = window * head + sum(25 * width + (4 + 1) * 2 * 2 * width for width in (head, index))
    hca = window * head + 3 * head + (101 - 96) * 2 * head
    assert len(blob) == HEADER_BYTES + 4 * (swa + csa + hca + csa)
    assert len(dumped(engine, [])) == HEADER_BYTES


def in_short_types(blob: bytes) -> tuple[bytes, bytes]:
    """The same state with bfloat16 rows and int8 keys, and what it stands for in float32; position 101 of CHANGES."""
    head, index, window = TINY["head_dim"], TINY["index_head_dim"], 24
    tail = 5 * 4
    csa = [("row", window, head), ("row", 25, head), ("plain", tail, head), ("key", 25, index), ("plain", tail, index)]
    hca = [("row", window, head), ("row", 3, head), ("plain", 5 * 2, head)]
    short = [blob[:32] + struct.pack("<2i", 1, 1) + blob[40:HEADER_BYTES]]
    meaning = [blob[:HEADER_BYTES]]
    offset = HEADER_BYTES
    for kind, count, width in [("row", window, head), *csa, *hca, *csa]:
        values = np.frombuffer(blob, "<f4", count * width, offset).reshape(count, width)
        offset += values.nbytes
        if kind == "row":
            upper = values.view("<u4") >> 16
            short.append(upper.astype("<u2").tobytes())
            meaning.append((upper << 16).tobytes())
        elif kind == "key":
            for key in values:
                factor = np.float32(np.abs(key).max() / 127)
                rounded = np.rint(key / factor).astype("i1")
                short.append(rounded.tobytes() + struct.pack("<f", factor))
                meaning.append((rounded.astype("<f4") * factor).tobytes())
        else:
            short.append(values.tobytes())
            meaning.append(values.tobytes())
    assert offset == len(blob)
    return b"".join(short), b"".join(meaning)


def test_every_type_is_read(engine: ReferenceEngine) -> None:
    short, meaning = in_short_types(dumped(engine, some_tokens(101)))
    loaded = engine.load(short)
    assert engine.dump(loaded) == meaning
    engine.release(loaded)


def edited(blob: bytes, offset: int, layout: str, value: object) -> bytes:
    changed = bytearray(blob)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "fault"),
    [
        (0, "<B", 0, "other bytes"),
        (7, "<B", 2, "other bytes"),
        (8, "<q", -1, "position -1 is outside"),
        (8, "<q", 1025, "position 1025 is outside"),
        (8, "<q", 102, "bytes, 102 tokens"),
        (8, "<q", 1 << 62, "outside"),
        (16, "<i", 5, "num_hidden_layers is 5"),
        (16, "<i", -1, "num_hidden_layers is -1"),
        (20, "<i", 64, "head_dim is 64"),
        (24, "<i", 8, "index_head_dim is 8"),
        (28, "<i", 128, "sliding_window is 128"),
        (32, "<i", 2, "types of rows 2"),
        (36, "<i", -1, "index keys -1"),
        (32, "<i", 1, "bytes, 101 tokens"),
        (36, "<i", 1, "bytes, 101 tokens"),
        (40, "<i", 4, "layer 0 of the state"),
        (60, "<i", 0, "layer 1 of the state"),
        (64, "<i", 128, "layer 2 of the state"),
        (HEADER_BYTES, "<f", float("nan"), "window of layer 0 holds values that are not finite"),
        (-4, "<f", float("inf"), "tail of layer 3 holds values that are not finite"),
    ],
)
def test_a_damaged_state_is_refused(
    engine: ReferenceEngine, offset: int, layout: str, value: object, fault: str
) -> None:
    blob = dumped(engine, some_tokens(101))
    with pytest.raises(ValueError, match=fault):
        engine.load(edited(blob, offset % len(blob), layout, value))
    assert engine.free_blocks_ratio() == 1.0


def test_a_state_of_another_length_is_refused(engine: ReferenceEngine) -> None:
    blob = dumped(engine, some_tokens(101))
    for size in (0, 7, 39, 40, HEADER_BYTES - 1, HEADER_BYTES, len(blob) // 2, len(blob) - 1):
        with pytest.raises(ValueError, match="state"):
            engine.load(blob[:size])
    with pytest.raises(ValueError, match="bytes"):
        engine.load(blob + b"\0")
    with pytest.raises(ValueError, match="other bytes"):
        engine.load(b"\x7fELF" + bytes(200))


def test_a_state_of_another_network_is_refused(engine: ReferenceEngine) -> None:
    foreign = engine_of(**{**CHANGES, "compress_ratios": [4, 0, 32, 4]})
    with pytest.raises(ValueError, match="layer 0 of the state has ratio, overlaps, selects"):
        engine.load(dumped(foreign, some_tokens(20)))


def test_only_held_snapshots_are_dumped(engine: ReferenceEngine) -> None:
    sequence = engine.create()
    snapshot = engine.snapshot(sequence)
    engine.free(sequence)
    engine.release(snapshot)
    with pytest.raises(ValueError, match="not a snapshot"):
        engine.dump(snapshot)


def test_a_full_memory_refuses_a_state_and_changes_nothing(engine: ReferenceEngine) -> None:
    blob = dumped(engine, some_tokens(300))
    small = ReferenceEngine(ours(oracle(**CHANGES), **CHANGES), memory_bytes=2_000_000)
    num_fitting = min(small.info.capacity_states, small.info.capacity_tokens // 384)
    held = [small.load(blob) for _ in range(num_fitting)]
    full = small.free_blocks_ratio()
    for _ in range(2):
        with pytest.raises(EngineFailure, match="state memory is full"):
            small.load(blob)
    assert small.free_blocks_ratio() == full
    for snapshot in held:
        small.release(snapshot)
    assert small.free_blocks_ratio() == 1.0
