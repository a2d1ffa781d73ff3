"""Networks from checkpoint folders and into them: every published type is read, and written if wanted.

What a checkpoint holds and whether it is complete is `engine/checkpoint.py`'s. Quantised matrices become the float32
numbers they stand for, exactly; this engine multiplies in float32 whatever the checkpoint's types are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from deepserve.core.errors import CheckpointError
from deepserve.engine.checkpoint import open_checkpoint
from deepserve.engine.inventory import FP4_GROUP, FP8_BLOCK, ExpectedTensor, expected_tensors, scale_shape, stored_shape
from deepserve.engine.network_config import NetworkConfig, encode_config
from deepserve.engine.safetensors import NewTensor, StoredTensor, write_safetensors

from .network import Network
from .quantisation import dequantise_fp4, dequantise_fp8, fp4_scales, fp8_scales, quantise_fp4, quantise_fp8

Quantisation = Literal["none", "fp4", "fp8+fp4"]
"""none: no matrix is quantised; fp4: routed experts are FP4; fp8+fp4: attention and shared experts are FP8, too, as
published."""

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}
_SPELLINGS = {dtype: spelling for spelling, dtype in _TYPES.items()}

_FP4_FIELDS = {"expert_dtype": "fp4"}
_FP8_FIELDS = {
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
    }
}
_QUANTISED_FIELDS: dict[Quantisation, dict[str, Any]] = {  # Any: as JSON has them
    "none": {},
    "fp4": _FP4_FIELDS,
    "fp8+fp4": _FP8_FIELDS | _FP4_FIELDS,
}
"""What the published config.json files say of the types above."""


def load_network(folder: Path, *, device: torch.device | str = "cpu") -> Network:
    """Read config.json and the weights beside it into a float32 network.

    Raises CheckpointError naming every tensor that is missing, unknown, misshapen or of another type, or the first
    one that holds impossible values; `mtp.*`, the draft head, is left out.
    """
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        network = Network(checkpoint.config)
    network = network.to_empty(device=device)
    with ExitStack() as stack:
        files: dict[Path, BufferedReader] = {}
        for name, tensor in network.named_tensors().items():
            stored = checkpoint.tensors[name]
            for path in {stored.path, stored.scale.path if stored.scale else stored.path} - set(files):
                files[path] = stack.enter_context(path.open("rb"))
            tensor.copy_(_values(folder, name, stored, files))
            _inspect(folder, checkpoint.config, name, tensor)
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith(".load"):
            buffer.zero_()
    return network.requires_grad_(False).eval()


def save_network(
    network: Network,
    folder: Path,
    *,
    matrices: torch.dtype = torch.bfloat16,
    quantisation: Quantisation = "none",
) -> None:
    """Write config.json and model.safetensors in the published layout; each file appears whole or not at all.

    matrices: type of everything the published checkpoints store as bfloat16, and of what they quantise unless
    `quantisation` says to do the same; the rest is float32 and int64.

    Raises ValueError naming a matrix that cannot be quantised: its inputs do not fill FP4's groups, or not all its
    values are finite.
    """
    tensors = network.named_tensors()
    written: dict[str, NewTensor] = {}
    for name, expected in expected_tensors(network.config):
        written |= _written(name, tensors[name].detach(), expected, matrices, quantisation)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", written, metadata={"format": "pt"})
    fields = encode_config(network.config) | _QUANTISED_FIELDS[quantisation]
    unfinished = folder / ".config.json.part"
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n")
    os.replace(unfinished, folder / "config.json")


def _values(folder: Path, name: str, stored: StoredTensor, files: dict[Path, BufferedReader]) -> Tensor:
    """What a tensor stands for."""
    values = _read(stored, files)
    if stored.scale is None:
        return values
    scale = _read(stored.scale, files)
    if not scale.float().isfinite().all():
        raise CheckpointError(f"{folder}: the scale of {name} holds values that are not finite")
    return dequantise_fp4(values, scale) if stored.dtype == "I8" else dequantise_fp8(values, scale)


def _read(stored: StoredTensor, files: dict[Path, BufferedReader]) -> Tensor:
    """A tensor's elements in memory of their own, so that a file that shrinks meanwhile is an error and no crash."""
    content = torch.empty(stored.size_bytes, dtype=torch.uint8)
    file = files[stored.path]
    file.seek(stored.offset)
    if file.readinto(content.numpy().data) != stored.size_bytes:
        raise CheckpointError(f"{stored.path}: became shorter while it was read")
    return content.view(_TYPES[stored.dtype]).view(stored.shape)


def _inspect(folder: Path, config: NetworkConfig, name: str, value: Tensor) -> None:
    """Refuse values that no network can have been trained to."""
    if value.is_floating_point():
        if not value.isfinite().all():
            raise CheckpointError(f"{folder}: {name} holds values that are not finite")
        return
    if value.min() < 0 or value.max() >= config.n_routed_experts:
        raise CheckpointError(f"{folder}: {name} names experts outside 0..{config.n_routed_experts - 1}")
    ordered = value.sort(dim=-1).values
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise CheckpointError(f"{folder}: {name} gives a token the same expert twice")


def _written(
    name: str, value: Tensor, expected: ExpectedTensor, matrices: torch.dtype, quantisation: Quantisation
) -> dict[str, NewTensor]:
    """A tensor, and its scale if it gets one, in the types of the file."""
    shape = expected.shape
    if expected.storage in ("i64", "f32"):
        dtype = "I64" if expected.storage == "i64" else "F32"
        return {name: NewTensor(dtype, shape, lambda: _bytes(value.to(_TYPES[dtype])))}
    if expected.storage == "bf16" or quantisation == "none" or (expected.storage == "fp8" and quantisation == "fp4"):
        return {name: NewTensor(_SPELLINGS[matrices], shape, lambda: _bytes(value.to(matrices)))}
    if not value.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite")
    scale_name = f"{name.removesuffix('.weight')}.scale"
    quantise: Callable[[Tensor], Tensor]
    if expected.storage == "fp4":
        if shape[1] % FP4_GROUP:
            raise ValueError(f"{name} has {shape[1]} inputs, but FP4 needs a multiple of {FP4_GROUP}")
        dtype, quantise, scales = "I8", quantise_fp4, fp4_scales
    else:
        dtype, quantise, scales = "F8_E4M3", quantise_fp8, fp8_scales
    return {
        name: NewTensor(dtype, stored_shape(dtype, shape), lambda: _bytes(quantise(value.float()))),
        scale_name: NewTensor("F8_E8M0", scale_shape(dtype, shape), lambda: _bytes(scales(value.float()))),
    }


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()  # Any: numpy's arrays are buffers
    return memoryview(array)
