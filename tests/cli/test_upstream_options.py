"""Saying on the command line who answers."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from deepserve.backends.backend import Backend
from deepserve.cli import main
from deepserve.cli import serve as serve_module
from deepserve.cli.upstream_options import name_models
from deepserve.config import Settings, UpstreamSettings
from deepserve.core.errors import ConfigurationError


def test_models_are_named_in_pairs() -> None:
    assert name_models(["deepseek-v4-flash=a/b=c"]) == {"deepseek-v4-flash": "a/b=c"}
    for wrong in (["x"], ["=y"], ["x="], ["x=1", "x=2"]):
        with pytest.raises(click.BadParameter):
            name_models(wrong)


def _settings_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> tuple[Settings | None, str]:
    seen: list[Settings] = []

    def select(settings: Settings, *_: object, **__: object) -> Backend:
        seen.append(settings)
        raise ConfigurationError("far enough")

    monkeypatch.setattr(serve_module, "select_backend", select)
    result = CliRunner().invoke(main, ["serve", "--state-dir", str(tmp_path), *arguments])
    return (seen[0] if seen else None), result.output


def test_an_upstream_takes_the_place_of_the_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ("--upstream", "vllm=http://h/v1", "--upstream-model", "deepseek-v4-flash=mine")
    settings, _ = _settings_of(monkeypatch, tmp_path, *arguments)
    assert settings is not None
    assert (settings.backend, settings.upstream) == ("upstream", "vllm=http://h/v1")
    assert settings.upstream_models == {"deepseek-v4-flash": "mine"}


def test_several_upstreams_are_a_chain_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ("--upstream", "deepseek", "--upstream", "vllm=http://h/v1", "--upstream", "embedded")
    settings, _ = _settings_of(monkeypatch, tmp_path, *arguments)
    assert settings is not None
    assert (settings.backend, settings.upstream) == ("upstream", None)
    assert settings.upstreams == (
        UpstreamSettings(id="deepseek", kind="deepseek"),
        UpstreamSettings(id="vllm", kind="vllm", address="http://h/v1"),
        UpstreamSettings(id="embedded", kind="embedded"),
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--upstream", "deepseek", "--upstream", "deepsek"), "deepsek"),
        (("--upstream", "deepseek", "--backend", "scripted"), "leave one out"),
        (("--upstream-model", "deepseek-v4-flash=mine"), "name it"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    settings, output = _settings_of(monkeypatch, tmp_path, *arguments)
    assert settings is None
    assert said in output
