"""Clusters as operators name them: on the command line, in a file; and what is wrong with what they wrote."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from deepserve.backends.backend import Backend
from deepserve.backends.cluster.backend import ClusterBackend
from deepserve.backends.cluster.wires import WIRES
from deepserve.backends.fleet.opening import keeps_turns, named_upstreams
from deepserve.backends.kinds import open_upstream
from deepserve.backends.tokens.model import shipped_folder
from deepserve.backends.upstream.backend import UpstreamBackend
from deepserve.catalog.providers import load_providers, read_upstream
from deepserve.config import Settings, UpstreamSettings
from deepserve.configuration.configuration import load_configuration
from deepserve.core.errors import CheckpointError, ConfigurationError, DeepserveError

VLLM = UpstreamSettings(id="pro", kind="vllm", address="http://10.0.0.7:8000/v1", tokenizer=shipped_folder())


def opened(upstream: UpstreamSettings, settings: Settings | None = None) -> Backend:
    return open_upstream(upstream, settings or Settings(), environment={})


def addresses(backend: Backend) -> list[str]:
    assert isinstance(backend, ClusterBackend)
    return [replica.address for replica in backend._replicas.order(b"")]


@pytest.mark.parametrize("kind", WIRES)
def test_a_tokenizer_makes_a_server_a_token_engine(kind: str) -> None:
    backend = opened(msgspec.structs.replace(VLLM, kind=kind))
    assert isinstance(backend, ClusterBackend)
    assert backend.enforces()
    assert addresses(backend) == ["http://10.0.0.7:8000"]
    assert {model.served_by.provider for model in backend.models()} == {"pro"}


@pytest.mark.parametrize("kind", WIRES)
def test_without_a_tokenizer_it_is_spoken_to_in_chat_completions(kind: str) -> None:
    assert isinstance(opened(msgspec.structs.replace(VLLM, kind=kind, tokenizer=None)), UpstreamBackend)


def test_every_kind_of_token_server_has_a_row() -> None:
    assert WIRES.keys() <= load_providers().keys()


def test_several_addresses_are_one_cluster() -> None:
    several = msgspec.structs.replace(VLLM, replicas=("http://10.0.0.8:8000/", "http://10.0.0.9:8000/v1"))
    assert sorted(addresses(opened(several))) == [f"http://10.0.0.{number}:8000" for number in (7, 8, 9)]


def test_one_word_names_several_servers_and_the_command_line_their_tokenizer() -> None:
    settings = Settings(
        backend="upstream", upstream="sglang=http://a:30000, http://b:30000", upstream_tokenizer=shipped_folder()
    )
    (upstream,) = named_upstreams(settings)
    assert (upstream.kind, upstream.address, upstream.replicas) == ("sglang", "http://a:30000", ("http://b:30000",))
    assert sorted(addresses(opened(upstream, settings))) == ["http://a:30000", "http://b:30000"]
    assert keeps_turns(settings)


def test_models_are_named_as_for_any_upstream() -> None:
    backend = opened(msgspec.structs.replace(VLLM, models={"deepseek-v4-flash": "my-flash"}))
    assert [(model.id, model.served_by.model) for model in backend.models()] == [("deepseek-v4-flash", "my-flash")]


def refused(upstream: UpstreamSettings, settings: Settings | None = None) -> DeepserveError:
    with pytest.raises(DeepserveError) as raised:
        opened(upstream, settings)
    return raised.value


def test_a_folder_without_a_tokenizer_is_told_with_what_belongs_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        error = refused(msgspec.structs.replace(VLLM, tokenizer=folder))
        assert isinstance(error, CheckpointError | ConfigurationError)
    (tmp_path / "DeepSeek-V4-Flash-mini").mkdir()
    error = refused(msgspec.structs.replace(VLLM, tokenizer=tmp_path / "DeepSeek-V4-Flash-mini"))
    assert isinstance(error, CheckpointError)
    assert "tokenizer.json of the checkpoint that its servers serve" in error.message
    assert "upstream pro" in error.message


def test_a_folder_whose_name_tells_no_profile_needs_one_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.symlink_to(shipped_folder())
    copied = tmp_path / "other"
    copied.mkdir()
    (copied / "tokenizer.json").write_bytes((shipped_folder() / "tokenizer.json").read_bytes())
    assert "--profile" in refused(msgspec.structs.replace(VLLM, tokenizer=copied)).message
    assert opened(msgspec.structs.replace(VLLM, tokenizer=copied, profile="mini"))
    assert opened(msgspec.structs.replace(VLLM, tokenizer=copied), Settings(profile="mini"))


def test_services_that_take_no_token_ids_need_no_tokenizer() -> None:
    upstream = UpstreamSettings(id="x", kind="deepserve", address="http://10.0.0.7:8000/v1", tokenizer=shipped_folder())
    assert "only vllm, sglang, llamacpp are given token ids" in refused(upstream).message


def test_several_addresses_without_a_tokenizer_are_refused() -> None:
    error = refused(msgspec.structs.replace(VLLM, tokenizer=None, replicas=("http://10.0.0.8:8000",)))
    assert "has several addresses" in error.message


def test_an_address_named_twice_is_refused() -> None:
    error = refused(msgspec.structs.replace(VLLM, replicas=("http://10.0.0.7:8000",)))
    assert "names http://10.0.0.7:8000 twice" in error.message


def test_no_replica_may_be_this_server() -> None:
    settings = Settings(host="127.0.0.1", port=8123)
    backend = opened(msgspec.structs.replace(VLLM, replicas=("http://127.0.0.1:8123",)), settings)
    assert isinstance(backend, ClusterBackend)
    (own,) = [one for one in backend._replicas.order(b"") if one.address == "http://127.0.0.1:8123"]
    assert own._client._policy.refusal("127.0.0.1", ("127.0.0.1", 8123)) is not None


def test_rows_say_where_they_come_from() -> None:
    assert read_upstream("llamacpp=http://a:8080").kind == "llamacpp"
    assert all("2026" in load_providers()[kind].source for kind in WIRES)


def test_a_configuration_file_names_a_cluster(tmp_path: Path) -> None:
    file = tmp_path / "deepserve.toml"
    file.write_text(
        f"""
        [[upstreams]]
        id = "rack"
        kind = "vllm"
        address = "http://10.0.0.7:8000"
        replicas = ["http://10.0.0.8:8000"]
        tokenizer = "{shipped_folder()}"
        profile = "mini"
        is_self_hosted = true
        """
    )
    settings = load_configuration(file=file, environment={}, directory=tmp_path).settings
    (upstream,) = named_upstreams(settings)
    assert sorted(addresses(opened(upstream, settings))) == ["http://10.0.0.7:8000", "http://10.0.0.8:8000"]


def test_a_configuration_file_that_names_no_folder_is_told_where(tmp_path: Path) -> None:
    file = tmp_path / "deepserve.toml"
    file.write_text('[[upstreams]]\nid = "rack"\nkind = "vllm"\naddress = "http://h"\ntokenizer = "/none"\n')
    with pytest.raises(ConfigurationError, match="/none, which is not there"):
        load_configuration(file=file, environment={}, directory=tmp_path)
