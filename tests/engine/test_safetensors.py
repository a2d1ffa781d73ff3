"""The file format: what was written is found again, and a header that lies about its file is refused by name."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.core.errors import CheckpointError
from deepserve.engine.safetensors import NewTensor, StoredTensor, read_tensors, write_safetensors

HEALTHY: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [5], "data_offsets": [24, 34]},
    "scalar": {"dtype": "I64", "shape": [], "data_offsets": [34, 42]},
    "empty": {"dtype": "F16", "shape": [0, 7], "data_offsets": [34, 34]},
}


def file_of(folder: Path, header: object, *, num_data_bytes: int = 42) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(num_data_bytes))
    return path


def with_b(**changes: Any) -> dict[str, Any]:
    return {**HEALTHY, "b": {**HEALTHY["b"], **changes}}


def test_every_tensor_is_found_with_its_place(tmp_path: Path) -> None:
    path = file_of(tmp_path, HEALTHY)
    start = path.stat().st_size - 42
    assert read_tensors(path) == {
        "a": StoredTensor(path, "F32", (2, 3), start, 24),
        "b": StoredTensor(path, "BF16", (5,), start + 24, 10),
        "scalar": StoredTensor(path, "I64", (), start + 34, 8),
        "empty": StoredTensor(path, "F16", (0, 7), start + 34, 0),
    }


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([1], "not an object"),
        (b'{"a": %s}' % (b"9" * 5000), "not JSON"),
        ({"a": 3}, "a: "),
        (with_b(dtype=3), "b: .*dtype"),
        (with_b(dtype="F8_E9M9"), "b is of the unknown type 'F8_E9M9'"),
        (with_b(shape="5"), "b: .*shape"),
        (with_b(shape=[5.0]), "b: .*shape"),
        (with_b(shape=[True] * 5), "b: .*shape"),
        (with_b(shape=[-5]), "b has a negative size"),
        (with_b(shape=[6]), r"b is BF16 \[6\], 12 bytes, but 10 are given"),
        (with_b(shape=[1 << 62, 1 << 62]), "b: the shape .* more elements than any file"),
        (with_b(shape=[1 << 62, 1 << 62, 0]), "b: the shape .* more elements than any file"),
        (with_b(shape=[1] * 1000), "b has 1000 dimensions"),
        (with_b(shape=[10**30]), "b: "),
        (with_b(dtype="F4", shape=[3]), r"b: F4 \[3\] does not fill whole bytes"),
        (with_b(data_offsets=[24]), "b: .*data_offsets"),
        (with_b(data_offsets=[34, 24]), "b is BF16 .* but -10 are given"),
        (with_b(data_offsets=[-10, 0]), "b has a negative size or place"),
        (with_b(data_offsets=[1 << 63, (1 << 63) + 10]), "b lies beyond any file"),
        (with_b(data_offsets=[20, 30]), "b overlaps a"),
        (with_b(data_offsets=[1000, 1010]), r"ends before the data of b"),
        ({name: HEALTHY[name] for name in ("a", "scalar")}, "10 bytes before scalar belong to no tensor"),
        ({name: HEALTHY[name] for name in ("b", "scalar")}, "24 bytes before b belong to no tensor"),
        ({name: HEALTHY[name] for name in ("a", "b")}, "the last 8 bytes belong to no tensor"),
        ({}, "the last 42 bytes belong to no tensor"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path: Path, header: object, fault: str) -> None:
    with pytest.raises(CheckpointError, match=rf"x\.safetensors: .*{fault}"):
        read_tensors(file_of(tmp_path, header))


def test_a_name_that_appears_twice_is_refused(tmp_path: Path) -> None:
    """Which of the two counts would be a guess, and readers guess differently."""
    entry = '{"dtype": "U8", "shape": [42], "data_offsets": [0, 42]}'
    header = f'{{"a": {entry}, "a": {entry}}}'.encode()
    with pytest.raises(CheckpointError, match="names a twice"):
        read_tensors(file_of(tmp_path, header))


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)
    with pytest.raises(CheckpointError, match="100000001 bytes, at most 100000000"):
        read_tensors(path)


def test_a_cut_off_file_is_refused_at_every_length(tmp_path: Path) -> None:
    path = file_of(tmp_path, HEALTHY)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"x\.safetensors: not a whole safetensors file"):
            read_tensors(path)
    path.write_bytes(whole[:-40])
    with pytest.raises(CheckpointError, match=r"it ends before the data of a, b, empty and 1 more$"):
        read_tensors(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.safetensors: No such file"):
        read_tensors(tmp_path / "x.safetensors")


@given(header=st.binary(max_size=200), data=st.binary(max_size=50))
def test_no_bytes_at_all_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with suppress(CheckpointError):
        assert read_tensors(path) == {}


def test_a_written_file_is_read_back_by_us_and_by_its_inventors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    contents = {"bytes": bytes(range(7)), "floats": bytes(range(24)), "scales": b"\x7f", "none": b""}
    tensors = {
        "bytes": NewTensor("I8", (7,), lambda: contents["bytes"]),
        "floats": NewTensor("F32", (2, 3), lambda: memoryview(contents["floats"])),
        "scales": NewTensor("F8_E8M0", (1, 1), lambda: contents["scales"]),
        "none": NewTensor("F64", (0,), lambda: contents["none"]),
    }
    write_safetensors(path, tensors, metadata={"format": "pt"})
    whole = path.read_bytes()
    for name, stored in read_tensors(path).items():
        assert (stored.dtype, stored.shape) == (tensors[name].dtype, tensors[name].shape)
        assert whole[stored.offset : stored.offset + stored.size_bytes] == contents[name]
        assert stored.offset % {"F32": 4, "F64": 8}.get(stored.dtype, 1) == 0
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("floats").tobytes() == contents["floats"]
        assert file.get_slice("scales").get_dtype() == "F8_E8M0"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")

    def failing() -> bytes:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_safetensors(path, {"a": NewTensor("F32", (1,), failing)})
    with pytest.raises(ValueError, match=r"a: 3 bytes for F32 \[1\]"):
        write_safetensors(path, {"a": NewTensor("F32", (1,), lambda: b"abc")})
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
