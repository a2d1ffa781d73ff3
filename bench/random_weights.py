"""Random weights in the published layout and types, for measurements that need a network but no sense.

    write_checkpoint(folder, NANO)            a folder that engines load
    random_tensors(fields, dense="F8_E4M3")   the same tensors one by one, never all in memory

Matrices have variance 1 / inputs, so that activations stay in range; everything else is drawn so that nothing it does
can vanish. FP4 and FP8 matrices are random codes under one scale that gives the same variance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.shapes import Fields
from deepserve.engine.network_config import decode_config, encode_config
from deepserve.engine.reference.network import Network

DenseType = Literal["BF16", "F8_E4M3"]
ExpertType = Literal["BF16", "I8"]

FP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FP4_GROUP = 32
FP8_BLOCK = 128
_E8M0_BIAS = 127

_STORED_AS_FP8 = re.compile(r".*\.(attn\.(wq_a|wq_b|wkv|wo_a|wo_b)|indexer\.wq_b|shared_experts\.w[123])\.weight")
_STORED_AS_FLOAT32 = re.compile(r".*(hc_head_|hc_attn_|hc_ffn_).*|.*\.(attn_sink|ape|bias)")


class RawTensor(NamedTuple):
    """One tensor as its file holds it; `dtype` as safetensors spells it. I8 is FP4, two values to a byte."""

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


def random_tensors(
    fields: Fields, *, dense: DenseType = "BF16", experts: ExpertType = "I8", seed: int = 0
) -> Iterator[tuple[str, RawTensor]]:
    """Every tensor of the network by its official name; scales follow the tensor they belong to.

    dense: type of what the published checkpoints store as FP8; experts: of the routed experts.
    """
    config = decode_config(fields)
    with torch.device("meta"):
        named = Network(config).named_tensors()
    generator = np.random.default_rng(seed)
    for name, tensor in named.items():
        shape = tuple(tensor.shape)
        if name.endswith("tid2eid"):
            order = generator.random((shape[0], config.n_routed_experts)).argsort(-1)
            yield name, _raw("I64", order[:, : shape[1]].astype(np.int64))
        elif ".ffn.experts." in name and experts == "I8":
            yield from _random_fp4(name, shape, generator)
        elif _STORED_AS_FP8.fullmatch(name) and dense == "F8_E4M3":
            yield from _random_fp8(name, shape, generator)
        else:
            values = _random_values(name, shape, generator)
            is_wide = _STORED_AS_FLOAT32.fullmatch(name) is not None
            yield name, _raw("F32", values) if is_wide else _raw("BF16", _round_to_bf16(values))


def write_checkpoint(folder: Path, fields: Fields, *, dense: DenseType = "BF16", experts: ExpertType = "I8") -> None:
    """config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = encode_config(decode_config(fields))
    if dense == "F8_E4M3":
        config["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "scale_fmt": "ue8m0",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
            "activation_scheme": "dynamic",
        }
    if experts == "I8":
        config["expert_dtype"] = "fp4"
    (folder / "config.json").write_text(json.dumps(config))
    tensors = dict(random_tensors(fields, dense=dense, experts=experts))
    write_safetensors(folder / "model.safetensors", tensors)


def write_safetensors(path: Path, tensors: dict[str, RawTensor]) -> None:
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.data.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            file.write(tensor.data.data)


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


def _random_fp4(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Iterator[tuple[str, RawTensor]]:
    outputs, inputs = shape
    codes = np.frombuffer(generator.bytes(outputs * inputs // 2), np.uint8).reshape(outputs, inputs // 2)
    scale = _scale_byte(float(np.sqrt((FP4_VALUES**2).mean())), inputs)
    yield name, _raw("I8", codes)
    yield _scale_name(name), _raw("F8_E8M0", np.full((outputs, inputs // FP4_GROUP), scale, np.uint8))


def _random_fp8(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Iterator[tuple[str, RawTensor]]:
    outputs, inputs = shape
    # Exponents 1..4 of 15 with all mantissas and signs: the range that weights really have, and no NaN.
    codes = np.frombuffer(generator.bytes(outputs * inputs), np.uint8).reshape(shape)
    codes = (codes & np.uint8(0x9F)) + np.uint8(0x08)
    exponents = np.arange(1, 5)[:, None] - 7
    values = 2.0**exponents * (1 + np.arange(8) / 8)
    scale = _scale_byte(float(np.sqrt((values**2).mean())), inputs)
    blocks = (-(-outputs // FP8_BLOCK), -(-inputs // FP8_BLOCK))
    yield name, _raw("F8_E4M3", codes)
    yield _scale_name(name), _raw("F8_E8M0", np.full(blocks, scale, np.uint8))


def _scale_name(name: str) -> str:
    return name.removesuffix(".weight") + ".scale"


def _scale_byte(rms: float, inputs: int) -> int:
    """The power of two that brings codes of this root mean square nearest to inputs^-0.5, as E8M0."""
    return round(float(np.log2(inputs**-0.5 / rms))) + _E8M0_BIAS


def _round_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """To nearest, ties to even; values are finite."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _raw(
    dtype: str, values: NDArray[np.float32] | NDArray[np.uint16] | NDArray[np.uint8] | NDArray[np.int64]
) -> RawTensor:
    return RawTensor(dtype, values.shape, np.ascontiguousarray(values).reshape(-1).view(np.uint8))
