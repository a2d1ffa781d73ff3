"""`deepserve config`: the configuration file, checked, shown and begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deepserve.cli.serve_options import serve_options
from deepserve.cli.setting_option import GroupedCommand
from deepserve.cli.settings import config_option, configuration_from, named_file
from deepserve.configuration.configuration import Configuration, load_configuration, usual_file
from deepserve.configuration.example import example as make_example
from deepserve.configuration.shown import show_differences, show_settings
from deepserve.tools.mcp.mcp_config import read_mcp_config


@click.group()
def config() -> None:
    """Check the configuration file, show the settings in force, or begin a file.

    \b
      deepserve config example > deepserve.toml
      deepserve config check deepserve.toml
      deepserve serve --config deepserve.toml
    """


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@config_option
def check(file: Path | None) -> None:
    """Read FILE, or the one that `serve` would read, and print what differs from the defaults.

    Nothing is started. Exits with 1 when something is wrong, and says where.
    """
    configuration = load_configuration(file=file or named_file())
    mcp_config = configuration.settings.mcp_config
    if mcp_config is not None:
        read_mcp_config(mcp_config)  # above the layer that reads the rest
    _tell(configuration)
    differences = show_differences(configuration)
    if differences:
        click.echo(differences, nl=False)
    else:
        click.echo("Every setting has its default.")


@config.command(cls=GroupedCommand)
@serve_options
def show(**options: Any) -> None:  # Any: the options of `serve`, as click hands them over
    """Print every setting as `serve` would use it with the same options, and where it comes from."""
    configuration = configuration_from(**options)
    _tell(configuration)
    click.echo(show_settings(configuration), nl=False)


@config.command()
def example() -> None:
    """Print a file with every setting, its meaning and its default, in comments."""
    click.echo(make_example(), nl=False)


def _tell(configuration: Configuration) -> None:
    """Beside the output, so that it stays TOML."""
    if configuration.file is None:
        click.echo(f"No configuration file; {usual_file()} would be read.", err=True)
    else:
        click.echo(f"Read {configuration.file}: nothing is wrong with it.", err=True)
    for note in configuration.notes:
        click.echo(note, err=True)
