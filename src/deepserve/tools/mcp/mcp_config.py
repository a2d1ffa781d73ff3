"""Which MCP servers there are: a TOML file of the operator's.

[servers.github]
command = ["github-mcp-server", "stdio"]
environment = ["GITHUB_TOKEN"]        # these variables are passed on; nothing else is

[servers.wiki]
url = "https://wiki.example/mcp"
token_variable = "WIKI_TOKEN"         # sent as a bearer token
tools = ["search"]                    # these functions only
always = true                         # offered with every request, not only where a client asks for them
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from deepserve.core.errors import ConfigurationError

_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?")
_MAX_SERVERS = 32


class McpServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either command, a program and its arguments, or url.

    environment     names of variables that the program gets; PATH it always has
    folder          in which the program runs
    token_variable  holds the bearer token for the url
    tools           names of the functions to offer; None: all
    always          offer them with every request
    start_s         for the server to say what it can do; call_s for one call
    """

    command: tuple[str, ...] = ()
    url: str | None = None
    environment: tuple[str, ...] = ()
    folder: Path | None = None
    token_variable: str | None = None
    tools: tuple[str, ...] | None = None
    always: bool = False
    start_s: float = 20.0
    call_s: float = 60.0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    servers: dict[str, McpServerConfig]


def read_mcp_config(path: Path) -> Mapping[str, McpServerConfig]:
    """The servers by name. Raises ConfigurationError naming the file and what is wrong in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        servers = msgspec.convert(content, _File, strict=True).servers
    except OSError as error:
        raise ConfigurationError(f"The file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"The file {path} does not describe MCP servers: {error}.") from error
    if len(servers) > _MAX_SERVERS:
        raise ConfigurationError(f"The file {path} names more than {_MAX_SERVERS} MCP servers.")
    for name, server in servers.items():
        problem = _problem(name, server)
        if problem:
            raise ConfigurationError(f"The MCP server {name!r} in {path} cannot be used: {problem}.")
    return servers


def _problem(name: str, server: McpServerConfig) -> str | None:
    if not _NAME.fullmatch(name):
        return "its name must be letters, digits and hyphens, at most 32"
    if bool(server.command) == (server.url is not None):
        return "it needs either a command or a url"
    if server.url is not None and (server.environment or server.folder is not None):
        return "environment and folder are for servers with a command"
    if server.command and server.token_variable is not None:
        return "token_variable is for servers with a url"
    if not 0 < server.start_s <= 600 or not 0 < server.call_s <= 600:
        return "start_s and call_s are seconds up to 600"
    return None
