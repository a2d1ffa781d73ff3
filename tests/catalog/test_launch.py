"""The commands that start clusters, held against those that the engines' makers publish, restated here."""

from __future__ import annotations

import re

import pytest

from deepserve.catalog.launch import LaunchCommand, LaunchWish, launch_command, load_launch_book
from deepserve.catalog.providers import load_providers
from deepserve.core.errors import ConfigurationError

BOOK = load_launch_book()


def made(engine: str, model: str, gpus: str, **wish: object) -> LaunchCommand:
    return launch_command(LaunchWish(engine=engine, model=model, gpus=gpus, **wish), BOOK)  # type: ignore[arg-type]  # literals


def options(command: LaunchCommand) -> dict[str, str]:
    """Each option with its value; those without one with nothing."""
    found: dict[str, str] = {}
    name = ""
    for argument in command.args:
        if argument.startswith("-"):
            name, _, value = argument.partition("=")
            found[name] = value
        elif name:
            found[name] = f"{found[name]} {argument}".strip()
    return found


VLLM_BASE = {
    "--trust-remote-code": "",
    "--kv-cache-dtype": "fp8",
    "--block-size": "256",
    "--tokenizer-mode": "deepseek_v4",
    "--tool-call-parser": "deepseek_v4",
    "--enable-auto-tool-choice": "",
    "--reasoning-parser": "deepseek_v4",
}
GRAPHS = '{"cudagraph_mode":"FULL_AND_PIECEWISE","custom_ops":["all"]}'
BLACKWELL = {"--moe-backend": "deep_gemm_mega_moe", "--attention_config.use_fp4_indexer_cache": "True"}
OLD = {"vllm": "0.25.0", "sglang": "0.5.16"}
"""The releases for which the commands below were published."""
SGLANG_BASE = {"--trust-remote-code": "", "--reasoning-parser": "deepseek-v4", "--tool-call-parser": "deepseekv4"}
EAGLE = {"--speculative-algorithm": "EAGLE", "--speculative-eagle-topk": "1"}


@pytest.mark.parametrize("gpus", ["4xH200", "4xB200", "4xGB200", "1xGB300"])
@pytest.mark.parametrize("model", ["flash"])
def test_every_vllm_begins_alike(model: str, gpus: str) -> None:
    command = made("vllm", model, gpus)
    assert command.args[:3] == ("vllm", "serve", "deepseek-ai/DeepSeek-V4-Flash")
    assert VLLM_BASE.items() <= options(command).items()


# Each as its makers publish it: the recipes of vLLM, the cookbook of SGLang, both as of the sources in launch.toml.
PUBLISHED = [
    ("vllm flash 4xH200 tep", {"--tensor-parallel-size": "4", "--enable-expert-parallel": ""}, {"--moe-backend"}),
    (
        "vllm flash 4xH200 dep",
        {"--data-parallel-size": "4", "--enable-expert-parallel": "", "--compilation-config": GRAPHS},
        {"--tensor-parallel-size"},
    ),
    ("vllm flash 4xB200 tep", {"--tensor-parallel-size": "4", "--enable-expert-parallel": "", **BLACKWELL}, set()),
    ("vllm flash 4xGB200 dep", {"--data-parallel-size": "4", "--enable-expert-parallel": "", **BLACKWELL}, set()),
    (
        "vllm flash 4xB200 tp",
        {"--tensor-parallel-size": "4", "--attention_config.use_fp4_indexer_cache": "True"},
        {"--moe-backend", "--enable-expert-parallel"},
    ),
    ("vllm flash 1xGB300 tep", {"--tensor-parallel-size": "1"}, {"--enable-expert-parallel", "--moe-backend"}),
    (
        "vllm flash 4xMI355X tp",
        {
            "--tensor-parallel-size": "4",
            "--distributed-executor-backend": "mp",
            "--gpu-memory-utilization": "0.9",
            "--max-num-seqs": "512",
            "--max-num-batched-tokens": "8192",
            "--compilation-config": '{"mode": 3, "cudagraph_mode": "FULL_DECODE_ONLY"}',
        },
        set(),
    ),
    ("vllm pro 8xB200 tep", {"--tensor-parallel-size": "8", "--enable-expert-parallel": "", **BLACKWELL}, set()),
    ("vllm pro 8xB300 dep", {"--data-parallel-size": "8", "--enable-expert-parallel": "", **BLACKWELL}, set()),
    ("vllm pro 8xH200 dep", {"--data-parallel-size": "8", "--max-model-len": "800000"}, {"--moe-backend"}),
    (
        "vllm pro 8xGB200 dep",
        {"--data-parallel-size": "8", "--data-parallel-size-local": "4", **BLACKWELL},
        {"--headless"},
    ),
    (
        "vllm flash 4xB200 tep mtp",
        {"--speculative-config": '{"method":"mtp","num_speculative_tokens":2}'},
        set(),
    ),
    ("vllm flash 4xH200 tep mtp", {"--speculative-config": '{"method":"mtp","num_speculative_tokens":1}'}, set()),
    (
        "sglang flash 4xB200 tp",
        {
            "--tp": "4",
            "--moe-runner-backend": "flashinfer_mxfp4",
            "--swa-full-tokens-ratio": "0.1",
            "--chunked-prefill-size": "4096",
        },
        {"--dp", "--speculative-algorithm"},
    ),
    ("sglang flash 4xH200 tp", {"--tp": "4", "--moe-runner-backend": "marlin"}, {"--dp"}),
    ("sglang flash 8xH100 tp", {"--tp": "8", "--moe-runner-backend": "marlin"}, set()),
    ("sglang flash 8xRTX-PRO-6000 tp", {"--tp": "8"}, set()),
    (
        "sglang flash 4xB200 tp mtp",
        {**EAGLE, "--speculative-num-steps": "3", "--speculative-num-draft-tokens": "4"},
        set(),
    ),
    (
        "sglang flash 4xB200 dep mtp",
        {
            "--dp": "4",
            "--enable-dp-attention": "",
            "--moe-a2a-backend": "deepep",
            **EAGLE,
            "--speculative-num-steps": "1",
            "--speculative-num-draft-tokens": "2",
        },
        {"--moe-runner-backend"},
    ),
    (
        "sglang flash 4xB200 throughput",
        {"--dp": "4", "--enable-dp-attention": "", "--moe-a2a-backend": "megamoe"},
        {"--moe-runner-backend", "--speculative-algorithm"},
    ),
    ("sglang pro 8xB200 tp", {"--tp": "8"}, set()),
    ("sglang pro 4xGB300 tp", {"--tp": "4"}, set()),
    ("sglang pro 8xH200 tp", {"--tp": "8", "--moe-runner-backend": "marlin"}, set()),
    ("sglang pro 16xH100 tp", {"--tp": "16", "--nnodes": "2", "--node-rank": "0"}, set()),
    ("sglang pro 8xGB200 tp", {"--tp": "8", "--nnodes": "2"}, set()),
]


@pytest.mark.parametrize(("words", "wanted", "absent"), PUBLISHED, ids=[words for words, _, _ in PUBLISHED])
def test_a_command_has_what_is_published(words: str, wanted: dict[str, str], absent: set[str]) -> None:
    engine, model, gpus, strategy, *draft = words.split()
    command = made(engine, model, gpus, strategy=strategy, draft=draft[0] if draft else "none", version=OLD[engine])
    found = options(command)
    base = VLLM_BASE if engine == "vllm" else SGLANG_BASE
    assert {**base, **wanted}.items() <= found.items()
    assert not absent & found.keys()
    assert not any("Nobody is known" in note for note in command.notes)
    assert (command.env == {"VLLM_ROCM_USE_AITER": "1"}) == ("MI355X" in gpus)


def test_newer_releases_get_the_names_that_they_know() -> None:
    """vLLM 0.33 has no `use_fp4_indexer_cache` any more and would not start with it."""
    for version in (None, "0.30.0", "0.33.0", "v0.33.1rc2"):
        found = options(made("vllm", "flash", "4xB200", version=version))
        assert found["--attention_config.indexer_kv_dtype"] == "mxfp4"
        assert "--attention_config.use_fp4_indexer_cache" not in found
    assert "--attention_config.indexer_kv_dtype" not in options(made("vllm", "flash", "4xB200", version="0.29.9"))


def test_dspark_is_for_the_checkpoints_that_have_it() -> None:
    vllm = options(made("vllm", "pro", "8xB200", release="0813", draft="dspark"))
    assert vllm["--speculative-config"] == '{"method":"dspark","num_speculative_tokens":5}'
    sglang = options(made("sglang", "flash", "4xB200", release="0731", draft="dspark"))
    assert (sglang["--speculative-algorithm"], sglang["--speculative-dspark-block-size"]) == ("DSPARK", "5")


def test_every_release_is_served_under_the_name_that_the_gateway_asks_for() -> None:
    """Otherwise `--upstream vllm=…` would ask for a model that the cluster does not have."""
    for checkpoint in BOOK.checkpoint:
        for engine in ("vllm", "sglang"):
            command = made(engine, checkpoint.model, "8xB300", release=checkpoint.release)
            served = options(command).get("--served-model-name", checkpoint.repository)
            assert served == command.served == load_providers()[engine].models[f"deepseek-v4-{checkpoint.model}"]


def test_clusters_are_asked_to_tell_what_was_cached_and_to_follow_our_grammars() -> None:
    vllm, sglang = options(made("vllm", "flash", "4xH200")), options(made("sglang", "flash", "4xH200"))
    assert "--enable-prompt-tokens-details" in vllm
    assert vllm["--structured-outputs-config"] == '{"backend":"guidance"}'
    assert "--enable-cache-report" in sglang
    assert sglang["--grammar-backend"] == "llguidance"


def test_nim_is_a_container_that_knows_the_rest_itself() -> None:
    command = made("nim", "pro", "8xH200", cache="/c", port=9000)
    assert command.args[:2] == ("docker", "run")
    assert command.args[-1] == "nvcr.io/nim/deepseek-ai/deepseek-v4-pro:latest"
    assert {"NGC_API_KEY", "/c:/opt/nim/.cache", "9000:8000"} <= set(command.args)
    assert any(argument.startswith("NIM_PASSTHROUGH_ARGS=") for argument in command.args)


def test_llama_cpp_is_given_a_file_and_a_context() -> None:
    command = made("llamacpp", "flash", "1xlocal", gguf="/m/flash.gguf", context=65_536)
    found = options(command)
    assert command.args[0] == "llama-server"
    assert (found["--model"], found["--ctx-size"], found["--flash-attn"]) == ("/m/flash.gguf", "65536", "on")
    assert command.served == load_providers()["llamacpp"].models["deepseek-v4-flash"]


def test_the_second_machine_is_told_where_the_first_is() -> None:
    found = options(made("vllm", "pro", "8xGB200", rank=1, head="10.0.0.1"))
    assert found["--headless"] == ""
    assert (found["--data-parallel-start-rank"], found["--data-parallel-address"]) == ("4", "10.0.0.1")
    found = options(made("sglang", "pro", "16xH100", rank=1, head="10.0.0.1"))
    assert (found["--nnodes"], found["--node-rank"], found["--dist-init-addr"]) == ("2", "1", "10.0.0.1:20000")


REFUSED = {
    "vllm flash 8xMI300X": "vLLM does not run V4 on it",
    "vllm pro 8xMI325X": "vLLM does not run V4 on it",
    "vllm flash 1xH200": "has|have 141 GB together; .* needs at least 170",
    "vllm pro 4xGB200": "744 GB together; .* needs at least 960",
    "sglang pro 8xH100": "640 GB together; .* needs at least 960",
    "vllm flash 3xB200": "1, 2, 4, 8 or 16 cards, not over 3",
    "sglang pro 12xH200": "no whole number of machines",
    "vllm pro 8xGB200 tep": "over several machines only `--parallel dep`",
    "vllm flash 4xB200 throughput": "is SGLang's",
    "vllm flash 4xB200 auto": "finds no parallelism by itself",
    "sglang flash 4xH200 dep": "Marlin, which is for tensor parallelism only",
    "sglang flash 4xH200 throughput": "Marlin, which is for tensor parallelism only",
    "sglang flash 8xRTX-PRO-6000 throughput": "MegaMoE runs on B200",
    "sglang flash 4xB200 tep": "spreads experts together with data",
    "sglang flash 8xMI355X": "repacked FP8 checkpoints",
    "nim flash 8xH200": "for Pro only",
    "llamacpp pro 1xlocal": "800 GB even with 4 bits",
    "llamacpp flash 4xH200": "finds the cards itself",
    "llamacpp flash 1xlocal": "needs a GGUF file",
    "vllm flash 1xlocal": "needs to know the cards",
    "vllm flash H200": "names no cards",
    "vllm flash 0xH200": "names no cards",
    "vllm flash 4xA100": "is no card of this table",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_work_is_refused_with_the_reason(words: str) -> None:
    engine, model, gpus, *strategy = words.split()
    with pytest.raises(ConfigurationError, match=REFUSED[words]):
        made(engine, model, gpus, **({"strategy": strategy[0]} if strategy else {}))


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"engine": "vllm", "release": "0813", "draft": "mtp"}, "must not be run with mtp"),
        ({"engine": "vllm", "release": "preview", "draft": "dspark"}, "nothing to draft with by dspark"),
        ({"engine": "vllm", "release": "0731"}, "no release 0731 of pro"),
        ({"engine": "sglang", "extra": ("--enable-hierarchical-cache",)}, "issue 33656"),
        ({"engine": "vllm", "extra": ("--disable-hybrid-kv-cache-manager",)}, "hybrid manager"),
        ({"engine": "nim", "release": "preview"}, "holds the release 0813"),
        ({"engine": "vllm", "rank": 1}, "--rank is 1"),
        ({"engine": "vllm", "version": "0.19.2"}, "from 0.20.0 on"),
        ({"engine": "vllm", "version": "0.24.9", "release": "0813", "draft": "dspark"}, "from 0.25.0 on"),
        ({"engine": "sglang", "version": "0.5.15", "release": "0813", "draft": "dspark"}, "from 0.5.16 on"),
        ({"engine": "vllm", "version": "newest"}, "is no release"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_with_the_reason(wish: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        launch_command(LaunchWish(model="pro", gpus="8xB200", **wish), BOOK)  # type: ignore[arg-type]  # literals


def test_every_combination_that_is_listed_makes_a_command() -> None:
    for row in BOOK.known:
        for gpus in row.gpus:
            for strategy in row.strategies:
                gguf = "x.gguf" if row.engine == "llamacpp" else None
                command = made(row.engine, row.model, gpus, strategy=strategy, gguf=gguf, release=row.release)
                assert not any("Nobody is known" in note for note in command.notes), (row, gpus, strategy)
                assert "{" not in re.sub(r"\{\"[^ ]*|\{\"mode\": 3.*", "", " ".join(command.args))


def test_what_nobody_has_reported_is_made_and_said_so() -> None:
    command = made("vllm", "flash", "8xH100")
    assert options(command)["--tensor-parallel-size"] == "8"
    assert any("Nobody is known to have reported 8xH100" in note for note in command.notes)


def test_own_arguments_come_last() -> None:
    assert made("vllm", "flash", "4xH200", extra=("--seed", "1")).args[-2:] == ("--seed", "1")


def test_every_row_says_where_it_comes_from_and_when() -> None:
    sources = [*(row.source for row in BOOK.piece), *(row.source for row in BOOK.known)]
    for source in (*sources, *(row.source for row in BOOK.refusal)):
        assert re.search(r", \w+ 2026$", source), source
