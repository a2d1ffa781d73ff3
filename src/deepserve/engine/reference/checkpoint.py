"""Checkpoints on disk: the published layout and transformers', read through memory maps; the published one written.

Everything about a checkpoint is compared with what its config.json promises before memory is taken for it, and all
faults are reported together. Quantised checkpoints are not read here.

Source: the tensor inventories of the DeepSeek-V4 releases; safetensors format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepserve.core.errors import CheckpointError
from deepserve.engine.network_config import NetworkConfig, encode_config, load_config

from .network import Network

_FLOATS = {"F64", "F32", "F16", "BF16"}
_INTEGERS = {"I64", "I32"}
_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_KEPT_IN_FLOAT32 = re.compile(r".*(hc_head_|hc_attn_|hc_ffn_).*|.*\.(attn_sink|ape|bias)")


class _Place(NamedTuple):
    """Where a published tensor lies in a checkpoint: a stored tensor, or the part of one that `pick` cuts out."""

    stored: str
    shape: tuple[int, ...]
    pick: Callable[[Tensor], Tensor]


class _Stored(NamedTuple):
    """One tensor of a file, not read yet."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]


def load_network(folder: Path, *, device: torch.device | str = "cpu") -> Network:
    """Read config.json and the weights beside it into a float32 network.

    Raises CheckpointError naming every tensor that is missing, unknown, misshapen or of another type; `mtp.*`, the
    draft head, is left out.
    """
    config = load_config(_inside(folder, "config.json"))
    with ExitStack() as files:
        stored = _open_tensors(folder, files)
        network = _skeleton(config)
        locate = _layout(stored)
        places = {name: locate(config, name, tuple(t.shape)) for name, t in network.named_tensors().items()}
        _compare(folder, stored, places)
        network = network.to_empty(device=device)
        for name, tensor in network.named_tensors().items():
            place = places[name]
            value = place.pick(stored[place.stored].read())
            tensor.copy_(value)
            _inspect(folder, config, name, tensor)
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith(".load"):
            buffer.zero_()
    return network.requires_grad_(False).eval()


def save_network(network: Network, folder: Path, *, matrices: torch.dtype = torch.bfloat16) -> None:
    """Write config.json and model.safetensors in the published layout; each file appears whole or not at all.

    matrices: type of everything the published checkpoints store as bfloat16; the rest is float32 and int64.
    """
    tensors = {}
    for name, tensor in network.named_tensors().items():
        wide = not tensor.is_floating_point() or _KEPT_IN_FLOAT32.fullmatch(name)
        value = tensor.detach() if wide else tensor.detach().to(matrices)
        tensors[name] = value.to("cpu", copy=True).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    weights, config = folder / "model.safetensors", folder / "config.json"
    unfinished = folder / ".model.safetensors.part"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    os.replace(unfinished, weights)
    unfinished = folder / ".config.json.part"
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(encode_config(network.config)), indent=2) + b"\n")
    os.replace(unfinished, config)


def _skeleton(config: NetworkConfig) -> Network:
    """A network that has shapes but no memory."""
    with torch.device("meta"):
        return Network(config)


def _open_tensors(folder: Path, files: ExitStack) -> dict[str, _Stored]:
    """Map the weight files and list their tensors; the draft head's are left out."""
    stored: dict[str, _Stored] = {}
    for path, listed in _weight_files(folder).items():
        try:
            file: Any = files.enter_context(safe_open(path, framework="pt"))  # Any: safetensors has no types
            names = list(file.keys())
            for name in names:
                view = file.get_slice(name)
                read = _reader(file, name)
                if not name.startswith("mtp."):
                    stored[name] = _Stored(tuple(view.get_shape()), view.get_dtype(), read)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file: {error}{_cut_off(path)}") from error
        absent = sorted(set(listed) - set(names))
        if absent:
            raise CheckpointError(f"{path}: lacks {', '.join(absent)}, which the index says it holds")
    return stored


def _cut_off(path: Path) -> str:
    """Which tensors' data a file that cannot be opened ends before, in words; nothing if it cannot say."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 0 < header_bytes <= min(_MAX_HEADER_BYTES, path.stat().st_size):
                return ""
            header = msgspec.json.decode(file.read(header_bytes), type=dict[str, dict[str, Any]])
        available = path.stat().st_size - 8 - header_bytes
        lost = sorted(
            name for name, entry in header.items() if name != "__metadata__" and entry["data_offsets"][1] > available
        )
    except (OSError, msgspec.MsgspecError, LookupError, TypeError):
        return ""
    if not lost:
        return ""
    return f"; it ends before the data of {', '.join(lost[:3])}" + (f" and {len(lost) - 3} more" if lost[3:] else "")


def _reader(file: Any, name: str) -> Callable[[], Tensor]:
    return lambda: file.get_tensor(name)


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
    files: dict[Path, list[str]] = {}
    for name, file in placed.items():
        files.setdefault(_inside(folder, file, holding=name), []).append(name)
    return files


def _inside(folder: Path, name: str, *, holding: str = "") -> Path:
    """A file of the checkpoint; an index or a link may not lead out of its folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder}: {name!r} leads out of the checkpoint's folder")
    if not path.is_file():
        raise CheckpointError(f"{folder}: {name} is missing{f', which should hold {holding}' if holding else ''}")
    return path


def _compare(folder: Path, stored: dict[str, _Stored], places: dict[str, _Place]) -> None:
    """Raise one error that names every difference between what is stored and what the config promises."""
    quantised = [name for name, tensor in stored.items() if tensor.dtype.startswith("F8_") or tensor.dtype == "I8"]
    if quantised:
        name = min(quantised)
        raise CheckpointError(
            f"{folder}: quantised checkpoints need the native core; {len(quantised)} of {len(stored)} tensors are "
            f"quantised, such as {name} ({stored[name].dtype})"
        )
    expected = {place.stored: (place.shape, name) for name, place in places.items()}
    faults = [f"missing {name}" for name in expected if name not in stored]
    faults += [f"unknown {name}" for name in stored if name not in expected]
    for name, (shape, published) in expected.items():
        if name not in stored:
            continue
        if stored[name].shape != shape:
            faults.append(f"{name} is {list(stored[name].shape)}, must be {list(shape)}")
        allowed = _INTEGERS if published.endswith("tid2eid") else _FLOATS
        if stored[name].dtype not in allowed:
            faults.append(f"{name} is {stored[name].dtype}, must be one of {', '.join(sorted(allowed))}")
    if faults:
        raise CheckpointError(f"{folder}: the weights do not fit config.json: {'; '.join(faults)}")


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


def _layout(stored: Iterable[str]) -> Callable[[NetworkConfig, str, tuple[int, ...]], _Place]:
    """Recognise by its names how a checkpoint is laid out."""
    if not any(name.startswith("model.") for name in stored):
        return _published_place
    return _transformers_place if any(".self_attn." in name for name in stored) else _saved_by_transformers_place


def _published_place(_config: NetworkConfig, name: str, shape: tuple[int, ...]) -> _Place:
    return _Place(name, shape, lambda tensor: tensor)


def _saved_by_transformers_place(config: NetworkConfig, name: str, shape: tuple[int, ...]) -> _Place:
    """What transformers 5.23 writes: published names within layers, but for one norm, and its own outside."""
    if not name.startswith("layers."):
        locate = _published_place if name == "head.weight" else _transformers_place
        return locate(config, name, shape)
    return _Place(f"model.{name}".replace(".attn.kv_norm.", ".attn.norm."), shape, lambda tensor: tensor)


_TRANSFORMERS_NAMES: tuple[tuple[str, str], ...] = (
    (r"embed\.", "model.embed_tokens."),
    (r"head\.", "lm_head."),
    (r"norm\.", "model.norm."),
    (r"hc_head_", "model.hc_head.hc_"),
    (r"layers\.(\d+)\.attn_norm\.", r"model.layers.\1.input_layernorm."),
    (r"layers\.(\d+)\.ffn_norm\.", r"model.layers.\1.post_attention_layernorm."),
    (r"layers\.(\d+)\.hc_(attn|ffn)_", r"model.layers.\1.\2_hc."),
    (r"layers\.(\d+)\.attn\.indexer\.compressor\.", r"model.layers.\1.self_attn.compressor.indexer."),
    (
        r"layers\.(\d+)\.attn\.indexer\.weights_proj",
        r"model.layers.\1.self_attn.compressor.indexer.scorer.weights_proj",
    ),
    (r"layers\.(\d+)\.attn\.indexer\.", r"model.layers.\1.self_attn.compressor.indexer."),
    (r"layers\.(\d+)\.attn\.attn_sink", r"model.layers.\1.self_attn.sinks"),
    (r"layers\.(\d+)\.attn\.", r"model.layers.\1.self_attn."),
    (r"layers\.(\d+)\.ffn\.gate\.bias", r"model.layers.\1.mlp.gate.e_score_correction_bias"),
    (r"layers\.(\d+)\.ffn\.", r"model.layers.\1.mlp."),
)
"""Start of a published name -> start of transformers' name; the first that matches."""

_TRANSFORMERS_PARTS = {
    "wq_a": "q_a_proj",
    "wq_b": "q_b_proj",
    "wkv": "kv_proj",
    "wo_a": "o_a_proj",
    "wo_b": "o_b_proj",
    "q_norm": "q_a_norm",
    "wgate": "gate_proj",
    "ape": "position_bias",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
}


def _transformers_place(config: NetworkConfig, name: str, shape: tuple[int, ...]) -> _Place:
    num, width, d = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
    if match := re.fullmatch(r"layers\.(\d+)\.ffn\.experts\.(\d+)\.(w[123])\.weight", name):
        layer, expert, part = match[1], int(match[2]), match[3]
        prefix = f"model.layers.{layer}.mlp.experts"
        if part == "w2":
            return _Place(f"{prefix}.down_proj", (num, d, width), lambda stacked: stacked[expert])
        rows = slice(0, width) if part == "w1" else slice(width, 2 * width)
        return _Place(f"{prefix}.gate_up_proj", (num, 2 * width, d), lambda stacked: stacked[expert, rows])
    for start, theirs in _TRANSFORMERS_NAMES:
        if re.match(start, name):
            renamed = ".".join(_rename_parts(re.sub(f"^{start}", theirs, name)))
            return _Place(renamed, shape, lambda tensor: tensor)
    raise AssertionError(f"no transformers name for {name}")


def _rename_parts(name: str) -> Iterator[str]:
    """A compressor's own norm is `kv_norm` there; other parts have one name each."""
    parts = name.split(".")
    for before, part in zip(["", *parts], parts, strict=False):
        is_compressor_norm = part == "norm" and before in ("compressor", "indexer")
        yield "kv_norm" if is_compressor_norm else _TRANSFORMERS_PARTS.get(part, part)
