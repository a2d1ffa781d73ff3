"""The command line. Each command is a module that is imported only when it runs, so that `--help` is instant."""

from __future__ import annotations

from importlib import import_module

import click
from typing_extensions import override

from deepserve import __version__
from deepserve.core.errors import DeepserveError

_GROUPS = {
    "Answer": {
        "serve": "Answer the DeepSeek V4 API on this machine.",
        "chat": "Talk to the model in this terminal.",
        "batch": "Answer every question of a file.",
        "models": "List the model ids that are served, and by what.",
        "launch": "Print or run the command that starts a cluster.",
    },
    "Set up": {
        "config": "Check, show or begin the configuration file.",
        "doctor": "Check what is installed and what would be served.",
        "providers": "List who else answers as V4; learn their real limits.",
        "keys": "Create, list and revoke API keys.",
        "database": "Show where a server keeps things; agree on a new secret.",
    },
    "Look into it": {
        "usage": "Show what has been answered, and what it cost.",
        "ledger": "Check and export the record of every attempt.",
        "cache": "Say why a prefix was not cached, and what that cost.",
        "cost": "Say what a piece of work would cost, everywhere.",
        "route": "Show which model the rules choose, and why.",
        "tasks": "Show tasks that are answered later.",
        "webhooks": "Show and repeat webhook calls; make their secrets.",
    },
}
"""Heading of the help -> commands and what they do."""

_COMMANDS = {name: text for commands in _GROUPS.values() for name, text in commands.items()}


class _Commands(click.Group):
    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"deepserve.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _COMMANDS))
        for heading, commands in _GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    @override
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DeepserveError as error:
            # Everything a person can cause is in our tree and says what to do; anything else is a bug and may show.
            raise click.ClickException(error.message) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="deepserve")
def main() -> None:
    """Your own DeepSeek V4 API.

    The first minute:

    \b
      deepserve serve                  start the server at http://127.0.0.1:8000
      deepserve chat                   talk to the model right here

    Point any DeepSeek or OpenAI client at http://127.0.0.1:8000/v1; any key will do on your own machine.
    """
