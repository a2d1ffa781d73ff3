"""What docs/gateway.md shows is taken by the real loader and the real command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from deepserve.backends.fleet.opening import named_upstreams
from deepserve.backends.kinds import open_upstream
from deepserve.catalog.providers import find_provider, load_providers
from deepserve.cli import main
from deepserve.configuration.configuration import load_configuration
from deepserve.core.errors import ConfigurationError

PAGE = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("deepserve ")
]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_configuration_is_taken_and_its_upstreams_can_be_opened(block: str, tmp_path: Path) -> None:
    file = tmp_path / "deepserve.toml"
    file.write_text(block)
    settings = load_configuration(file=file, environment={}).settings
    assert settings.backend == "upstream"
    keys = {provider.key_variable: "sk-test" for provider in load_providers().values()}
    for upstream in named_upstreams(settings):
        backend = open_upstream(upstream, settings, environment=keys)
        served = {model.id for model in backend.models()}
        assert served == set(upstream.models or load_providers()[upstream.kind].models)


def test_every_provider_has_a_configuration_beside_the_variable_of_its_key() -> None:
    shown = re.findall(r"`(\w+)` holds the key(.*?)\.\n\n```toml\n\[\[upstreams\]\]\nid = \S+\nkind = \"(\S+)\"", PAGE)
    assert [kind for _, _, kind in shown] == list(load_providers())
    for variable, optional, kind in shown:
        provider = load_providers()[kind]
        assert variable == provider.key_variable
        assert bool(optional) is not provider.needs_key


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    if "--config" not in words:  # that file is yours
        command.make_context("deepserve", words, resilient_parsing=False)


def test_the_page_is_reached_from_the_readme() -> None:
    assert "docs/gateway.md" in (Path(__file__).parents[2] / "README.md").read_text()
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("deepsek", "Did you mean deepseek?"),
        ("vllm", "vllm=http://"),
        ("vllm=10.0.0.7:8000/v1", "write vllm=http://10.0.0.7:8000/v1"),
        ("10.0.0.7:8000", "write http://10.0.0.7:8000/v1"),
    ],
)
def test_what_newcomers_get_wrong_is_put_right(wanted: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        find_provider(wanted, load_providers())
    assert words in raised.value.message
