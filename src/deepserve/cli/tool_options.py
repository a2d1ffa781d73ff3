"""Options for the tools that the server runs: what models may search, read and call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from deepserve.cli.setting_option import Function, options, setting_option
from deepserve.configuration.checks import FOLDER_NAME

_GROUP = "Tools that the server runs for models"


def tool_options(function: Function) -> Function:
    """Nothing is searched, fetched or called unless one of these says so."""
    return options(
        setting_option(
            "search_folders",
            "--search-folder",
            group=_GROUP,
            metavar="[NAME=]PATH",
            multiple=True,
            read=name_folders,
            help="Let models search the documents of a folder; may be repeated. Addresses show its name alone.",
        ),
        setting_option(
            "search_service",
            "--search",
            group=_GROUP,
            help="Let models search the web with this service. Keys: BRAVE_SEARCH_API_KEY, TAVILY_API_KEY.",
        ),
        setting_option(
            "search_url",
            group=_GROUP,
            metavar="URL",
            help="Where the search service is; SearXNG has no other address.",
        ),
        setting_option(
            "search_key_file",
            group=_GROUP,
            help="Holds the search service's key, in place of the environment.",
        ),
        setting_option("fetch_pages", "--fetch", group=_GROUP, help="Let models read public pages of the web."),
        setting_option(
            "fetch_sites",
            "--fetch-site",
            group=_GROUP,
            metavar="DOMAIN",
            help="Only pages of this site and its subdomains, such as example.com or example.com/docs. Repeatable.",
        ),
        setting_option(
            "fetch_blocked_sites",
            "--fetch-never",
            group=_GROUP,
            metavar="DOMAIN",
            help="No pages of this site. Repeatable.",
        ),
        setting_option(
            "fetch_any_address",
            group=_GROUP,
            help="Also addresses that a model makes up itself; a hostile page can use that to carry secrets out.",
        ),
        setting_option(
            "fetch_allowed",
            "--allow-fetch-of",
            group=_GROUP,
            metavar="ADDRESS",
            help="Read pages at an address that is not public: host:port or a network such as 10.1.0.0/16.",
        ),
        setting_option("fetch_http", "--fetch-over-http", group=_GROUP, help="Read pages without TLS, too."),
        setting_option(
            "runs_code",
            "--code",
            group=_GROUP,
            help="Let models run Python in a sandbox; without one that holds on this machine the tool is missing.",
        ),
        setting_option(
            "mcp_config",
            group=_GROUP,
            help="Names the MCP servers whose functions models may call; see docs/server-tools.md.",
        ),
    )(function)


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
        if not FOLDER_NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r} is not a name for a folder: lower-case letters, digits and hyphens.")
        if name in folders:
            raise click.BadParameter(f"Two folders are called {name!r}; name one of them: other-name={path}")
        folders[name] = path
    return folders


def _made_name(path: Path) -> str:
    made = re.sub(r"[^a-z0-9]+", "-", path.resolve().name.lower()).strip("-")[:63].strip("-")
    return made or "folder"
