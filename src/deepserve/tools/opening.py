"""The tools of a server as its settings want them: opened before it listens, started and closed with it.

Nothing reaches out or runs code unless the operator has said so: a search needs folders or a service, a fetch
`fetch_pages` (or folders, whose documents it reads), programs `runs_code` and walls that hold on this machine, MCP
servers a file that names them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.core.server_tool import ToolKind
from deepserve.tools.code_interpreter import CodeInterpreter
from deepserve.tools.date_time import DateTime
from deepserve.tools.runner import ToolRunner
from deepserve.tools.sandbox.ladder import NoSandbox, choose_sandbox
from deepserve.tools.toolbox import Toolbox
from deepserve.tools.web import WebTools, open_web_tools

if TYPE_CHECKING:
    from deepserve.tools.mcp.mcp_server import McpServer


class OpenedTools:
    """A toolbox and what keeps its tools alive.

    details      how each tool does its work, for the operator
    missing      tools that the settings ask for and this machine cannot run, with the reason
    mcp_servers  by name; they come and go while they are kept running
    """

    def __init__(
        self,
        toolbox: Toolbox,
        web: WebTools,
        code: CodeInterpreter | None,
        *,
        details: Mapping[ToolKind, str],
        missing: Mapping[ToolKind, str],
        mcp_servers: Mapping[str, McpServer],
    ) -> None:
        self.toolbox = toolbox
        self.details = details
        self.missing = missing
        self.mcp_servers = mcp_servers
        self._web = web
        self._code = code

    async def __aenter__(self) -> Self:
        await self._web.start()
        if self._code is not None:
            self._code.start_ahead()
        await asyncio.gather(*(server.start() for server in self.mcp_servers.values()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def report(self) -> list[tuple[str, str]]:
        """What the operator has asked for, by name, with how it works or why it does not."""
        rows: list[tuple[str, str]] = list(self.details.items())
        rows += [(kind, f"missing: {reason}") for kind, reason in self.missing.items()]
        for name, server in self.mcp_servers.items():
            names = ", ".join(function.name for function, _ in server.functions())
            state = f"offers {names or 'nothing'}" if server.problem is None else f"missing: {server.problem}"
            rows.append((f"MCP {name}", state))
        return rows

    async def close(self) -> None:
        """Also for tools that were not started."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._web.close)
            if self._code is not None:
                closing.push_async_callback(self._code.close)
            for server in self.mcp_servers.values():
                closing.push_async_callback(server.close)


def open_tools(
    settings: Settings,
    *,
    environment: Mapping[str, str],
    own_addresses: frozenset[tuple[str, int]] = frozenset(),
    on_progress: Callable[[str], None] | None = None,
) -> OpenedTools:
    """Takes about a second where programs may run, for the walls are tried. Arguments: see `open_web_tools`.

    Raises ConfigurationError for what cannot be used as it is set. Walls that do not hold here are no error: the tool
    is then missing, with the reason.
    """
    web = open_web_tools(settings, environment=environment, own_addresses=own_addresses, on_progress=on_progress)
    runners: dict[ToolKind, ToolRunner] = {"datetime": DateTime(lambda: datetime.now(UTC))}
    reasons: dict[ToolKind, str] = {}
    details: dict[ToolKind, str] = {}
    if web.search is not None:
        runners["web_search"] = web.search
        details["web_search"] = f"asks {web.search.provider.name}"
    if web.fetch is not None:
        runners["web_fetch"] = web.fetch
        details["web_fetch"] = (
            "reads public pages of the web" if settings.fetch_pages else "reads documents that a search has found"
        )
    code = None
    if settings.runs_code:
        sandbox = choose_sandbox(settings.code, clock=time.monotonic, on_progress=on_progress)
        if isinstance(sandbox, NoSandbox):
            reasons["code_interpreter"] = f"no sandbox holds on this machine ({sandbox.reason})"
        else:
            runners["code_interpreter"] = code = CodeInterpreter(sandbox, clock=time.monotonic)
            details["code_interpreter"] = f"runs {sandbox.description}"
    servers = _mcp_servers(settings, environment=environment, own_addresses=own_addresses)
    toolbox = Toolbox(
        runners,
        reasons=reasons,
        sources=servers,
        always=[name for name, server in servers.items() if server.config.always],
    )
    return OpenedTools(toolbox, web, code, details=details, missing=reasons, mcp_servers=servers)


def _mcp_servers(
    settings: Settings, *, environment: Mapping[str, str], own_addresses: frozenset[tuple[str, int]]
) -> dict[str, McpServer]:
    if settings.mcp_config is None:
        return {}
    try:
        from deepserve.tools.mcp.mcp_config import read_mcp_config
        from deepserve.tools.mcp.mcp_server import McpServer
    except ImportError as error:
        raise ConfigurationError(
            'MCP servers need packages that are not installed: pip install "deepserve[mcp]".'
        ) from error
    return {
        name: McpServer(name, config, environment=environment, own_addresses=own_addresses)
        for name, config in read_mcp_config(settings.mcp_config).items()
    }
