"""What a checkpoint folder must hold, in every layout and spelling, found without reading a single value."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest

from deepserve.core.errors import CheckpointError
from deepserve.engine.checkpoint import Checkpoint, open_checkpoint
from deepserve.engine.inventory import ExpectedTensor, expected_tensors, scale_shape, stored_shape
from deepserve.engine.network_config import decode_config
from deepserve.engine.safetensors import NewTensor, StoredTensor, write_safetensors

TINY: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 32,
    "qk_rope_head_dim": 8, "q_lora_rank": 32, "o_groups": 2, "o_lora_rank": 16, "n_routed_experts": 3,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 8,
    "sliding_window": 8, "compress_ratios": [0, 4, 128, 4], "num_hash_layers": 2, "max_position_embeddings": 512,
}  # fmt: skip

FLASH: dict[str, Any] = {
    "vocab_size": 129280, "hidden_size": 4096, "num_hidden_layers": 43, "num_attention_heads": 64, "head_dim": 512,
    "qk_rope_head_dim": 64, "q_lora_rank": 1024, "o_groups": 8, "o_lora_rank": 1024, "n_routed_experts": 256,
    "num_experts_per_tok": 6, "moe_intermediate_size": 2048, "index_n_heads": 64, "index_head_dim": 128,
    "index_topk": 512, "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0], "max_position_embeddings": 1 << 20,
}  # fmt: skip
PRO: dict[str, Any] = {
    **FLASH, "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "q_lora_rank": 1536,
    "o_groups": 16, "n_routed_experts": 384, "moe_intermediate_size": 3072, "index_topk": 1024,
    "compress_ratios": [128, 128, *[4, 128] * 29, 4, 0],
}  # fmt: skip

DTYPES = {"bf16": "BF16", "f32": "F32", "i64": "I64", "fp8": "F8_E4M3", "fp4": "I8"}
ITEM_BITS = {
    "BF16": 16,
    "F32": 32,
    "I64": 64,
    "F8_E4M3": 8,
    "I8": 8,
    "F8_E8M0": 8,
    "U8": 8,
    "F4": 4,
    "F16": 16,
    "I32": 32,
}

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""dtype and shape by name"""


def with_scales(expected: Iterable[tuple[str, ExpectedTensor]]) -> Tensors:
    """Every tensor in the type the published checkpoints have it in."""
    tensors: Tensors = {}
    for name, tensor in expected:
        dtype = DTYPES[tensor.storage]
        tensors[name] = dtype, stored_shape(dtype, tensor.shape)
        if dtype in ("F8_E4M3", "I8"):
            tensors[name.replace(".weight", ".scale")] = "F8_E8M0", scale_shape(dtype, tensor.shape)
    return tensors


def published() -> Tensors:
    return with_scales(expected_tensors(decode_config(TINY)))


def plain() -> Tensors:
    return {
        name: ("BF16" if t.storage != "i64" else "I64", t.shape) for name, t in expected_tensors(decode_config(TINY))
    }


def fp8_experts() -> Tensors:
    tensors = {}
    for name, expected in expected_tensors(decode_config(TINY)):
        if expected.storage in ("fp8", "fp4"):
            tensors[name] = "F8_E4M3", expected.shape
            tensors[name.replace(".weight", ".scale")] = "F32", scale_shape("F8_E4M3", expected.shape)
        else:
            tensors[name] = DTYPES[expected.storage], expected.shape
    return tensors


def size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return prod(shape) * ITEM_BITS[dtype] // 8


def write(folder: Path, tensors: Tensors, file: str = "model.safetensors", config: Mapping[str, Any] = TINY) -> Path:
    """A checkpoint whose values are all zero bytes."""
    (folder / "config.json").write_text(json.dumps(config))

    def zeros(dtype: str, shape: tuple[int, ...]) -> Callable[[], bytes]:
        return lambda: bytes(size_bytes(dtype, shape))

    write_safetensors(
        folder / file, {name: NewTensor(dtype, shape, zeros(dtype, shape)) for name, (dtype, shape) in tensors.items()}
    )
    return folder


def fault_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    return caught.value.message


def with_draft(config: Mapping[str, Any]) -> list[tuple[str, ExpectedTensor]]:
    """The network and its draft block: one more layer without compressor and without table, and what joins it on."""
    d = config["hidden_size"]
    return [
        *expected_tensors(decode_config({**config, "num_hidden_layers": config["num_hidden_layers"] + 1})),
        ("mtp.0.e_proj.weight", ExpectedTensor((d, d), "fp8")),
        ("mtp.0.h_proj.weight", ExpectedTensor((d, d), "fp8")),
        *((f"mtp.0.{norm}.weight", ExpectedTensor((d,), "bf16")) for norm in ("enorm", "hnorm", "norm")),
        ("mtp.0.hc_head_fn", ExpectedTensor((4, 4 * d), "f32")),
        ("mtp.0.hc_head_base", ExpectedTensor((4,), "f32")),
        ("mtp.0.hc_head_scale", ExpectedTensor((1,), "f32")),
    ]


def test_the_inventory_of_flash_has_the_published_counts() -> None:
    """As the preview checkpoint lists them: 69187 tensors, 159.61 GB."""
    tensors = with_scales(with_draft(FLASH))
    assert Counter(dtype for dtype, _ in tensors.values()) == {
        "BF16": 433, "F32": 417, "F8_E4M3": 375, "I8": 33_792, "I64": 3, "F8_E8M0": 34_167,
    }  # fmt: skip
    assert len(tensors) == 69_187
    assert round(sum(size_bytes(*tensor) for tensor in tensors.values()) / 1e9, 2) == 159.61


def test_the_inventory_of_pro_has_every_expert() -> None:
    counts = Counter(dtype for dtype, _ in with_scales(with_draft(PRO)).values())
    assert counts["I8"] == 62 * 384 * 3
    assert counts["F8_E4M3"] == 62 * 8 + 30 + 2
    assert counts["F8_E8M0"] == counts["I8"] + counts["F8_E4M3"]
    assert counts["I64"] == 3


@pytest.mark.parametrize(("config", "billions"), [(FLASH, 290.94), (PRO, 1598.84)])
def test_the_inventories_have_the_published_sizes(config: Mapping[str, Any], billions: float) -> None:
    """Numbers counted from the published listings, draft block included."""
    assert round(sum(prod(tensor.shape) for _, tensor in with_draft(config)) / 1e9, 2) == billions


def test_a_published_checkpoint_is_found_with_its_scales(tmp_path: Path) -> None:
    tensors = published()
    checkpoint = open_checkpoint(write(tmp_path, tensors))
    assert checkpoint.config == decode_config(TINY)
    assert list(checkpoint.tensors) == [name for name in tensors if not name.endswith(".scale")]
    for name, stored in checkpoint.tensors.items():
        assert (stored.dtype, stored.shape) == tensors[name]
        if stored.dtype in ("F8_E4M3", "I8"):
            assert stored.scale is not None
            assert (stored.scale.dtype, stored.scale.shape) == tensors[name.replace(".weight", ".scale")]
        else:
            assert stored.scale is None


def test_what_is_not_quantised_needs_no_scale(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path, plain()))
    assert all(stored.scale is None for stored in checkpoint.tensors.values())


def test_float32_scales_and_fp8_experts_are_read(tmp_path: Path) -> None:
    """The base checkpoints are like that."""
    expert = open_checkpoint(write(tmp_path, fp8_experts())).tensors["layers.3.ffn.experts.2.w2.weight"]
    assert expert.scale is not None
    assert (expert.shape, expert.scale.shape, expert.scale.dtype) == ((160, 128), (2, 1), "F32")


def test_other_spellings_of_fp4_are_listed_as_one(tmp_path: Path) -> None:
    tensors = published()
    packed, scale = "layers.0.ffn.experts.0.w1", tensors["layers.0.ffn.experts.0.w1.scale"][1]
    tensors |= {f"{packed}.weight": ("U8", (128, 80)), f"{packed}.scale": ("U8", scale)}
    tensors["layers.0.ffn.experts.0.w2.weight"] = "F4", (160, 128)
    checkpoint = open_checkpoint(write(tmp_path, tensors))
    first, second = (checkpoint.tensors[f"layers.0.ffn.experts.0.{part}.weight"] for part in ("w1", "w2"))
    assert (first.dtype, first.shape, second.dtype, second.shape) == ("I8", (128, 80), "I8", (160, 64))
    assert first.scale is not None
    assert first.scale.dtype == "F8_E8M0"


def test_the_draft_head_is_left_out(tmp_path: Path) -> None:
    tensors = published() | {"mtp.0.attn.wq_a.weight": ("F32", (1,)), "mtp.0.enorm.weight": ("BF16", (9,))}
    assert not any("mtp" in name for name in open_checkpoint(write(tmp_path, tensors)).tensors)


def test_repacks_with_older_spellings_are_read(tmp_path: Path) -> None:
    def older(name: str) -> str:
        name = (
            name.replace(".attn.", ".self_attn.")
            .replace(".ffn.", ".mlp.")
            .replace("gate.bias", "gate.e_score_correction_bias")
        )
        name = name.removesuffix(".scale") + ".weight_scale_inv" if name.endswith(".scale") else name
        return f"model.{name}" if name.startswith(("layers.", "norm.", "hc_head_")) else name

    repacked = open_checkpoint(write(tmp_path, {older(name): tensor for name, tensor in published().items()}))
    assert {name: (t.dtype, t.shape) for name, t in repacked.tensors.items()} == {
        name: tensor for name, tensor in published().items() if not name.endswith(".scale")
    }
    assert repacked.tensors["layers.1.attn.indexer.wq_b.weight"].scale is not None


def stacked(tensors: Tensors, suffix: str = "weight", stacked_suffix: str = "") -> Tensors:
    """The experts of each layer in one tensor, as transformers has them."""
    result = dict(tensors)
    for layer in range(4):
        prefix, theirs = f"layers.{layer}.ffn.experts", f"model.layers.{layer}.mlp.experts"
        of = {
            part: [result.pop(f"{prefix}.{expert}.{part}.{suffix}") for expert in range(3)]
            for part in ("w1", "w2", "w3")
        }
        dtype, (rows, columns) = of["w1"][0]
        result[f"{theirs}.gate_up_proj{stacked_suffix}"] = dtype, (3, 2 * rows, columns)
        dtype, (rows, columns) = of["w2"][0]
        result[f"{theirs}.down_proj{stacked_suffix}"] = dtype, (3, rows, columns)
    return result


@pytest.mark.parametrize("tensors", [plain(), published(), fp8_experts()], ids=["plain", "FP4", "FP8"])
def test_stacked_experts_are_cut_into_contiguous_ranges(tmp_path: Path, tensors: Tensors) -> None:
    is_quantised = "layers.0.ffn.experts.0.w1.scale" in tensors
    whole = stacked(stacked(tensors), "scale", "_scale_inv") if is_quantised else stacked(tensors)
    found = open_checkpoint(write(tmp_path, whole)).tensors
    for layer in range(4):
        for parts in (("w1", "w3"), ("w2",)):
            names = [f"layers.{layer}.ffn.experts.{expert}.{part}.weight" for expert in range(3) for part in parts]
            for place, name in enumerate(names):
                stored, scale = found[name], found[name].scale
                assert (stored.dtype, stored.shape) == tensors[name]
                assert stored.size_bytes == size_bytes(*tensors[name])
                assert stored.offset == found[names[0]].offset + place * stored.size_bytes
                assert (scale is not None) == is_quantised
                first = found[names[0]].scale
                if scale is not None and first is not None:
                    assert (scale.dtype, scale.shape) == tensors[name.replace(".weight", ".scale")]
                    assert scale.offset == first.offset + place * scale.size_bytes


def test_stacks_whose_scales_cannot_be_cut_are_refused(tmp_path: Path) -> None:
    """With 96 rows each, a block of 128 rows would belong to w1 and w3 at once."""
    config = {**TINY, "moe_intermediate_size": 96}
    tensors: Tensors = {}
    for name, expected in expected_tensors(decode_config(config)):
        if ".experts." not in name:
            tensors[name] = "I64" if expected.storage == "i64" else "BF16", expected.shape
    for layer in range(4):
        prefix = f"model.layers.{layer}.mlp.experts"
        tensors |= {f"{prefix}.gate_up_proj": ("F8_E4M3", (3, 192, 160)), f"{prefix}.down_proj": ("BF16", (3, 160, 96))}
        tensors[f"{prefix}.gate_up_proj_scale_inv"] = "F32", (3, 2, 2)
    message = fault_of(write(tmp_path, tensors, config=config))
    assert "model.layers.2.mlp.experts.gate_up_proj_scale_inv is [3, 2, 2], has blocks in both w1 and w3" in message


def test_wrong_stacks_are_named_once_and_not_as_missing_experts(tmp_path: Path) -> None:
    tensors = stacked(plain())
    tensors["model.layers.1.mlp.experts.gate_up_proj"] = "BF16", (2, 256, 160)
    tensors["model.layers.2.mlp.experts.down_proj"] = "BF16", (3, 160, 127)
    message = fault_of(write(tmp_path, tensors))
    assert "model.layers.1.mlp.experts.gate_up_proj is [2, 256, 160], must stack w1 and w3 of 3 experts" in message
    assert "w2 of expert 0 in model.layers.2.mlp.experts.down_proj is [160, 127], must be [160, 128]" in message
    assert "missing" not in message


def changed(**changes: tuple[str, tuple[int, ...]] | None) -> Tensors:
    """The published tensors with some replaced or dropped; a double underscore stands for a dot."""
    tensors = published()
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    return tensors


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    message = fault_of(
        write(
            tmp_path,
            changed(
                norm__weight=None,
                layers__9__attn__wq_a__weight=("F32", (2,)),
                layers__1__attn__attn_sink=("F32", (5,)),
                layers__0__ffn__gate__tid2eid=("F32", (40, 2)),
                embed__weight=("I32", (40, 160)),
                layers__0__attn__wkv__scale=None,
                layers__0__attn__wq_a__scale=("F8_E8M0", (5, 5)),
                layers__0__attn__wo_b__scale=("BF16", (2, 1)),
                layers__0__ffn__experts__0__w1__scale=("F32", (128, 5)),
                layers__0__ffn__experts__1__w1__weight=("I8", (128, 160)),
                layers__2__attn__compressor__wkv__weight=("F8_E4M3", (32, 160)),
                head__scale=("F8_E8M0", (1, 2)),
            ),
        )
    )
    for fault in (
        "missing norm.weight",
        "unknown layers.9.attn.wq_a.weight",
        "layers.1.attn.attn_sink is [5], must be [4]",
        "layers.0.ffn.gate.tid2eid is F32, must be one of I64, I32",
        "embed.weight is I32, must be one of F64, F32, F16, BF16",
        "missing layers.0.attn.wkv.scale, as layers.0.attn.wkv.weight is F8_E4M3",
        "layers.0.attn.wq_a.scale is [5, 5], must be [1, 2]",
        "layers.0.attn.wo_b.scale is BF16, must be one of F8_E8M0, F32",
        "layers.0.ffn.experts.0.w1.scale is F32, must be F8_E8M0",
        "layers.0.ffn.experts.1.w1.weight is [128, 160], must be [128, 80]",
        "layers.2.attn.compressor.wkv.weight is F8_E4M3, must be one of F64, F32, F16, BF16",
        "unknown head.scale",
    ):
        assert fault in message
    assert message.count(";") == 11


def test_fp4_needs_whole_groups_of_inputs(tmp_path: Path) -> None:
    config = {**TINY, "moe_intermediate_size": 48}
    message = fault_of(write(tmp_path, with_scales(expected_tensors(decode_config(config))), config=config))
    assert "layers.0.ffn.experts.0.w2.weight is FP4, so its inputs must be a multiple of 32, not 48" in message


def test_hundreds_of_faults_are_counted_not_listed(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in plain().items() if ".experts." not in name}
    message = fault_of(write(tmp_path, tensors | {f"extra.{number}": ("F32", (1,)) for number in range(25)}))
    assert message.count("missing ") == 20
    assert "; and 16 more missing; unknown extra.0" in message
    assert message.endswith("; and 5 more unknown")


def test_a_config_that_promises_millions_of_experts_is_refused_quickly(tmp_path: Path) -> None:
    message = fault_of(write(tmp_path, plain(), config={**TINY, "n_routed_experts": 1 << 24}))
    assert "missing layers.0.ffn.experts.3.w1.weight" in message
    assert "unknown" not in message


def shards(folder: Path, tensors: Tensors) -> dict[str, str]:
    """Two files and their weight map."""
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        write(folder, {name: tensors[name] for name in part}, file)
    return {name: file for file, part in halves.items() for name in part}


def write_index(folder: Path, weight_map: Mapping[str, str]) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def open_sharded(folder: Path, tensors: Tensors) -> Checkpoint:
    return open_checkpoint(write_index(folder, shards(folder, tensors)))


def test_scales_are_found_in_other_shards(tmp_path: Path) -> None:
    found = open_sharded(tmp_path, published()).tensors

    def is_apart(stored: StoredTensor) -> bool:
        return stored.scale is not None and stored.scale.path != stored.path

    assert any(map(is_apart, found.values()))
    assert {stored.path.name for stored in found.values()} == {"a.safetensors", "b.safetensors"}


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    weight_map = shards(tmp_path, published())
    extra: Tensors = {"norm.weight": ("BF16", (160,)), "model.embed_tokens.weight": ("BF16", (40, 160))}
    write(tmp_path, extra, "c.safetensors")
    message = fault_of(write_index(tmp_path, {**weight_map, "model.embed_tokens.weight": "c.safetensors"}))
    assert f"norm.weight in c.safetensors is there already, as norm.weight in {weight_map['norm.weight']}" in message
    assert "model.embed_tokens.weight in c.safetensors is there already, as embed.weight in" in message


def test_an_index_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    weight_map = shards(tmp_path, published())
    assert "lacks more.weight, which the index" in fault_of(
        write_index(tmp_path, {**weight_map, "more.weight": "a.safetensors"})
    )
    assert "c.safetensors is missing, which should hold more.weight" in fault_of(
        write_index(tmp_path, {**weight_map, "more.weight": "c.safetensors"})
    )


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    weight_map = shards(tmp_path, published())
    path = tmp_path / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "b.safetensors: not a whole safetensors file" in fault_of(write_index(tmp_path, weight_map))


def test_the_documented_table_is_the_inventory() -> None:
    """Each row of docs/checkpoints.md, evaluated for a configuration with all kinds of layers."""
    config = decode_config(TINY)
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    rows = re.findall(r"^\| (`.*`) \| `(.*)` \| (BF16|F32|I64|FP8|FP4) \|$", page, re.MULTILINE)
    documented = {
        pattern: (shape, storage.lower()) for names, shape, storage in rows for pattern in re.findall(r"`(.+?)`", names)
    }
    seen = set()
    for name, tensor in expected_tensors(config):
        pattern = re.sub(r"\.\d+\.", ".*.", name)
        seen.add(pattern)
        shape, storage = documented[pattern]
        layer = re.match(r"layers\.(\d+)", name)
        ratio = config.compress_ratios[int(layer[1])] if layer else 0
        sizes = {field: getattr(config, field) for field in config.__struct_fields__}
        sizes |= {"ratio": ratio, "halves": 2 if ratio == 4 else 1, "mixes": (2 + config.hc_mult) * config.hc_mult}
        assert (eval(f"({shape},)", {}, sizes), storage) == (tensor.shape, tensor.storage), name
    assert seen == set(documented)
