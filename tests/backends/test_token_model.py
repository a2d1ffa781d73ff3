from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.tokens.model import load_model
from deepserve.config import Settings
from deepserve.core.errors import CheckpointError, ConfigurationError
from deepserve.prompt.special_tokens import EOS
from tests.backends.embedded_setup import write_model
from tests.engine.fake_engine import FakeEngine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mini-test"


def test_a_folder_is_read(folder: Path) -> None:
    config = {"do_sample": True, "temperature": 0.6, "top_k": None, "eos_token_id": [0, 7], "transformers_version": "5"}
    model = load_model(write_model(folder, **{"generation_config.json": config}))
    assert model.name == "mini-test"
    assert model.defaults.temperature == 0.6
    assert model.stop_tokens == {0, 7, model.tokenizer.special_id(EOS)}
    assert model.profile.name == "mini"


def test_without_generation_config_mini_models_are_greedy(folder: Path) -> None:
    model = load_model(write_model(folder, **{"generation_config.json": None}))
    assert model.defaults.temperature == 0
    assert model.stop_tokens == {model.tokenizer.eos_id}


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("my-mini-model", "mini"),
        ("DeepSeek-V4-Flash", "preview"),
        ("DeepSeek-V4-Pro-DSpark", "preview"),
        ("DeepSeek-V4-Flash-0731", "0731"),
        ("DeepSeek-V4-Pro-0813", "0731"),
    ],
)
def test_the_profile_follows_the_name(tmp_path: Path, name: str, profile: str) -> None:
    if profile != "mini":
        pytest.importorskip("deepseek_recipe", reason="official profiles need deepserve[v4]")
    assert load_model(write_model(tmp_path / name)).profile.name == profile


def test_a_named_profile_wins(tmp_path: Path) -> None:
    assert load_model(write_model(tmp_path / "anything"), "mini").profile.name == "mini"


def test_a_name_that_says_nothing_needs_a_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--profile"):
        load_model(write_model(tmp_path / "my-finetune"))


def test_an_unknown_profile_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="0731, preview, mini"):
        load_model(write_model(folder), "v9")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokenizer.json": None}, "tokenizer.json"),
        ({"generation_config.json": "{"}, "generation_config.json"),
        ({"generation_config.json": "[]"}, "generation_config.json"),
        ({"generation_config.json": {"temperature": "hot"}}, "temperature"),
        ({"generation_config.json": {"temperature": -1}}, "`temperature` cannot be -1"),
        ({"generation_config.json": {"repetition_penalty": 0}}, "`repetition_penalty` cannot be 0"),
        ({"generation_config.json": {"top_k": -1}}, "`top_k` cannot be -1"),
        ({"tokenizer.json": "{}"}, r"mini-test/tokenizer\.json: "),
    ],
)
def test_a_damaged_folder_is_refused_with_the_file_named(folder: Path, changes: dict[str, Any], named: str) -> None:
    # Any: contents of files.
    with pytest.raises(CheckpointError, match=named):
        load_model(write_model(folder, **changes))


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json"])
def test_a_link_cannot_lead_out_of_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    write_model(folder)
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match=f"{name} leads out of"):
        load_model(folder)


def test_a_tokenizer_that_is_no_text_is_refused(folder: Path) -> None:
    (write_model(folder) / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: .*invalid start byte"):
        load_model(folder)


def test_a_folder_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="mini-test"):
        load_model(folder)


def test_names_fit_into_headers(tmp_path: Path) -> None:
    assert load_model(write_model(tmp_path / "mini модель\r\n x")).name == "mini-x"


def test_the_fingerprint_follows_tokenizer_and_profile(folder: Path, tmp_path: Path) -> None:
    one = load_model(write_model(folder)).fingerprint
    assert one == load_model(write_model(tmp_path / "mini-copy")).fingerprint
    changed = json.loads((folder / "tokenizer.json").read_text())
    other = load_model(
        write_model(tmp_path / "mini-other", **{"tokenizer.json": json.dumps(changed, indent=1)})
    ).fingerprint
    assert one != other


def test_a_tokenizer_larger_than_the_network_is_refused(folder: Path) -> None:
    engine = FakeEngine(vocab_size=100)
    with pytest.raises(CheckpointError, match="only 100"):
        EmbeddedBackend(load_model(write_model(folder)), engine, Settings())


def test_without_torch_serving_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def import_without_torch(name: str, *args: Any, **options: Any) -> Any:  # Any: as the original's
        if name.startswith("deepserve.engine.reference"):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", import_without_torch)
    with pytest.raises(ConfigurationError, match=r'pip install "deepserve\[reference\]"'):
        EmbeddedBackend.load(Settings(model_path=write_model(folder), engine="reference"))
