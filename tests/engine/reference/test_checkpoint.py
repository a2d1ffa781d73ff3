"""Loading and saving networks: every layout, sharded or not, and every way in which a checkpoint can be damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepserve.core.errors import CheckpointError
from deepserve.engine.inventory import expected_tensors
from deepserve.engine.network_config import decode_config, encode_config
from deepserve.engine.reference.checkpoint import load_network, save_network
from deepserve.engine.reference.network import Network
from tests.engine.reference.oracle import TINY, YARN, oracle, ours


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A healthy checkpoint in float32."""
    network = Network(decode_config({**TINY, "rope_scaling": YARN}))
    network.initialise(torch.Generator().manual_seed(0))
    save_network(network, tmp_path, matrices=torch.float32)
    return tmp_path


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors, or drop those that are None; a double underscore stands for a dot."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / "model.safetensors")


def test_the_network_has_exactly_the_tensors_of_the_inventory() -> None:
    config = decode_config(TINY)
    shapes = {name: tuple(tensor.shape) for name, tensor in Network(config).named_tensors().items()}
    assert shapes == {name: tensor.shape for name, tensor in expected_tensors(config)}


@torch.inference_mode()
def test_a_saved_network_loads_back_the_same(folder: Path) -> None:
    network = load_network(folder)
    original = Network(decode_config({**TINY, "rope_scaling": YARN}))
    original.initialise(torch.Generator().manual_seed(0))
    assert network.config == original.config
    loaded = network.named_tensors()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.named_tensors().items())


def test_the_official_layout_stores_the_official_types(tmp_path: Path) -> None:
    network = Network(decode_config(TINY))
    network.initialise(torch.Generator().manual_seed(0))
    save_network(network, tmp_path)
    types = {name: tensor.dtype for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    assert types["layers.1.attn.wq_a.weight"] == types["layers.0.ffn.experts.7.w3.weight"] == torch.bfloat16
    assert types["layers.1.attn.indexer.compressor.norm.weight"] == types["embed.weight"] == torch.bfloat16
    assert types["layers.0.ffn.gate.tid2eid"] == torch.int64
    for name in ("layers.3.ffn.gate.bias", "layers.1.attn.attn_sink", "layers.1.attn.indexer.compressor.ape"):
        assert types[name] == torch.float32
    for name in ("hc_head_scale", "layers.2.hc_attn_fn", "layers.2.hc_ffn_base"):
        assert types[name] == torch.float32


@pytest.mark.parametrize("layout", ["transformers", "transformers, sharded", "saved by transformers"])
@torch.inference_mode()
def test_a_checkpoint_of_transformers_gives_the_same_logits(tmp_path: Path, layout: str) -> None:
    model = oracle()
    if layout == "saved by transformers":
        model.save_pretrained(tmp_path)
    else:
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
        if "sharded" in layout:
            names = sorted(tensors)
            halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
            for file, part in halves.items():
                save_file({name: tensors[name] for name in part}, tmp_path / file)
            weight_map = {name: file for file, part in halves.items() for name in part}
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        else:
            save_file(tensors, tmp_path / "model.safetensors")
    tokens = torch.arange(200).view(1, 200)
    network = load_network(tmp_path)
    assert network.config == ours(model).config
    assert torch.equal(network(tokens), ours(model)(tokens))


def test_every_difference_is_named_at_once(folder: Path) -> None:
    edit(
        folder,
        norm__weight=None,
        layers__0__ffn__experts__3__w2__weight=None,
        layers__9__attn__wq_a__weight=torch.zeros(2),
        layers__1__attn__attn_sink=torch.zeros(5),
        layers__0__ffn__gate__tid2eid=torch.zeros(512, 2),
    )
    with pytest.raises(CheckpointError) as caught:
        load_network(folder)
    for fault in (
        "missing norm.weight",
        "missing layers.0.ffn.experts.3.w2.weight",
        "unknown layers.9.attn.wq_a.weight",
        "layers.1.attn.attn_sink is [5], must be [4]",
        "layers.0.ffn.gate.tid2eid is F32",
    ):
        assert fault in caught.value.message
    assert caught.value.message.count(";") == 4


def test_the_draft_head_is_left_out(folder: Path) -> None:
    edit(folder, mtp__0__attn__wq_a__weight=torch.zeros(1))
    load_network(folder)


def test_quantised_matrices_without_scales_are_refused(folder: Path) -> None:
    edit(folder, layers__0__attn__wq_a__weight=torch.zeros(32, 64).to(torch.float8_e4m3fn))
    with pytest.raises(CheckpointError, match=r"missing layers\.0\.attn\.wq_a\.scale, as .*weight is F8_E4M3"):
        load_network(folder)


def test_impossible_values_are_refused_with_the_tensor_named(folder: Path) -> None:
    edit(folder, layers__0__attn__wkv__weight=torch.full((32, 64), torch.nan))
    with pytest.raises(CheckpointError, match=r"layers\.0\.attn\.wkv\.weight holds values that are not finite"):
        load_network(folder)


def test_values_beyond_float32_are_refused_with_the_tensor_named(folder: Path) -> None:
    edit(folder, layers__0__attn__wkv__weight=torch.full((32, 64), 1e300, dtype=torch.float64))
    with pytest.raises(CheckpointError, match=r"layers\.0\.attn\.wkv\.weight holds values that are not finite"):
        load_network(folder)


def test_a_linked_config_cannot_lead_out_of_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "config.json"
    (folder / "config.json").rename(outside)
    (folder / "config.json").symlink_to(outside)
    with pytest.raises(CheckpointError, match="leads out of"):
        load_network(folder)


@pytest.mark.parametrize(("row", "fault"), [([0, 8], "outside 0..7"), ([3, 3], "same expert twice")])
def test_hash_tables_must_name_distinct_experts(folder: Path, row: list[int], fault: str) -> None:
    edit(folder, layers__1__ffn__gate__tid2eid=torch.tensor([row] * 512))
    with pytest.raises(CheckpointError, match=rf"layers\.1\.ffn\.gate\.tid2eid .*{fault}"):
        load_network(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file.* hc_head_fn"):
        load_network(folder)
    path.write_bytes(whole[: len(whole) // 4])
    with pytest.raises(CheckpointError, match=r"it ends before the data of .* and \d+ more"):
        load_network(folder)
    path.write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file"):
        load_network(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_network(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_network(folder)


@pytest.mark.parametrize("target", ["../outside.safetensors", "/etc/hostname", "link.safetensors"])
def test_an_index_cannot_lead_out_of_the_folder(
    folder: Path, target: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "weights"
    outside.write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "link.safetensors").symlink_to(outside)
    index = {"weight_map": {"embed.weight": target}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="leads out of"):
        load_network(folder)


@pytest.mark.parametrize("index", ["[1]", "{", '{"weight_map": {"embed.weight": 3}}', "{}"])
def test_a_damaged_index_is_refused(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="not a weight index"):
        load_network(folder)


def test_an_index_that_promises_too_much_is_refused(folder: Path) -> None:
    index = {"weight_map": {"embed.weight": "model.safetensors", "more.weight": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks more\.weight"):
        load_network(folder)


def test_a_missing_shard_is_named_with_a_tensor_it_should_hold(folder: Path) -> None:
    index = {"weight_map": {"embed.weight": "model-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-00001\.safetensors is missing, .* embed\.weight"):
        load_network(folder)


def test_a_config_survives_being_written() -> None:
    for fields in (TINY, {**TINY, "rope_scaling": YARN}):
        config = decode_config(fields)
        assert decode_config(json.loads(json.dumps(encode_config(config)))) == config


def test_the_reference_codes_spelling_is_read() -> None:
    spelled = {
        "vocab_size": 512, "dim": 64, "moe_inter_dim": 32, "n_layers": 4, "n_hash_layers": 2, "n_heads": 4,
        "n_routed_experts": 8, "n_shared_experts": 1, "n_activated_experts": 2, "score_func": "sqrtsoftplus",
        "route_scale": 1.5, "swiglu_limit": 10.0, "q_lora_rank": 32, "head_dim": 32, "rope_head_dim": 8,
        "norm_eps": 1e-6, "o_groups": 2, "o_lora_rank": 16, "window_size": 8, "original_seq_len": 256,
        "rope_theta": 10000, "rope_factor": 4, "beta_fast": 32, "beta_slow": 1, "index_n_heads": 16,
        "index_head_dim": 16, "index_topk": 512, "hc_mult": 4, "hc_sinkhorn_iters": 20, "max_seq_len": 1024,
        "compress_rope_theta": 160000, "compress_ratios": [0, 4, 128, 4, 0],
    }  # fmt: skip
    assert decode_config(spelled) == decode_config({**TINY, "rope_scaling": YARN})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"compress_ratios": None}, "compress_ratios .* is missing"),
        ({"compress_ratios": [0, 4]}, "2 entries for 4 layers"),
        ({"compress_ratios": [0, 4, 1, 4]}, "0 or at least 2"),
        ({"qk_rope_head_dim": 9}, "must be even"),
        ({"o_groups": 3}, "o_groups 3"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9 of 8"),
        ({"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ({"model_type": "deepseek_v41"}, "deepseek_v41"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "linear"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "original_max_position_embeddings"),
        ({"n_shared_experts": 2}, "n_shared_experts"),
        ({"hidden_size": 10**30}, "hidden_size"),
        ({"vocab_size": 1 << 30}, "vocab_size must be at most"),
        ({"num_hidden_layers": "x"}, "num_hidden_layers"),
        ({"rope_scaling": "yarn"}, "rope_scaling"),
        ({"rope_scaling": {"compress": 1}}, "compress"),
        ({"mlp_layer_types": 3}, "mlp_layer_types"),
        ({"compress_rates": [1]}, "compress_rates"),
        ({"compress_rope_theta": 1}, "compress_rope_theta must be more than 1"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be more than 0"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(CheckpointError, match=fault):
        decode_config({**TINY, **changes})
