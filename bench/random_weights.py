"""Random weights in the published layout and types, for measurements that need a network but no sense.

    write_checkpoint(folder, NANO)            a folder that engines load
    random_tensors(fields, dense="F8_E4M3")   the same tensors one by one, never all in memory

Matrices have variance 1 / inputs, so that activations stay in range; everything else is drawn so that nothing it does
can vanish. FP4 and FP8 matrices are random codes under one scale that gives about the same variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.shapes import Fields
from deepserve.engine.inventory import FP4_GROUP, FP8_BLOCK, ExpectedTensor, expected_tensors, scale_shape, stored_shape
from deepserve.engine.network_config import NetworkConfig, decode_config, encode_config
from deepserve.engine.safetensors import NewTensor, write_safetensors

DenseType = Literal["BF16", "F8_E4M3"]

FP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_E8M0_BIAS = 127


class RawTensor(NamedTuple):
    """One tensor as its file holds it; `dtype` as safetensors spells it. I8 is FP4, two values to a byte."""

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    scale: RawTensor | None = None


def random_tensors(fields: Fields, *, dense: DenseType = "BF16", seed: int = 0) -> Iterator[tuple[str, RawTensor]]:
    """Every tensor of the network by its published name, experts in FP4.

    dense: type of the other matrices that the published checkpoints store as FP8
    """
    config = decode_config(fields)
    generator = np.random.default_rng(seed)
    for name, expected in expected_tensors(config):
        yield name, _random_tensor(name, expected, config, dense, generator)


def write_checkpoint(folder: Path, fields: Fields, *, dense: DenseType = "BF16") -> None:
    """config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = encode_config(decode_config(fields)) | {"expert_dtype": "fp4"}
    if dense == "F8_E4M3":
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}
    (folder / "config.json").write_bytes(msgspec.json.encode(config))
    stored: dict[str, NewTensor] = {}
    for name, tensor in random_tensors(fields, dense=dense):
        stored[name] = _to_write(tensor)
        if tensor.scale is not None:
            stored[name.removesuffix(".weight") + ".scale"] = _to_write(tensor.scale)
    write_safetensors(folder / "model.safetensors", stored)


def _to_write(tensor: RawTensor) -> NewTensor:
    return NewTensor(tensor.dtype, tensor.shape, lambda: tensor.data.data)


def as_float32(tensors: Mapping[str, RawTensor]) -> dict[str, RawTensor]:
    """The same values, nothing quantised or rounded. FP8 is not among what this reads."""
    return {name: _widen(tensor) for name, tensor in tensors.items()}


def _widen(tensor: RawTensor) -> RawTensor:
    match tensor.dtype:
        case "F32" | "I64":
            return tensor
        case "BF16":
            values = (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            return _raw("F32", values.reshape(tensor.shape))
        case "I8":
            assert tensor.scale is not None
            codes = np.stack((tensor.data & 0x0F, tensor.data >> 4), axis=-1).reshape(-1, FP4_GROUP)
            scales = np.exp2(tensor.scale.data.astype(np.float32) - _E8M0_BIAS)
            values = np.concatenate((FP4_VALUES, -FP4_VALUES))[codes] * scales[:, None]
            return _raw("F32", values.reshape(tensor.shape[0], -1))
        case _:
            raise ValueError(f"no float32 of {tensor.dtype}")


def _random_tensor(
    name: str, expected: ExpectedTensor, config: NetworkConfig, dense: DenseType, generator: np.random.Generator
) -> RawTensor:
    shape = expected.shape
    match expected.storage:
        case "i64":
            order = generator.random((shape[0], config.n_routed_experts)).argsort(-1)
            return _raw("I64", order[:, : shape[1]].astype(np.int64))
        case "fp4":
            rms = float(np.sqrt((FP4_VALUES**2).mean()))
            return _quantised("I8", shape, _random_bytes(shape[0] * shape[1] // 2, generator), rms)
        case "fp8" if dense == "F8_E4M3":
            # Exponents 1..4 of 15 with all mantissas and signs: the range that weights really have, and no NaN.
            codes = (_random_bytes(shape[0] * shape[1], generator) & np.uint8(0x9F)) + np.uint8(0x08)
            values = 2.0 ** (np.arange(1, 5)[:, None] - 7) * (1 + np.arange(8) / 8)
            return _quantised("F8_E4M3", shape, codes, float(np.sqrt((values**2).mean())))
        case "f32":
            return _raw("F32", _random_values(name, shape, generator))
        case _:
            return _raw("BF16", _round_to_bf16(_random_values(name, shape, generator)))


def _random_values(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    values = generator.standard_normal(shape, np.float32)
    kind = name.split(".")[-1].removeprefix("hc_attn_").removeprefix("hc_ffn_").removeprefix("hc_head_")
    if "norm" in name:
        return 1 + values / np.float32(8)
    if kind == "scale":
        return np.full(shape, 0.1, np.float32)
    if kind in ("attn_sink", "ape", "base"):
        return values / np.float32(2)
    if kind == "bias":
        return values / np.float32(16)
    return values * np.float32(shape[-1] ** -0.5)


def _random_bytes(number: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    return np.frombuffer(generator.bytes(number), np.uint8)


def _quantised(dtype: str, shape: tuple[int, ...], codes: NDArray[np.uint8], rms: float) -> RawTensor:
    """rms: root mean square of what the codes stand for, before the scale."""
    power_of_two = round(float(np.log2(shape[1] ** -0.5 / rms)))
    sizes = scale_shape(dtype, shape)
    scale = _raw("F8_E8M0", np.full(sizes, power_of_two + _E8M0_BIAS, np.uint8))
    return RawTensor(dtype, stored_shape(dtype, shape), codes, scale)


def _round_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """To nearest, ties to even; values are finite."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _raw(
    dtype: str, values: NDArray[np.float32] | NDArray[np.uint16] | NDArray[np.uint8] | NDArray[np.int64]
) -> RawTensor:
    return RawTensor(dtype, values.shape, np.ascontiguousarray(values).reshape(-1).view(np.uint8))
