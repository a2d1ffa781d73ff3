"""A checkpoint loaded into the native core: formats chosen, tensors handed over, the result described.

    open checkpoint -> choose formats -> new core -> every tensor put from the mapped files -> sealed

With a folder for packed weights the result is kept there, and the next start reads it instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from deepserve import __version__
from deepserve.config import WeightFormat
from deepserve.core.errors import CheckpointError, ConfigurationError, EngineFailure
from deepserve.engine.checkpoint import Checkpoint, open_checkpoint
from deepserve.engine.interface import CHUNK_TOKENS, EngineInfo
from deepserve.engine.native import abi
from deepserve.engine.native.abi import Dtype, Format, StateType, Status, Tensor
from deepserve.engine.native.shared_library import load_library
from deepserve.engine.network_config import NetworkConfig, encode_config
from deepserve.engine.options import EngineOptions, Progress
from deepserve.engine.rotary import rotary_frequencies
from deepserve.engine.safetensors import StoredTensor

ARITHMETIC = 1
"""Part of every fingerprint; raised when a change to the core changes what it computes."""

DTYPES = {
    "F32": Dtype.F32,
    "F16": Dtype.F16,
    "BF16": Dtype.BF16,
    "F64": Dtype.F64,
    "F8_E4M3": Dtype.F8_E4M3,
    "F8_E8M0": Dtype.F8_E8M0,
    "I8": Dtype.FP4,
    "I32": Dtype.I32,
    "I64": Dtype.I64,
}

_FORMATS: Mapping[WeightFormat, Format] = {
    "fp32": Format.F32,
    "bf16": Format.BF16,
    "int8": Format.INT8,
    "fp8": Format.FP8,
    "fp4": Format.FP4,
    "fp4-exact": Format.FP4_EXACT,
}
_AS_STORED = {"F8_E4M3": Format.FP8, "I8": Format.FP4, "BF16": Format.BF16}
_MAPPED = {
    Format.BF16: Format.MAPPED_BF16,
    Format.FP4: Format.MAPPED_FP4,
    Format.FP8: Format.MAPPED_FP8,
}
_SPELLED = {kept: name for name, kept in _FORMATS.items()} | {
    Format.MAPPED_BF16: "mapped bf16",
    Format.MAPPED_FP4: "mapped fp4",
    Format.MAPPED_FP8: "mapped fp8",
}

_TENSORS = {
    "embed.weight": Tensor.EMBED,
    "head.weight": Tensor.HEAD,
    "norm.weight": Tensor.NORM,
    "hc_head_fn": Tensor.HC_HEAD_FN,
    "hc_head_base": Tensor.HC_HEAD_BASE,
    "hc_head_scale": Tensor.HC_HEAD_SCALE,
    "attn_norm.weight": Tensor.ATTN_NORM,
    "ffn_norm.weight": Tensor.FFN_NORM,
    "hc_attn_fn": Tensor.HC_ATTN_FN,
    "hc_attn_base": Tensor.HC_ATTN_BASE,
    "hc_attn_scale": Tensor.HC_ATTN_SCALE,
    "hc_ffn_fn": Tensor.HC_FFN_FN,
    "hc_ffn_base": Tensor.HC_FFN_BASE,
    "hc_ffn_scale": Tensor.HC_FFN_SCALE,
    "attn.wq_a.weight": Tensor.WQ_A,
    "attn.q_norm.weight": Tensor.Q_NORM,
    "attn.wq_b.weight": Tensor.WQ_B,
    "attn.wkv.weight": Tensor.WKV,
    "attn.kv_norm.weight": Tensor.KV_NORM,
    "attn.wo_a.weight": Tensor.WO_A,
    "attn.wo_b.weight": Tensor.WO_B,
    "attn.attn_sink": Tensor.ATTN_SINK,
    "attn.compressor.wkv.weight": Tensor.COMPRESSOR_WKV,
    "attn.compressor.wgate.weight": Tensor.COMPRESSOR_WGATE,
    "attn.compressor.ape": Tensor.COMPRESSOR_APE,
    "attn.compressor.norm.weight": Tensor.COMPRESSOR_NORM,
    "attn.indexer.wq_b.weight": Tensor.INDEX_WQ_B,
    "attn.indexer.weights_proj.weight": Tensor.INDEX_WEIGHTS,
    "attn.indexer.compressor.wkv.weight": Tensor.INDEX_WKV,
    "attn.indexer.compressor.wgate.weight": Tensor.INDEX_WGATE,
    "attn.indexer.compressor.ape": Tensor.INDEX_APE,
    "attn.indexer.compressor.norm.weight": Tensor.INDEX_NORM,
    "ffn.gate.weight": Tensor.GATE,
    "ffn.gate.bias": Tensor.GATE_BIAS,
    "ffn.gate.tid2eid": Tensor.GATE_TABLE,
    "ffn.shared_experts.w1.weight": Tensor.SHARED_W1,
    "ffn.shared_experts.w2.weight": Tensor.SHARED_W2,
    "ffn.shared_experts.w3.weight": Tensor.SHARED_W3,
    "ffn.experts.w1.weight": Tensor.EXPERT_W1,
    "ffn.experts.w2.weight": Tensor.EXPERT_W2,
    "ffn.experts.w3.weight": Tensor.EXPERT_W3,
}
"""Published name without layer and expert -> the core's number."""

_PLACE = re.compile(r"(?:layers\.(\d+)\.)?(.*?)(?:experts\.(\d+)\.)?(w[123]\.weight)?")

_LARGE_BYTES = 100_000_000
"""From so many bytes of weights per token on, several threads in one step can help."""
_HASHED_WHOLE_BYTES = 1 << 30
_HASHED_EDGE_BYTES = 1 << 12


class Formats(msgspec.Struct, frozen=True, kw_only=True):
    """What each kind of matrix is kept as, and stored states."""

    dense: Format
    experts: Format
    head: Format
    state: StateType

    @property
    def spelled(self) -> str:
        kinds = {"": self.dense, " experts": self.experts, " head": self.head}
        return ", ".join(
            f"{_SPELLED[kept]}{kind}" for kind, kept in kinds.items() if kept is not self.dense or not kind
        )


class Core:
    """One loaded core; freed with this object. has_weights: otherwise it can be described, and nothing else."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: EngineOptions,
        progress: Progress | None = None,
        *,
        has_weights: bool = True,
    ) -> None:
        self.shared_library = load_library()
        self._fault = abi.Fault()
        self.formats = choose_formats(checkpoint, options)
        num_threads = options.num_threads or choose_threads(checkpoint)
        handle = ctypes.c_void_p()
        self._check(
            self.shared_library.ds_engine_new(
                describe_network(checkpoint.config),
                abi.Options(
                    dense_format=self.formats.dense,
                    expert_format=self.formats.experts,
                    head_format=self.formats.head,
                    state_type=self.formats.state,
                    num_threads=num_threads,
                    memory_bytes=options.memory_bytes,
                    isa=options.isa.encode() if options.isa else None,
                ),
                ctypes.byref(handle),
                self._fault,
            ),
            checkpoint.folder,
        )
        self.handle = handle
        self._maps = _FileMaps(self.shared_library)
        weakref.finalize(self, _free, self.shared_library, handle, self._maps)
        fingerprint = _fingerprint(checkpoint, self.formats)
        if has_weights and not self._load_packed(options.packed_dir, fingerprint, progress):
            self._put_all(checkpoint, progress)
            self._save_packed(options.packed_dir, fingerprint)
        self.info = self._describe(checkpoint, fingerprint)

    def sizes(self) -> abi.Info:
        info = abi.Info()
        self.shared_library.ds_engine_info(self.handle, info)
        return info

    def _put_all(self, checkpoint: Checkpoint, progress: Progress | None) -> None:
        total = sum(tensor.size_bytes for tensor in checkpoint.tensors.values())
        done = 0
        for name, tensor in checkpoint.tensors.items():
            number, layer, expert = place_of(name)
            array = self._array(tensor)
            scale = None if tensor.scale is None else self._array(tensor.scale)
            status = self.shared_library.ds_engine_put(self.handle, number, layer, expert, array, scale, self._fault)
            self._check(status, checkpoint.folder)
            done += tensor.size_bytes
            if progress is not None:
                progress(done, total)
        self._check(self.shared_library.ds_engine_seal(self.handle, self._fault), checkpoint.folder)
        if not any(kept in _MAPPED.values() for kept in (self.formats.dense, self.formats.experts, self.formats.head)):
            self._maps.close()

    def _array(self, tensor: StoredTensor) -> abi.Array:
        array = abi.Array(dtype=DTYPES[tensor.dtype], rank=len(tensor.shape), size_bytes=tensor.size_bytes)
        array.shape[: len(tensor.shape)] = tensor.shape
        array.data = self._maps.address(tensor.path) + tensor.offset
        return array

    # The packed weights as a file

    def _load_packed(self, folder: Path | None, fingerprint: str, progress: Progress | None) -> bool:
        """Whether a packed file of exactly these weights was there and whole."""
        path = _packed_path(folder, fingerprint)
        if path is None or not path.is_file():
            return False
        if progress is not None:
            progress(0, path.stat().st_size)
        status = self.shared_library.ds_engine_load_packed(
            self.handle, os.fsencode(path), _key(fingerprint), self._fault
        )
        if status == Status.OK:
            return True
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{self._fault.text}. It has been removed; start again to pack the weights anew.")

    def _save_packed(self, folder: Path | None, fingerprint: str) -> None:
        path = _packed_path(folder, fingerprint)
        if path is None:
            return
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            status = self.shared_library.ds_engine_save_packed(
                self.handle, os.fsencode(unfinished), _key(fingerprint), self._fault
            )
            if status != Status.OK:
                unfinished.unlink(missing_ok=True)
                raise ConfigurationError(f"The packed weights could not be kept: {self._fault.text}")
            unfinished.replace(path)
        except OSError as error:
            raise ConfigurationError(f"The packed weights could not be kept: {error}") from error

    def _describe(self, checkpoint: Checkpoint, fingerprint: str) -> EngineInfo:
        sizes, config = self.sizes(), checkpoint.config
        total, active = count_parameters(checkpoint)
        return EngineInfo(
            name="native",
            device=f"cpu ({sizes.isa.decode()})",
            formats=self.formats.spelled,
            vocab_size=config.vocab_size,
            max_context=config.max_position_embeddings,
            total_parameters=total,
            active_parameters=active,
            state_bytes_per_token=sizes.block_bytes / CHUNK_TOKENS,
            state_bytes_fixed=sizes.slot_bytes,
            capacity_tokens=sizes.num_blocks * CHUNK_TOKENS,
            capacity_states=sizes.num_slots,
            fingerprint=fingerprint,
        )

    def _check(self, status: int, folder: Path) -> None:
        if status == Status.OUT_OF_MEMORY:
            raise EngineFailure(f"{folder}: {self._fault.text}")
        if status == Status.INVALID:  # the core cannot do what the options or the network's sizes ask for
            raise ConfigurationError(f"{folder}: {self._fault.text}")
        if status:
            raise CheckpointError(f"{folder}: {self._fault.text}")


def load_core(folder: Path, options: EngineOptions, progress: Progress | None = None) -> Core:
    """Load a checkpoint folder. Raises CheckpointError, or ConfigurationError without the native library."""
    return Core(open_checkpoint(folder), options, progress)


def describe_core(folder: Path, options: EngineOptions) -> EngineInfo:
    """What a core says of itself once it is loaded, without loading it. Raises what `load_core` does."""
    return Core(open_checkpoint(folder), options, has_weights=False).info


def choose_formats(checkpoint: Checkpoint, options: EngineOptions) -> Formats:
    """The formats asked for, or those of the checkpoint. Raises ConfigurationError for what cannot be mapped."""
    samples = {
        "dense": "layers.0.attn.wq_a.weight",
        "experts": "layers.0.ffn.experts.0.w1.weight",
        "head": "head.weight",
    }
    if options.is_mapped and options.packed_dir is not None:
        raise ConfigurationError(
            "--mapped uses weights where they lie, so there is nothing to keep in --packed-dir. Leave out one of them."
        )
    chosen: dict[str, Format] = {}
    for kind, name in samples.items():
        asked: WeightFormat = getattr(options.weights, kind)
        stored = _AS_STORED.get(checkpoint.tensors[name].dtype, Format.F32)
        kept = stored if asked == "auto" else _FORMATS[asked]
        if options.is_mapped:
            if kept is not stored or kept not in _MAPPED:
                dtype = checkpoint.tensors[name].dtype
                raise ConfigurationError(
                    f"--mapped uses weights as they are stored, but {name} is stored as {dtype}: {_SPELLED[kept]} "
                    "would have to be packed. Leave out one of them."
                )
            kept = _MAPPED[kept]
        chosen[kind] = kept
    state = StateType.F32 if chosen["dense"] is Format.F32 else StateType.BF16
    return Formats(**chosen, state=state)


def choose_threads(checkpoint: Checkpoint) -> int:
    """Threads for one step if nobody says: several only where a token reads much memory, and never all cores."""
    total_bytes = sum(tensor.size_bytes for tensor in checkpoint.tensors.values())
    total, active = count_parameters(checkpoint)
    if total_bytes * active / total < _LARGE_BYTES:
        return 1
    return max(1, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2) - 1)


def count_parameters(checkpoint: Checkpoint) -> tuple[int, int]:
    """All, and those that one token visits."""
    config = checkpoint.config
    total = active = 0
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype in ("I32", "I64"):
            continue
        count = 2 if tensor.dtype == "I8" else 1
        for size in tensor.shape:
            count *= size
        total += count
        if name == "embed.weight":
            active += config.hidden_size
        elif ".ffn.experts." in name:
            active += count * config.num_experts_per_tok
        else:
            active += count * config.n_routed_experts
    # Experts are counted in parts of their number, so that no expert is rounded away.
    embedding = config.hidden_size * (config.n_routed_experts - 1)
    return total, (active + embedding) // config.n_routed_experts


def describe_network(config: NetworkConfig) -> abi.Network:
    layers = (abi.Layer * config.num_hidden_layers)()
    for number, layer in enumerate(layers):
        kind = config.kind(number)
        layer.ratio = config.compress_ratios[number]
        layer.overlaps = layer.selects = kind == "csa"
        layer.is_hash_routed = config.is_hash_routed(number)
        layer.rotation = kind != "window"
    network = abi.Network(
        abi_version=abi.ABI_VERSION,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        rope_dim=config.qk_rope_head_dim,
        q_rank=config.q_lora_rank,
        o_groups=config.o_groups,
        o_rank=config.o_lora_rank,
        window=config.sliding_window,
        index_heads=config.index_n_heads,
        index_dim=config.index_head_dim,
        index_topk=config.index_topk,
        num_experts=config.n_routed_experts,
        experts_per_token=config.num_experts_per_tok,
        expert_width=config.moe_intermediate_size,
        streams=config.hc_mult,
        sinkhorn_steps=config.hc_sinkhorn_iters,
        max_context=config.max_position_embeddings,
        routed_scale=config.routed_scaling_factor,
        swiglu_limit=config.swiglu_limit,
        hc_eps=config.hc_eps,
        norm_eps=config.rms_norm_eps,
        layers=layers,
    )
    for place, compressed in enumerate((False, True)):
        frequencies = rotary_frequencies(config, compressed=compressed)
        network.frequencies[place] = (ctypes.c_float * len(frequencies))(*frequencies)
    return network


def place_of(name: str) -> tuple[Tensor, int, int]:
    """Published name -> the core's number, layer (-1: none) and expert."""
    match = _PLACE.fullmatch(name)
    assert match is not None
    layer, start, expert, part = match.groups()
    kind = name if layer is None else f"{start}{'experts.' if expert is not None else ''}{part or ''}"
    return _TENSORS[kind], -1 if layer is None else int(layer), int(expert or 0)


def _fingerprint(checkpoint: Checkpoint, formats: Formats) -> str:
    """Over configuration, weights, formats and arithmetic. Of huge weights only the edges of every tensor are read."""
    digest = hashlib.sha256(msgspec.json.encode(encode_config(checkpoint.config), order="sorted"))
    digest.update(f"{__version__} {ARITHMETIC} {formats!r}".encode())
    total = sum(tensor.size_bytes for tensor in checkpoint.tensors.values())
    for name, tensor in checkpoint.tensors.items():
        for part in (tensor, tensor.scale):
            if part is None:
                continue
            digest.update(f"{name} {part.dtype} {part.shape}".encode())
            for offset, size in _hashed_ranges(part, is_whole=total <= _HASHED_WHOLE_BYTES):
                with part.path.open("rb") as file:
                    file.seek(offset)
                    digest.update(file.read(size))
    return digest.hexdigest()[:32]


def _hashed_ranges(tensor: StoredTensor, *, is_whole: bool) -> Iterator[tuple[int, int]]:
    if is_whole or tensor.size_bytes <= 2 * _HASHED_EDGE_BYTES:
        yield tensor.offset, tensor.size_bytes
        return
    yield tensor.offset, _HASHED_EDGE_BYTES
    yield tensor.offset + tensor.size_bytes - _HASHED_EDGE_BYTES, _HASHED_EDGE_BYTES


def _packed_path(folder: Path | None, fingerprint: str) -> Path | None:
    return None if folder is None else folder / f"{fingerprint}.packed"


def _key(fingerprint: str) -> bytes:
    return hashlib.sha256(fingerprint.encode()).digest()


class _FileMaps:
    """Files of a checkpoint, mapped as they are asked for."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._maps: dict[Path, tuple[int, int]] = {}

    def address(self, path: Path) -> int:
        if path not in self._maps:
            size, fault = ctypes.c_int64(), abi.Fault()
            address = self._library.ds_file_map(os.fsencode(path), size, fault)
            if not address:
                raise CheckpointError(fault.text)
            self._maps[path] = address, size.value
        return self._maps[path][0]

    def close(self) -> None:
        for address, size in self._maps.values():
            self._library.ds_file_unmap(address, size)
        self._maps.clear()


def _free(library: ctypes.CDLL, handle: ctypes.c_void_p, maps: _FileMaps) -> None:
    library.ds_engine_delete(handle)
    maps.close()
