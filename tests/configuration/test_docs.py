"""What docs/configuration.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

from deepserve.cli import main
from deepserve.config import LIVE
from deepserve.configuration.configuration import load_configuration
from deepserve.configuration.declarations import Items, by_name, root

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "keys").write_text("sk-one\n")
    (tmp_path / "deepseek.key").write_text("sk-two\n")
    file = tmp_path / "deepserve.toml"
    file.write_text(text)
    settings = load_configuration(file=file, environment={}).settings
    assert (settings.port, settings.backend, settings.limits.body_bytes) == (9000, "upstream", 16 << 20)
    assert settings.chains["deepseek-v4-flash"] == ("second", "first")


def test_every_table_is_explained() -> None:
    tables = {f"[[{name}]]" if isinstance(node, Items) else f"[{name}]" for name, node in root().members.items()}
    rows = "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `["))
    assert set(re.findall(r"`(\[.*?\]+)`", rows)) == tables


def test_what_changes_at_once_is_listed() -> None:
    listed = PAGE.partition("At once: ")[2].partition("Those of")[0]
    assert re.findall(r"`(\w+)`", listed) == sorted(LIVE)


def test_the_variables_and_commands_it_names_exist() -> None:
    variables = {setting.variable for setting in by_name().values()} | {"DEEPSERVE_CONFIG", "DEEPSERVE_"}
    assert set(re.findall(r"`(DEEPSERVE_\w*)`", PAGE)) <= variables
    context = main.make_context("deepserve", ["--help"], resilient_parsing=True)
    for name in re.findall(r"deepserve ([a-z]+)", PAGE):
        assert main.get_command(context, name) is not None, name
