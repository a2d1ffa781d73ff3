"""FP8 and FP4: exported networks hold what an independent reading of the formats says, rounded as the formats ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from deepserve.core.errors import CheckpointError
from deepserve.engine.checkpoint import open_checkpoint
from deepserve.engine.network_config import decode_config
from deepserve.engine.reference.checkpoint import load_network, save_network
from deepserve.engine.reference.network import Network
from deepserve.engine.reference.quantisation import (
    dequantise_fp4,
    dequantise_fp8,
    fp4_scales,
    fp8_scales,
    quantise_fp4,
    quantise_fp8,
)
from deepserve.engine.safetensors import StoredTensor
from tests.engine.reference.oracle import TINY

ODD: dict[str, Any] = {**TINY, "hidden_size": 160, "moe_intermediate_size": 96, "q_lora_rank": 136, "head_dim": 40}
"""Few sizes are multiples of 128, so that blocks end in the middle."""


def e4m3(code: int) -> float:
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def e2m1(code: int) -> float:
    sign, exponent, mantissa = -1.0 if code & 8 else 1.0, code >> 1 & 3, code & 1
    return sign * (mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


E4M3 = np.array([e4m3(code) for code in range(256)], np.float32)
E2M1 = np.array([e2m1(code) for code in range(16)], np.float32)
E8M0 = np.array([2.0 ** (code - 127) for code in range(255)] + [np.nan], np.float32)


def stored_bytes(stored: StoredTensor) -> NDArray[np.uint8]:
    return np.fromfile(stored.path, np.uint8, stored.size_bytes, offset=stored.offset).reshape(stored.shape)


def meaning(stored: StoredTensor) -> NDArray[np.float32]:
    """The values of a quantised matrix, element by element as the formats define them."""
    assert stored.scale is not None
    codes, scale = stored_bytes(stored), E8M0[stored_bytes(stored.scale)]
    values: NDArray[np.float32]
    if stored.dtype == "F8_E4M3":
        rows, columns = np.indices(codes.shape)
        values = E4M3[codes] * scale[rows // 128, columns // 128]
    else:
        rows, columns = np.indices((codes.shape[0], 2 * codes.shape[1]))
        values = E2M1[codes[rows, columns // 2] >> 4 * (columns % 2) & 15] * scale[rows, columns // 32]
    return values


@pytest.fixture(scope="module")
def network() -> Network:
    network = Network(decode_config(ODD))
    network.initialise(torch.Generator().manual_seed(0))
    return network


@pytest.fixture(scope="module")
def folder(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    save_network(network, folder, quantisation="fp8+fp4")
    return folder


def test_an_exported_network_loads_as_its_bytes_mean(folder: Path) -> None:
    loaded = load_network(folder).named_tensors()
    num_of_type = {"F8_E4M3": 0, "I8": 0}
    for name, stored in open_checkpoint(folder).tensors.items():
        if stored.scale is not None:
            num_of_type[stored.dtype] += 1
            assert np.array_equal(loaded[name].numpy(), meaning(stored)), name
    assert num_of_type == {"F8_E4M3": 4 * 8 + 2, "I8": 4 * 8 * 3}


def test_the_types_and_the_config_are_the_published_ones(folder: Path) -> None:
    tensors = open_checkpoint(folder).tensors
    types = {name: stored.dtype for name, stored in tensors.items()}
    for part in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "indexer.wq_b"):
        assert types[f"layers.1.attn.{part}.weight"] == "F8_E4M3"
    assert types["layers.0.ffn.shared_experts.w2.weight"] == "F8_E4M3"
    assert types["layers.0.ffn.experts.7.w2.weight"] == "I8"
    for name in ("embed", "head", "norm", "layers.2.attn.q_norm", "layers.1.ffn.gate", "layers.2.attn.compressor.wkv"):
        assert types[f"{name}.weight"] == "BF16"
    for name in ("hc_head_fn", "layers.3.ffn.gate.bias", "layers.1.attn.indexer.compressor.ape"):
        assert types[name] == "F32"
    assert types["layers.0.ffn.gate.tid2eid"] == "I64"
    fields = json.loads((folder / "config.json").read_text())
    assert fields["expert_dtype"] == "fp4"
    assert fields["quantization_config"] == {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    }


def test_every_value_was_rounded_to_the_nearest_one(network: Network, folder: Path) -> None:
    original = network.named_tensors()
    for name, stored in open_checkpoint(folder).tensors.items():
        if stored.scale is None or (".experts." in name and not name.startswith("layers.0.ffn.experts.0")):
            continue
        grid = E4M3[:127] if stored.dtype == "F8_E4M3" else E2M1[:8]
        group = (128, 128) if stored.dtype == "F8_E4M3" else (1, 32)
        values, scales = original[name].numpy(), E8M0[stored_bytes(stored.scale)]
        rows, columns = np.indices(values.shape)
        scale = scales[rows // group[0], columns // group[1]]
        magnitudes = np.abs(values) / scale
        assert magnitudes.max() <= grid[-1]
        for row, column in np.ndindex(scales.shape):
            block = magnitudes[row * group[0] : (row + 1) * group[0], column * group[1] : (column + 1) * group[1]]
            assert block.max() > grid[-1] / 2, "half the scale would have done"
        errors = np.abs(np.abs(meaning(stored)) / scale - magnitudes)
        assert np.array_equal(errors, np.abs(grid - magnitudes[..., None]).min(-1)), name
        assert np.array_equal(np.signbit(meaning(stored)), np.signbit(values))


def test_exporting_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """Every value is on its grid already, also where a smaller scale now suffices."""
    loaded = load_network(folder)
    save_network(loaded, tmp_path, quantisation="fp8+fp4")
    again = load_network(tmp_path).named_tensors()
    assert all(torch.equal(again[name], tensor) for name, tensor in loaded.named_tensors().items())


def test_all_codes_and_scales_mean_what_the_formats_say() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for scale_byte in (0, 1, 100, 127, 200, 254):
        scale = torch.full((1, 2), scale_byte, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        values = dequantise_fp8(codes.view(torch.float8_e4m3fn).view(1, 256), scale)[0].numpy()
        with np.errstate(over="ignore"):
            assert np.array_equal(values, E4M3 * E8M0[scale_byte], equal_nan=True)
        packed = codes.view(torch.int8).view(16, 16)
        scale = torch.full((16, 1), scale_byte, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        values = dequantise_fp4(packed, scale).numpy()
        with np.errstate(over="ignore"):
            assert np.array_equal(values[:, ::2].ravel(), E2M1[np.arange(256) & 15] * E8M0[scale_byte])
            assert np.array_equal(values[:, 1::2].ravel(), E2M1[np.arange(256) >> 4] * E8M0[scale_byte])


def test_ties_go_to_the_even_code() -> None:
    middles = (E2M1[:7] + E2M1[1:8]) / 2
    values = torch.zeros(1, 32)
    values[0, :7] = torch.from_numpy(middles)
    values[0, 7] = 6.0
    assert quantise_fp4(values)[0].tolist()[:4] == [0 | 2 << 4, 2 | 4 << 4, 4 | 6 << 4, 6 | 7 << 4]
    middles = (E4M3[:126] + E4M3[1:127]) / 2
    values = torch.from_numpy(np.append(middles, np.float32(448.0)))[None]
    codes = quantise_fp8(values)[0].view(torch.uint8).tolist()
    assert codes == [code + code % 2 for code in range(126)] + [126]


@pytest.mark.parametrize("outputs", [1, 127, 129])
@pytest.mark.parametrize("inputs", [1, 128, 130, 300])
def test_blocks_may_end_early(outputs: int, inputs: int) -> None:
    matrix = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) * 1000
    scale = fp8_scales(matrix).view(torch.float8_e8m0fnu)
    assert scale.shape == (-(-outputs // 128), -(-inputs // 128))
    error = (dequantise_fp8(quantise_fp8(matrix), scale) - matrix).abs()
    assert (error <= matrix.abs() / 16 + matrix.abs().max() * 2.0**-18).all()


@pytest.mark.parametrize("value", [1.5e38, 2.0**-126, 6 * 2.0**-127, 0.0])
def test_extreme_values_keep_their_scales_in_range(value: float) -> None:
    matrix = torch.zeros(1, 32)
    matrix[0, 3] = -value
    fp4 = dequantise_fp4(quantise_fp4(matrix), fp4_scales(matrix).view(torch.float8_e8m0fnu))
    fp8 = dequantise_fp8(quantise_fp8(matrix), fp8_scales(matrix).view(torch.float8_e8m0fnu))
    assert (fp4 - matrix).abs().max() <= value / 6
    assert (fp8 - matrix).abs().max() <= value / 16
    # Below the smallest scale values become zeros, not something large.
    matrix[0, 3] = 2.0**-149
    assert int(fp8_scales(matrix)[0, 0]) == int(fp4_scales(matrix)[0, 0]) == 0
    assert not quantise_fp4(matrix).any()
    assert not quantise_fp8(matrix).float().any()


def test_fp4_refuses_inputs_that_do_not_fill_groups(tmp_path: Path) -> None:
    network = Network(decode_config({**TINY, "moe_intermediate_size": 48}))
    network.initialise(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"layers\.0\.ffn\.experts\.0\.w2\.weight has 48 inputs.* multiple of 32"):
        save_network(network, tmp_path, quantisation="fp8+fp4")
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_are_not_quantised(tmp_path: Path) -> None:
    network = Network(decode_config(TINY))
    network.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.named_tensors()["layers.2.attn.wkv.weight"][3, 5] = torch.inf
    with pytest.raises(ValueError, match=r"layers\.2\.attn\.wkv\.weight holds values that are not finite"):
        save_network(network, tmp_path, quantisation="fp8+fp4")


def edited(folder: Path, target: Path, name: str, change: Any) -> Path:
    """A copy of the checkpoint with one byte of a tensor replaced, or the tensor by another."""
    tensors = load_file(folder / "model.safetensors")
    if isinstance(change, int):
        tensors[name].view(torch.uint8)[-1, -1] = change
    else:
        tensors[name] = change(tensors[name])
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


@pytest.mark.parametrize("matrix", ["layers.0.attn.wo_b", "layers.1.ffn.experts.3.w1"])
def test_a_scale_that_is_not_a_number_is_refused(folder: Path, tmp_path: Path, matrix: str) -> None:
    damaged = edited(folder, tmp_path, f"{matrix}.scale", 255)
    with pytest.raises(CheckpointError, match=rf"the scale of {matrix}\.weight holds values that are not finite"):
        load_network(damaged)


def test_an_fp8_value_that_is_not_a_number_is_refused(folder: Path, tmp_path: Path) -> None:
    damaged = edited(folder, tmp_path, "layers.3.attn.wkv.weight", 0x7F)
    with pytest.raises(CheckpointError, match=r"layers\.3\.attn\.wkv\.weight holds values that are not finite"):
        load_network(damaged)


def test_a_scale_beyond_float32_is_refused(folder: Path, tmp_path: Path) -> None:
    damaged = edited(folder, tmp_path, "layers.3.attn.wkv.scale", 254)
    with pytest.raises(CheckpointError, match=r"layers\.3\.attn\.wkv\.weight holds values that are not finite"):
        load_network(damaged)


def test_float32_scales_are_read(folder: Path, tmp_path: Path) -> None:
    """Base checkpoints have them; the same numbers in another type give the same network."""
    changed = edited(folder, tmp_path, "layers.1.attn.wq_b.scale", lambda scale: scale.float())
    name = "layers.1.attn.wq_b.weight"
    assert torch.equal(load_network(changed).named_tensors()[name], load_network(folder).named_tensors()[name])
