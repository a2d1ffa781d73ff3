"""A checkpoint folder as every engine sees it: its configuration, and where each published tensor lies on disk.

Everything is compared with what config.json promises before any data is read, and all faults are reported together.
Values are not looked at here: whoever reads them refuses what is not a number.

Quantised matrices carry their scales: FP8 (`F8_E4M3`) one per 128 x 128 block, FP4 (`I8`: two E2M1 values to a byte,
the low half first) one per 32 inputs. FP4 spelled `U8` or `F4` and E8M0 scales spelled `U8` are listed as `I8` and
`F8_E8M0`; the bytes are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from deepserve.core.errors import CheckpointError
from deepserve.engine.inventory import (
    FP4_GROUP,
    FP8_BLOCK,
    ExpectedTensor,
    expected_tensors,
    scale_shape,
    stored_shape,
)
from deepserve.engine.network_config import NetworkConfig, load_config
from deepserve.engine.safetensors import StoredTensor, read_tensors
from deepserve.engine.tensor_names import published_name

_SCALE_DTYPES = {"F8_E4M3": ("F8_E8M0", "F32"), "I8": ("F8_E8M0",)}

_MOST_NAMED = 20
"""Faults of one kind that an error spells out."""
_HOPELESS = 100_000
"""Missing tensors after which nobody wants to know how many more there are."""

_STACKED = re.compile(r"(layers\.\d+\.ffn\.experts\.)(gate_up_proj|w2|down_proj)(_scale_inv)?")


class Checkpoint(msgspec.Struct, frozen=True):
    folder: Path
    config: NetworkConfig
    tensors: Mapping[str, StoredTensor]
    """By published name, layer by layer; scales hang on their matrices."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find every tensor of the network that config.json describes; `mtp.*`, the draft head, is left out.

    Raises CheckpointError naming every tensor that is missing, unknown, misshapen, of another type or there twice.
    """
    config = load_config(_inside(folder, "config.json"))
    return _Comparison(config, _read_files(folder)).checkpoint(folder)


class _Found(NamedTuple):
    spelled: str
    """The name in its file, for messages."""
    tensor: StoredTensor


class _Comparison:
    """What the files hold against what the configuration promises."""

    def __init__(self, config: NetworkConfig, files: Mapping[Path, Mapping[str, StoredTensor]]) -> None:
        self._config = config
        self._found: dict[str, _Found] = {}
        self._wrong: list[str] = []
        self._excused: set[str] = set()
        """Beginnings of names that are not missing but part of something wrong."""
        for tensors in files.values():
            for spelled, tensor in tensors.items():
                self._take(published_name(spelled), _Found(spelled, tensor))
        for name in list(self._found):
            if match := _STACKED.fullmatch(name):
                self._unstack(*self._found.pop(name), match)

    def checkpoint(self, folder: Path) -> Checkpoint:
        tensors: dict[str, StoredTensor] = {}
        missing: list[str] = []
        for name, expected in expected_tensors(self._config):
            if name in self._found:
                tensors[name] = self._compared(name, self._found.pop(name), expected)
            elif not name.startswith(tuple(self._excused)):
                missing.append(f"missing {name}")
                if len(missing) == _HOPELESS:
                    break
        unknown = [f"unknown {found.spelled}" for found in self._found.values()]
        if len(missing) == _HOPELESS:
            unknown.clear()  # not everything has been looked up
        faults = [*_some(missing, "missing"), *_some(unknown, "unknown"), *_some(self._wrong, "wrong")]
        if faults:
            raise CheckpointError(f"{folder}: the weights do not fit config.json: {'; '.join(faults)}")
        return Checkpoint(folder, self._config, tensors)

    def _take(self, name: str, found: _Found) -> None:
        if name.startswith("mtp."):
            return
        other = self._found.setdefault(name, found)
        if other is not found:
            self._wrong.append(
                f"{found.spelled} in {found.tensor.path.name} is there already, as {other.spelled} in "
                f"{other.tensor.path.name}"
            )

    def _unstack(self, spelled: str, stack: StoredTensor, name: re.Match[str]) -> None:
        """Cut the experts of a layer out of one tensor [experts, outputs, inputs]; each is contiguous in it.

        `gate_up_proj` has for each expert the rows of w1, then those of w3.
        """
        prefix, kind, scale = name.groups()
        parts = ("w1", "w3") if kind == "gate_up_proj" else ("w2",)
        num, width = self._config.n_routed_experts, self._config.moe_intermediate_size
        fault = ""
        if len(stack.shape) != 3 or stack.shape[0] != num or stack.shape[1] % len(parts) or not stack.size_bytes:
            fault = f"must stack {' and '.join(parts)} of {num} experts"
        elif scale and len(parts) == 2 and stack.shape[1] != 2 * width and width % FP8_BLOCK:
            fault = f"has blocks in both w1 and w3, as {FP8_BLOCK} does not divide moe_intermediate_size {width}"
        if fault:
            self._wrong.append(f"{spelled} is {list(stack.shape)}, {fault}")
            self._excused.add(prefix)
            return
        rows = stack.shape[1] // len(parts)
        for expert in range(num):
            for place, part in enumerate(parts):
                cut = _rows(stack, expert * stack.shape[1] + place * rows, rows)
                published = f"{prefix}{expert}.{part}.{'scale' if scale else 'weight'}"
                self._take(published, _Found(f"{part} of expert {expert} in {spelled}", cut))

    def _compared(self, name: str, found: _Found, expected: ExpectedTensor) -> StoredTensor:
        """The tensor with its scale; every difference is noted."""
        tensor = _as_packed(found.tensor) if "I8" in expected.dtypes else found.tensor
        self._compare(found.spelled, tensor, stored_shape(tensor.dtype, expected.shape), expected.dtypes)
        if tensor.dtype not in _SCALE_DTYPES or tensor.dtype not in expected.dtypes:
            return tensor
        if tensor.dtype == "I8" and expected.shape[-1] % FP4_GROUP:
            self._wrong.append(
                f"{found.spelled} is FP4, so its inputs must be a multiple of {FP4_GROUP}, not {expected.shape[-1]}"
            )
        scale_name = f"{name.removesuffix('.weight')}.scale"
        if scale_name not in self._found:
            self._wrong.append(f"missing {scale_name}, as {found.spelled} is {tensor.dtype}")
            return tensor
        spelled, scale = self._found.pop(scale_name)
        if scale.dtype == "U8":
            scale = msgspec.structs.replace(scale, dtype="F8_E8M0")
        self._compare(spelled, scale, scale_shape(tensor.dtype, expected.shape), _SCALE_DTYPES[tensor.dtype])
        return msgspec.structs.replace(tensor, scale=scale)

    def _compare(self, spelled: str, tensor: StoredTensor, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
        if tensor.shape != shape:
            self._wrong.append(f"{spelled} is {list(tensor.shape)}, must be {list(shape)}")
        if tensor.dtype not in dtypes:
            one_of = "one of " if len(dtypes) > 1 else ""
            self._wrong.append(f"{spelled} is {tensor.dtype}, must be {one_of}{', '.join(dtypes)}")


def _some(faults: list[str], kind: str) -> list[str]:
    rest = len(faults) - _MOST_NAMED
    return faults if rest <= 0 else [*faults[:_MOST_NAMED], f"and {rest} more {kind}"]


def _rows(tensor: StoredTensor, first: int, count: int) -> StoredTensor:
    """Rows of a tensor with more than two dimensions, whose first ones are counted through, as a matrix."""
    columns = tensor.shape[-1]
    row_bytes = tensor.size_bytes // (tensor.shape[0] * tensor.shape[1])
    return StoredTensor(
        tensor.path, tensor.dtype, (count, columns), tensor.offset + first * row_bytes, count * row_bytes
    )


def _as_packed(tensor: StoredTensor) -> StoredTensor:
    """Other spellings of FP4."""
    if tensor.dtype == "U8":
        return msgspec.structs.replace(tensor, dtype="I8")
    if tensor.dtype == "F4" and tensor.shape:
        return msgspec.structs.replace(tensor, dtype="I8", shape=stored_shape("I8", tensor.shape))
    return tensor


def _read_files(folder: Path) -> dict[Path, dict[str, StoredTensor]]:
    """The tensors of every weight file, which must be those that the index promises, if there is one."""
    files = {}
    for path, promised in _weight_files(folder).items():
        files[path] = read_tensors(path)
        absent = sorted(set(promised) - set(files[path]))
        if absent:
            more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
            raise CheckpointError(
                f"{path}: lacks {', '.join(absent[:_MOST_NAMED])}{more}, which the index says it holds"
            )
    return files


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """The weight files, each with the tensors that the index promises in it."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return {_inside(folder, "model.safetensors"): []}
    try:
        weight_map = msgspec.json.decode(_inside(folder, index.name).read_bytes(), type=dict[str, Any])["weight_map"]
        placed = msgspec.convert(weight_map, dict[str, str])
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError) as error:
        raise CheckpointError(f"{index}: not a weight index: {error}") from error
    files: dict[str, list[str]] = {}
    for name, file in placed.items():
        files.setdefault(file, []).append(name)
    found: dict[Path, list[str]] = {}
    for file, names in files.items():
        found.setdefault(_inside(folder, file, holding=names[0]), []).extend(names)
    return found


def _inside(folder: Path, name: str, *, holding: str = "") -> Path:
    """A file of the checkpoint; an index or a link may not lead out of its folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder}: {name!r} leads out of the checkpoint's folder")
    if not path.is_file():
        raise CheckpointError(f"{folder}: {name} is missing{f', which should hold {holding}' if holding else ''}")
    return path
