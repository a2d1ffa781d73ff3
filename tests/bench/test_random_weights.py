"""Random networks are whole checkpoints, and llama.cpp gets the same numbers as we do."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.gguf import pack_mxfp4, write_gguf
from bench.random_weights import DenseType, RawTensor, as_float32, random_tensors, write_checkpoint
from bench.shapes import NANO

from deepserve.engine.checkpoint import open_checkpoint
from deepserve.engine.network_config import decode_config

SHAPE = {**NANO, "vocab_size": 64, "n_routed_experts": 4, "compress_ratios": [0, 4, 128], "num_hidden_layers": 3}


@pytest.mark.parametrize("dense", ["BF16", "F8_E4M3"])
def test_a_written_checkpoint_holds_the_tensors_drawn(dense: DenseType, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SHAPE, dense=dense)
    stored = open_checkpoint(tmp_path).tensors
    data = (tmp_path / "model.safetensors").read_bytes()
    for name, tensor in random_tensors(SHAPE, dense=dense):
        for drawn, place in ((tensor, stored[name]), (tensor.scale, stored[name].scale)):
            assert (drawn is None) == (place is None), name
            if drawn is not None and place is not None:
                assert (drawn.dtype, drawn.shape) == (place.dtype, place.shape), name
                assert drawn.data.tobytes() == data[place.offset : place.offset + place.size_bytes], name


def test_matrices_have_the_variance_of_one_over_their_inputs() -> None:
    for name, tensor in as_float32(dict(random_tensors(SHAPE))).items():
        if name.endswith("w1.weight"):
            values = tensor.data.view(np.float32)
            assert 0.5 < values.std() * tensor.shape[1] ** 0.5 < 2, name


def test_fp4_keeps_its_values_in_the_blocks_of_gguf() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (3, 32), np.uint8)
    scales = generator.integers(120, 134, (3, 2), np.uint8)
    matrix = RawTensor("I8", (3, 32), codes.reshape(-1), RawTensor("F8_E8M0", (3, 2), scales.reshape(-1)))
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    unpacked = []
    blocks = pack_mxfp4(matrix).reshape(-1, 17)
    for block in blocks.tolist():
        scale = 2.0 ** (block[0] - 127)
        unpacked += [values[byte & 15] * scale for byte in block[1:]]
        unpacked += [values[byte >> 4] * scale for byte in block[1:]]
    assert unpacked == as_float32({"w": matrix})["w"].data.view(np.float32).tolist()


def test_a_gguf_file_lists_every_tensor_at_its_place(tmp_path: Path) -> None:
    """Read back with nothing but the specification: header, metadata, then names, sizes, types and offsets."""
    config, tensors = decode_config(SHAPE), dict(random_tensors(SHAPE))
    write_gguf(tmp_path / "model.gguf", config, tensors)
    data = (tmp_path / "model.gguf").read_bytes()
    at = 0

    def take(layout: str) -> tuple[Any, ...]:  # Any: the layout says
        nonlocal at
        values = struct.unpack_from(f"<{layout}", data, at)
        at += struct.calcsize(f"<{layout}")
        return values

    def take_text() -> str:
        nonlocal at
        (length,) = take("Q")
        at += length
        return data[at - length : at].decode()

    assert data[:4] == b"GGUF"
    _, version, num_tensors, num_fields = take("4sIQQ")
    assert version == 3
    sizes = {4: "I", 5: "i", 6: "f", 7: "?"}
    fields: dict[str, object] = {}
    for _ in range(num_fields):
        key = take_text()
        (kind,) = take("I")
        if kind == 8:
            fields[key] = take_text()
        elif kind == 9:
            item, length = take("IQ")
            fields[key] = take(f"{length}{sizes[item]}")
        else:
            (fields[key],) = take(sizes[kind])
    assert fields["general.architecture"] == "deepseek4"
    assert fields["deepseek4.attention.compress_ratios"] == (0, 4, 128)
    listed = {}
    for _ in range(num_tensors):
        name = take_text()
        (rank,) = take("I")
        shape = take(f"{rank}Q")[::-1]
        listed[name] = (shape, *take("IQ"))
    start = -(-at // 32) * 32
    shape, kind, offset = listed["blk.1.attn_q_b.weight"]
    drawn = tensors["layers.1.attn.wq_b.weight"]
    assert (shape, kind) == (drawn.shape, 30)
    assert data[start + offset :].startswith(drawn.data.tobytes())
    shape, kind, offset = listed["blk.2.ffn_down_exps.weight"]
    assert (shape, kind) == ((4, 256, 128), 39)
    second = pack_mxfp4(tensors["layers.2.ffn.experts.1.w2.weight"]).tobytes()
    assert data[start + offset + len(second) :].startswith(second)
    assert offset % 32 == 0
