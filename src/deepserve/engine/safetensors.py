"""The safetensors file format: which tensors a file holds and where, without reading them; and writing files.

A file is 8 bytes with the length of a JSON object, the object (name -> type, shape, first and last byte), and the data.
Nothing here knows what the tensors are for, nor any array library.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from deepserve.core.errors import CheckpointError

_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

_MAX_RANK = 64
_LARGEST = (1 << 63) - 1

_ELEMENT_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6,
    "F4": 4,
}  # fmt: skip
"""Every type of the format."""


class StoredTensor(msgspec.Struct, frozen=True):
    """A tensor as a contiguous range of bytes of a file, row-major and little endian; not read yet."""

    path: Path
    dtype: str
    """As the format spells it, e.g. `BF16`."""
    shape: tuple[int, ...]
    offset: int
    """From the start of the file."""
    size_bytes: int
    scale: StoredTensor | None = None
    """What its values are to be multiplied by, block by block; the file format does not know this."""


class NewTensor(msgspec.Struct, frozen=True):
    """A tensor to be written; its bytes are asked for when their turn has come."""

    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], bytes | memoryview]


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a file; of the data itself nothing is read.

    Raises CheckpointError naming the file, and the tensor if one is at fault: the header is damaged or too long, a
    name appears twice, a type is unknown, a size does not follow from type and shape, the tensors overlap or leave
    gaps, the file ends early or too late.
    """
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            header, data_start = _read_header(path, file, size_bytes)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    tensors = {name: _stored(path, name, entry, data_start) for name, entry in header.items() if name != "__metadata__"}
    _check_ranges(path, tensors, data_start, size_bytes)
    return tensors


def write_safetensors(
    path: Path, tensors: Mapping[str, NewTensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file tensor by tensor; it appears whole or not at all.

    Wider elements come first, so that each tensor is aligned for its type.
    """
    ordered = sorted(tensors.items(), key=lambda item: -_ELEMENT_BITS[item[1].dtype])
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + _size_bytes(tensor.dtype, tensor.shape)
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (begin, end)}
    header = msgspec.json.encode(entries)
    header += b" " * (-len(header) % 8)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            for name, tensor in ordered:
                written = file.write(tensor.data())
                if written != _size_bytes(tensor.dtype, tensor.shape):
                    raise ValueError(f"{name}: {written} bytes for {tensor.dtype} {list(tensor.shape)}")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read_header(path: Path, file: IO[bytes], size_bytes: int) -> tuple[dict[str, object], int]:
    """-> the decoded object, and where the data starts"""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise CheckpointError(f"{path}: not a whole safetensors file: it has {size_bytes} bytes")
    length = int.from_bytes(prefix, "little")
    if length > _MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: not a safetensors file: its header would have {length} bytes, at most {_MAX_HEADER_BYTES} "
            "are allowed"
        )
    if 8 + length > size_bytes:
        raise CheckpointError(
            f"{path}: not a whole safetensors file: it has {size_bytes} bytes, its header alone takes {8 + length}"
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_distinct)
    except _DuplicateName as error:
        raise CheckpointError(f"{path}: the header names {error} twice") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a safetensors file: its header is not an object")
    return header, 8 + length


class _DuplicateName(Exception):
    """A JSON object has the same key twice; which value holds would be a guess."""


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateName(name)
            seen.add(name)
    return found


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _stored(path: Path, name: str, fields: object, data_start: int) -> StoredTensor:
    """Check one tensor of the header by itself."""
    try:
        entry = msgspec.convert(fields, _Entry, strict=True)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: {name}: {error}") from error
    if entry.dtype not in _ELEMENT_BITS:
        raise CheckpointError(f"{path}: {name} is of the unknown type {entry.dtype!r}")
    if len(entry.shape) > _MAX_RANK:
        raise CheckpointError(f"{path}: {name} has {len(entry.shape)} dimensions, more than any tensor")
    if min((*entry.shape, *entry.data_offsets)) < 0:
        raise CheckpointError(f"{path}: {name} has a negative size or place: {list(entry.shape)}, {entry.data_offsets}")
    begin, end = entry.data_offsets
    if max(begin, end) > _LARGEST:
        raise CheckpointError(f"{path}: {name} lies beyond any file")
    try:
        size_bytes = _size_bytes(entry.dtype, entry.shape)
    except ValueError as error:
        raise CheckpointError(f"{path}: {name}: {error}") from error
    if end - begin != size_bytes:
        raise CheckpointError(
            f"{path}: {name} is {entry.dtype} {list(entry.shape)}, {size_bytes} bytes, but {end - begin} are given"
        )
    return StoredTensor(path, entry.dtype, entry.shape, data_start + begin, size_bytes)


def _size_bytes(dtype: str, shape: Sequence[int]) -> int:
    bits = _ELEMENT_BITS[dtype]
    for size in shape:
        bits *= size
        if bits > 8 * _LARGEST:
            raise ValueError(f"the shape {list(shape)} has more elements than any file")
    if bits % 8:
        raise ValueError(f"{dtype} {list(shape)} does not fill whole bytes")
    return bits // 8


def _check_ranges(path: Path, tensors: Mapping[str, StoredTensor], data_start: int, size_bytes: int) -> None:
    """The data must be the tensors one after another, no byte more or less."""
    lost = sorted(name for name, tensor in tensors.items() if tensor.offset + tensor.size_bytes > size_bytes)
    if lost:
        raise CheckpointError(
            f"{path}: not a whole safetensors file: it ends before the data of {', '.join(lost[:3])}"
            + (f" and {len(lost) - 3} more" if lost[3:] else "")
        )
    end, before = data_start, ""
    for name, tensor in _by_place(tensors):
        if tensor.offset < end:
            raise CheckpointError(f"{path}: {name} overlaps {before}")
        if tensor.offset > end:
            raise CheckpointError(f"{path}: {tensor.offset - end} bytes before {name} belong to no tensor")
        end, before = end + tensor.size_bytes, name
    if end < size_bytes:
        raise CheckpointError(f"{path}: the last {size_bytes - end} bytes belong to no tensor")


def _by_place(tensors: Mapping[str, StoredTensor]) -> Iterable[tuple[str, StoredTensor]]:
    return sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size_bytes))
