"""Options for the tools that the server runs: what models may search, read and call."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from deepserve.config import SearchServiceName

Function = TypeVar("Function", bound=Callable[..., Any])  # Any: click passes a command's options by name

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def tool_options(function: Function) -> Function:
    """Nothing is searched, fetched or called unless one of these says so."""
    for option in reversed(
        (
            click.option(
                "--search-folder",
                "search_folders",
                metavar="[NAME=]PATH",
                multiple=True,
                callback=lambda _context, _parameter, values: name_folders(values) or None,
                help="Let models search the documents of a folder; may be repeated. Addresses show its name alone.",
            ),
            click.option(
                "--search",
                "search_service",
                type=click.Choice(get_args(SearchServiceName)),
                help="Let models search the web with this service. Keys: BRAVE_SEARCH_API_KEY, TAVILY_API_KEY.",
            ),
            click.option(
                "--search-url", metavar="URL", help="Where the search service is; SearXNG has no other address."
            ),
            click.option(
                "--search-key-file",
                metavar="FILE",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="Holds the search service's key, in place of the environment.",
            ),
            click.option("--fetch", "fetch_pages", is_flag=True, help="Let models read public pages of the web."),
            click.option(
                "--fetch-site",
                "fetch_sites",
                metavar="DOMAIN",
                multiple=True,
                help="Only pages of this site and its subdomains, such as example.com or example.com/docs. Repeatable.",
            ),
            click.option(
                "--fetch-never",
                "fetch_blocked_sites",
                metavar="DOMAIN",
                multiple=True,
                help="No pages of this site. Repeatable.",
            ),
            click.option(
                "--fetch-any-address",
                is_flag=True,
                help="Also addresses that a model makes up itself; a hostile page can use that to carry secrets out.",
            ),
            click.option(
                "--allow-fetch-of",
                "fetch_allowed",
                metavar="ADDRESS",
                multiple=True,
                help="Read pages at an address that is not public: host:port or a network such as 10.1.0.0/16.",
            ),
            click.option("--fetch-over-http", "fetch_http", is_flag=True, help="Read pages without TLS, too."),
            click.option(
                "--code",
                "runs_code",
                is_flag=True,
                help="Let models run Python in a sandbox; without one that holds on this machine the tool is missing.",
            ),
            click.option(
                "--mcp-config",
                metavar="FILE",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="Names the MCP servers whose functions models may call; see docs/server-tools.md.",
            ),
        )
    ):
        function = option(function)
    return function


def name_folders(values: Sequence[str]) -> dict[str, Path]:
    """Folders by the names that addresses of found documents tell: given, or made from the folder's own."""
    folders: dict[str, Path] = {}
    for value in values:
        given, equals, rest = value.partition("=")
        is_named = bool(equals) and "/" not in given and "\\" not in given
        path = Path(rest if is_named else value).expanduser()
        if not path.is_dir():
            raise click.BadParameter(f"{str(path)!r} is not a folder.")
        name = given if is_named else _made_name(path)
        if not _NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r} is not a name for a folder: lower-case letters, digits and hyphens.")
        if name in folders:
            raise click.BadParameter(f"Two folders are called {name!r}; name one of them: other-name={path}")
        folders[name] = path
    return folders


def _made_name(path: Path) -> str:
    made = re.sub(r"[^a-z0-9]+", "-", path.resolve().name.lower()).strip("-")[:63].strip("-")
    return made or "folder"
