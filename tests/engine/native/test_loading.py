"""Loading: what is wrong with a checkpoint, a packed file or a state is said, and nothing of it gets in."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from deepserve.config import InstructionSet, WeightFormats
from deepserve.core.errors import CheckpointError, ConfigurationError, EngineFailure
from deepserve.engine.checkpoint import Checkpoint, open_checkpoint
from deepserve.engine.interface import Row
from deepserve.engine.native import abi, core
from deepserve.engine.native.abi import Format, StateType, Status
from deepserve.engine.native.core import Core
from deepserve.engine.native.engine import NativeEngine, load_native_engine
from deepserve.engine.native.shared_library import instruction_sets, load_library
from deepserve.engine.options import EngineOptions
from deepserve.engine.reference.checkpoint import load_network
from deepserve.engine.reference.engine import ReferenceEngine
from deepserve.engine.safetensors import StoredTensor
from tests.engine.native.networks import (
    KINDS,
    MEMORY_BYTES,
    NARROW,
    Checkpoints,
    Stored,
    cold,
    config_of,
    feed,
    random_network,
    save,
    some_tokens,
)
from tests.engine.reference import test_engine as reference

OPTIONS = EngineOptions(memory_bytes=MEMORY_BYTES)


@pytest.fixture
def copy_of(checkpoints: Checkpoints, tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint of a kind that a test may damage."""

    def copied(kind: str) -> Path:
        folder = tmp_path / kind
        if not folder.exists():
            shutil.copytree(checkpoints.folder(KINDS[kind].sizes, KINDS[kind].stored), folder)
        return folder

    return copied


def stored(folder: Path, name: str) -> StoredTensor:
    tensor = open_checkpoint(folder).tensors[name.removesuffix("'s scale")]
    if name.endswith("'s scale"):
        assert tensor.scale is not None
        return tensor.scale
    return tensor


def write_into(folder: Path, name: str, content: bytes, at: int = 0) -> None:
    """Overwrite some bytes of a tensor."""
    tensor = stored(folder, name)
    assert at + len(content) <= tensor.size_bytes
    with tensor.path.open("r+b") as file:
        file.seek(tensor.offset + at)
        file.write(content)


NAN_F32 = struct.pack("<f", float("nan"))
INF_BF16 = b"\x80\x7f"


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("fp32", "layers.1.attn.wq_b.weight", NAN_F32),
        ("fp32", "embed.weight", NAN_F32),
        ("bf16", "layers.0.ffn.experts.4.w2.weight", INF_BF16),
        ("bf16", "embed.weight", INF_BF16),
        ("bf16", "norm.weight", INF_BF16),
        ("bf16", "layers.3.hc_attn_fn", NAN_F32),
        ("bf16", "layers.2.attn.attn_sink", NAN_F32),
        ("bf16", "layers.1.ffn.gate.bias", NAN_F32),
        ("fp8", "layers.0.attn.wkv.weight", b"\x7f"),
        ("fp8", "layers.0.attn.wo_a.weight", b"\xff"),
        ("fp8", "layers.0.attn.wkv.weight's scale", b"\xff"),
        ("fp8", "layers.2.ffn.experts.1.w3.weight's scale", b"\xff"),
        ("mapped fp8", "layers.0.attn.wkv.weight's scale", b"\xff"),
        ("mapped fp8", "layers.2.ffn.experts.1.w3.weight's scale", b"\xff"),
        ("mapped fp8", "layers.1.attn_norm.weight", INF_BF16),
    ],
)
def test_a_value_that_is_not_finite_is_refused_by_name(
    copy_of: Callable[[str], Path], kind: str, name: str, content: bytes
) -> None:
    folder = copy_of(kind)
    write_into(folder, name, content, stored(folder, name).size_bytes - len(content))
    spelled = name.removesuffix("'s scale")
    with pytest.raises(CheckpointError, match=f"{spelled}.*(not finite|not numbers)"):
        load_native_engine(folder, msgspec.structs.replace(OPTIONS, is_mapped=KINDS[kind].is_mapped))


@pytest.mark.parametrize(("row", "fault"), [((0, 5), "outside 0..4"), ((-1, 2), "outside 0..4"), ((3, 3), "twice")])
def test_a_hash_table_that_leads_nowhere_is_refused(
    copy_of: Callable[[str], Path], row: tuple[int, int], fault: str
) -> None:
    folder = copy_of("bf16")
    write_into(folder, "layers.0.ffn.gate.tid2eid", struct.pack("<2q", *row), 16 * 300)
    with pytest.raises(CheckpointError, match=rf"layers\.0\.ffn\.gate\.tid2eid .*{fault}"):
        load_native_engine(folder, OPTIONS)


@pytest.mark.parametrize("name", ["layers.3.attn.indexer.compressor.ape", "norm.weight", "layers.0.ffn.gate.tid2eid"])
def test_the_core_itself_notices_what_is_missing(checkpoints: Checkpoints, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"missing {name}$"):
        Core(changed(checkpoints, name, None), OPTIONS)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("layers.1.attn.wkv.weight", {"shape": (23, 72)}, r"is \[23, 72\], must be \[24, 72\]"),
        ("layers.1.attn.wkv.weight", {"shape": (24 * 72,)}, r"is \[1728\], must be"),
        ("layers.1.attn.wkv.weight", {"size_bytes": 24 * 72 * 2 - 1}, "has 3455 bytes, must have 3456"),
        ("layers.1.attn.wkv.weight", {"dtype": "I64", "size_bytes": 24 * 72 * 8}, "must be stored as floating point"),
        ("layers.1.attn.wkv.weight", {"dtype": "F8_E4M3", "size_bytes": 24 * 72}, "needs scales"),
        ("layers.1.attn_norm.weight", {"dtype": "F8_E4M3", "size_bytes": 72}, "must be stored as floating point"),
        ("embed.weight", {"dtype": "I32", "size_bytes": 301 * 72 * 4}, "must be stored as floating point"),
        ("layers.0.ffn.gate.tid2eid", {"dtype": "BF16", "size_bytes": 301 * 4}, "must be stored as integers"),
    ],
)
def test_the_core_itself_notices_what_is_misshapen(
    checkpoints: Checkpoints, name: str, change: dict[str, Any], fault: str
) -> None:
    """It never reads beyond what a shape promises, whoever calls it."""
    with pytest.raises(CheckpointError, match=f"{name} {fault}"):
        Core(changed(checkpoints, name, change), OPTIONS)


def changed(checkpoints: Checkpoints, name: str, change: dict[str, Any] | None) -> Checkpoint:
    """An opened checkpoint with one tensor described otherwise, or left out."""
    opened = open_checkpoint(checkpoints.folder(NARROW, "bf16"))
    tensors = {other: tensor for other, tensor in opened.tensors.items() if other != name}
    if change is not None:
        tensors[name] = msgspec.structs.replace(opened.tensors[name], **change)
    return msgspec.structs.replace(opened, tensors=tensors)


# What the operator asks for


def test_another_version_of_the_abi_is_refused(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core asks its caller, too; that the library's version is asked is tested with loading it."""
    version = abi.ABI_VERSION
    monkeypatch.setattr(abi, "ABI_VERSION", version + 1)
    with pytest.raises(ConfigurationError, match=f"version {version + 1} of the ABI, this core version {version}"):
        load_native_engine(checkpoints.folder(NARROW, "bf16"), OPTIONS)


def test_an_instruction_set_that_is_not_here_is_named_with_those_that_are(checkpoints: Checkpoints) -> None:
    here = instruction_sets(load_library())
    missing: InstructionSet = "avx512" if "neon" in here else "neon"
    with pytest.raises(ConfigurationError, match=rf"{missing} is not in this build .* has {', '.join(here)}"):
        load_native_engine(checkpoints.folder(NARROW, "bf16"), EngineOptions(memory_bytes=MEMORY_BYTES, isa=missing))


@pytest.mark.parametrize("memory_bytes", [0, -1, 100_000])
def test_too_little_state_memory_is_refused_with_what_is_needed(checkpoints: Checkpoints, memory_bytes: int) -> None:
    folder = checkpoints.folder(NARROW, "bf16")
    with pytest.raises(ConfigurationError, match=r"too few, this model needs (\d+)") as caught:
        load_native_engine(folder, EngineOptions(memory_bytes=memory_bytes))
    needed = int(str(caught.value).rsplit(" ", 1)[1])
    assert load_native_engine(folder, EngineOptions(memory_bytes=needed)).free_blocks_ratio() == 1.0


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"compress_ratios": (0, 4, 24, 4)}, "layer 2: compress ratio 24 does not divide 128"),
        ({"compress_ratios": (0, 4, 256, 4)}, "layer 2: compress ratio 256 does not divide 128"),
        ({"hc_mult": 9}, "at most 8 streams"),
    ],
)
def test_a_network_beyond_the_core_is_refused(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    save(random_network(config_of(NARROW, **changes)), tmp_path, "bf16")
    with pytest.raises(ConfigurationError, match=fault):
        load_native_engine(tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("sizes", "status"),
    [
        ({"expert_width": 1 << 24, "hidden_size": 1 << 20}, Status.OUT_OF_MEMORY),
        ({"vocab_size": 1 << 24, "hidden_size": 1 << 22}, Status.OUT_OF_MEMORY),
        ({"vocab_size": 1 << 25}, Status.INVALID),
        ({"num_experts": 1 << 15}, Status.INVALID),
        ({"hidden_size": -1}, Status.INVALID),
        ({"window": 1 << 24}, Status.INVALID),
    ],
)
def test_absurd_sizes_are_refused_at_once(sizes: dict[str, int], status: Status) -> None:
    network = core.describe_network(config_of(NARROW))
    for name, size in sizes.items():
        setattr(network, name, size)
    options = abi.Options(state_type=StateType.F32, num_threads=1, memory_bytes=MEMORY_BYTES, dense_format=Format.F32)
    handle, fault = ctypes.c_void_p(1), abi.Fault()
    assert load_library().ds_engine_new(network, options, ctypes.byref(handle), fault) == status
    assert not handle.value
    assert fault.text


def test_mapping_and_packing_exclude_each_other(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints.folder(NARROW, "bf16")
    with pytest.raises(ConfigurationError, match=r"--mapped .* --packed-dir"):
        load_native_engine(folder, EngineOptions(memory_bytes=MEMORY_BYTES, is_mapped=True, packed_dir=tmp_path))
    repacked = EngineOptions(memory_bytes=MEMORY_BYTES, is_mapped=True, weights=WeightFormats(head="int8"))
    with pytest.raises(ConfigurationError, match=r"head\.weight is stored as BF16: int8"):
        load_native_engine(folder, repacked)


def test_progress_rises_to_the_whole(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints.folder(NARROW, "bf16")
    told: list[tuple[int, int]] = []
    load_native_engine(folder, OPTIONS, lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 300_000


def test_fingerprints_follow_what_is_computed_and_nothing_else(checkpoints: Checkpoints) -> None:
    """Weights, formats and constants make one; threads, instruction sets and memory do not."""

    def fingerprint(sizes: dict[str, Any] = NARROW, kept: Stored = "bf16", seed: int = 0, **options: Any) -> str:
        chosen = msgspec.structs.replace(OPTIONS, **options)
        return load_native_engine(checkpoints.folder(sizes, kept, seed), chosen).info.fingerprint

    same = [fingerprint(), fingerprint(num_threads=2), fingerprint(isa="generic"), fingerprint(memory_bytes=1 << 25)]
    others = [
        fingerprint(seed=1),
        fingerprint(kept="fp32"),
        fingerprint({**NARROW, "swiglu_limit": 9.0}),
        fingerprint(is_mapped=True),
        fingerprint(weights=WeightFormats(dense="int8")),
        fingerprint(weights=WeightFormats(experts="fp4")),
        fingerprint(weights=WeightFormats(experts="fp4-exact")),
        fingerprint(weights=WeightFormats(head="fp32")),
    ]
    assert len(set(same)) == 1
    assert len({*same, *others}) == 1 + len(others)


def test_one_changed_weight_is_another_fingerprint(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("bf16")
    before = load_native_engine(folder, OPTIONS).info.fingerprint
    write_into(folder, "layers.2.ffn.experts.3.w1.weight", b"\x01\x3c", 500)
    assert load_native_engine(folder, OPTIONS).info.fingerprint != before


# Packed weights as a file


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not kind.is_mapped])
def test_packed_weights_are_read_instead_of_packed_again(
    kind: str, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, options = checkpoints.folder(KINDS[kind].sizes, KINDS[kind].stored), packed_in(tmp_path / "new", kind)
    first = load_native_engine(folder, options)
    monkeypatch.setattr(Core, "_put_all", None)
    second = load_native_engine(folder, options)
    assert second.info == first.info
    assert second.core_info().active_weight_bytes == first.core_info().active_weight_bytes
    assert second.core_info().weight_bytes == first.core_info().weight_bytes
    tokens = some_tokens(150)
    assert cold(second, tokens) == cold(first, tokens)


def packed_in(folder: Path, kind: str = "bf16") -> EngineOptions:
    return EngineOptions(memory_bytes=MEMORY_BYTES, packed_dir=folder, weights=KINDS[kind].weights)


def test_a_damaged_packed_file_is_removed_and_said(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """Any byte of the header, some of the weights, cut short, and longer. The embedding's type was not covered by the
    checksum, so one flipped bit there gave an engine that read its embeddings as something else."""
    folder, options = checkpoints.folder(NARROW, "bf16"), packed_in(tmp_path)
    load_native_engine(folder, options)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    places = [*range(0, 128, 3), *range(128, len(content), len(content) // 20), len(content) - 1]
    damaged = [content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :] for at in places]
    damaged += [content[:size] for size in (0, 50, 128, len(content) // 2, len(content) - 1)] + [content + b"\0"]
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(CheckpointError, match="has been removed; start again"):
            load_native_engine(folder, options)
        assert not path.exists()
    load_native_engine(folder, options)
    assert path.read_bytes() == content


def test_another_models_packed_file_is_refused(checkpoints: Checkpoints, tmp_path: Path) -> None:
    load_native_engine(checkpoints.folder(NARROW, "bf16", 1), packed_in(tmp_path / "other"))
    (other,) = (tmp_path / "other").iterdir()
    folder, options = checkpoints.folder(NARROW, "bf16"), packed_in(tmp_path / "own")
    load_native_engine(folder, options)
    (own,) = (tmp_path / "own").iterdir()
    assert own.name != other.name
    assert own.stat().st_size == other.stat().st_size
    shutil.copy(other, own)
    with pytest.raises(CheckpointError, match="of another checkpoint"):
        load_native_engine(folder, options)


def test_weights_are_packed_as_ever_after_a_damaged_file(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was read of it stays in memory, and no tensor counts as given."""
    folder, options = checkpoints.folder(NARROW, "bf16"), packed_in(tmp_path)
    first = load_native_engine(folder, options)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:128] + b"\xff" * (path.stat().st_size - 128))
    load_packed = Core._load_packed

    def forgiving(self: Core, *arguments: Any) -> bool:
        try:
            return load_packed(self, *arguments)
        except CheckpointError:
            return False

    monkeypatch.setattr(Core, "_load_packed", forgiving)
    second = load_native_engine(folder, options)
    assert second.core_info().weight_bytes == first.core_info().weight_bytes
    tokens = some_tokens(150)
    assert cold(second, tokens) == cold(first, tokens)


def test_packed_weights_that_cannot_be_kept_are_said(checkpoints: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="packed weights could not be kept"):
        load_native_engine(checkpoints.folder(NARROW, "bf16"), packed_in(tmp_path / "file"))
    (tmp_path / "folder").mkdir()
    options = packed_in(tmp_path / "folder")
    engine = load_native_engine(checkpoints.folder(NARROW, "bf16"), options)
    (path,) = (tmp_path / "folder").iterdir()
    path.unlink()
    path.with_suffix(f".{os.getpid()}.part").mkdir()
    with pytest.raises(ConfigurationError, match="packed weights could not be kept"):
        load_native_engine(checkpoints.folder(NARROW, "bf16"), options)
    assert engine.length(engine.create()) == 0


# States


def dumped(engine: NativeEngine, tokens: list[int]) -> bytes:
    sequence = engine.create()
    feed(engine, sequence, tokens)
    snapshot = engine.snapshot(sequence)
    blob = engine.dump(snapshot)
    engine.free(sequence)
    engine.release(snapshot)
    return blob


@pytest.mark.parametrize("position", [0, 1, 5, 101, 128, 200])
def test_float32_states_pass_between_the_engines(checkpoints: Checkpoints, position: int) -> None:
    folder, tokens = checkpoints.folder(NARROW, "fp32"), some_tokens(position + 20)
    native, other = checkpoints.engine("fp32"), ReferenceEngine(load_network(folder), memory_bytes=MEMORY_BYTES)
    expected = as_tensor(cold(native, tokens)[position:])
    sequence = other.create()
    if position:
        reference.feed(other, sequence, tokens[:position])
    theirs = other.dump(other.snapshot(sequence))
    mine = dumped(native, tokens[:position])
    assert len(mine) == len(theirs)
    head = 40 + 12 * 4
    assert mine[:head] == theirs[:head]
    close = torch.frombuffer(bytearray(mine[head:] + NAN_F32), dtype=torch.float32)[:-1]
    assert torch.allclose(
        close, torch.frombuffer(bytearray(theirs[head:] + NAN_F32), dtype=torch.float32)[:-1], atol=2e-5
    )
    found = as_tensor(feed(native, native.restore(native.load(theirs)), tokens[position:]))
    assert torch.allclose(found, expected, atol=2e-5)
    found = reference.feed(other, other.restore(other.load(mine)), tokens[position:])
    assert torch.allclose(found, expected, atol=2e-5)


def test_the_reference_engine_reads_states_in_short_types(checkpoints: Checkpoints) -> None:
    tokens = some_tokens(220)
    native = checkpoints.engine("bf16")
    network = load_network(checkpoints.folder(NARROW, "bf16"))
    other = ReferenceEngine(network, memory_bytes=MEMORY_BYTES)
    exact = reference.cold(other, tokens)[200:]
    found = reference.feed(other, other.restore(other.load(dumped(native, tokens[:200]))), tokens[200:])
    # Not more: a choice of experts or entries that turns out otherwise changes single tokens a lot.
    assert 0 < (found - exact).abs().median() < 0.03 * exact.abs().median()
    with pytest.raises(ValueError, match="other number types"):
        native.load(other.dump(other.snapshot(other.create())))


def as_tensor(logits: list[bytes]) -> torch.Tensor:
    return torch.stack([torch.frombuffer(bytearray(row), dtype=torch.float32) for row in logits])


@pytest.fixture(scope="module")
def engine(checkpoints: Checkpoints) -> NativeEngine:
    return checkpoints.engine("bf16")


def edited(blob: bytes, offset: int, layout: str, value: object) -> bytes:
    changed = bytearray(blob)
    struct.pack_into(layout, changed, offset % len(blob), value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "fault"),
    [
        (0, "<B", 0, "not a state blob"),
        (7, "<B", 2, "not a state blob"),
        (8, "<q", -1, "position -1 is outside"),
        (8, "<q", 4097, "position 4097 is outside"),
        (8, "<q", 102, "another size"),
        (8, "<q", 1 << 62, "outside"),
        (16, "<i", 5, "another network"),
        (20, "<i", 64, "another network"),
        (24, "<i", 8, "another network"),
        (28, "<i", 128, "another network"),
        (32, "<i", 0, "other number types"),
        (36, "<i", 2, "other number types"),
        (40, "<i", 4, "another network"),
        (60, "<i", 0, "another network"),
    ],
)
def test_a_damaged_state_is_refused(engine: NativeEngine, offset: int, layout: str, value: object, fault: str) -> None:
    blob = dumped(engine, some_tokens(101))
    with pytest.raises(ValueError, match=fault):
        engine.load(edited(blob, offset, layout, value))
    assert engine.free_blocks_ratio() == 1.0


def test_a_state_of_another_length_is_refused(engine: NativeEngine) -> None:
    blob = dumped(engine, some_tokens(101))
    for size in (0, 7, 39, 40, 87, 88, len(blob) // 2, len(blob) - 1):
        with pytest.raises(ValueError, match=r"state|blob"):
            engine.load(blob[:size])
    with pytest.raises(ValueError, match="another size"):
        engine.load(blob + b"\0")
    assert engine.free_blocks_ratio() == 1.0


def test_a_state_of_another_network_is_refused(engine: NativeEngine, checkpoints: Checkpoints) -> None:
    foreign = checkpoints.engine("fp8")
    with pytest.raises(ValueError, match="another network"):
        engine.load(dumped(foreign, some_tokens(20)))


def test_a_full_memory_refuses_a_state_and_changes_nothing(checkpoints: Checkpoints) -> None:
    blob = dumped(checkpoints.engine("bf16"), some_tokens(300))
    small = checkpoints.engine("bf16", memory_bytes=4_000_000)
    held = [small.load(blob) for _ in range(min(small.info.capacity_states, small.info.capacity_tokens // 384))]
    full = small.free_blocks_ratio()
    for _ in range(2):
        with pytest.raises(EngineFailure, match="state memory is full"):
            small.load(blob)
    assert small.free_blocks_ratio() == full
    for snapshot in held:
        small.release(snapshot)
    assert small.free_blocks_ratio() == 1.0
    sequence = small.create()
    assert small.step([Row(sequence=sequence, tokens=[1])]) == [None]
