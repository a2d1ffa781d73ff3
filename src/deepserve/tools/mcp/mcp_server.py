"""One MCP server of the operator's: kept running, its functions offered, its faults stated."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx2
import mcp_types
import msgspec
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from typing_extensions import override
from yarl import URL

from deepserve import __version__
from deepserve.core.errors import ConfigurationError, InvalidField
from deepserve.core.messages import Json
from deepserve.core.request import ServerTool
from deepserve.core.schema_reading import read_schema
from deepserve.core.server_tool import PlainOutput, ToolFault, ToolOutput
from deepserve.core.tool import Tool
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.errors import OutgoingError
from deepserve.outgoing.httpx_transport import CheckedTransport
from deepserve.tools.mcp.mcp_config import McpServerConfig
from deepserve.tools.mcp.stdio_transport import MESSAGE_BYTES, stdio_transport
from deepserve.tools.runner import CallContext, ToolRunner

_log = logging.getLogger(__name__)

MAX_FUNCTIONS = 128
_MAX_PAGES = 20
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_DESCRIPTION_CHARACTERS = 4_096
_FAULT_CHARACTERS = 2_000
_PAUSES_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Before another attempt to start; the last one for ever."""

_CLOSING_S = 10.0
"""Longer than it takes to end a program that does not want to."""

_MAX_SILENT_CALLS = 3
"""A server that lets so many calls in a row pass without an answer is started anew."""


_BROKEN = ToolFault(code="failed", message="The connection to the MCP server broke in the middle of the call.")


class McpServer:
    """A source of functions for the toolbox. Started and closed with this server; it may come and go in between.

    name: as in `mcp__<name>__<function>`. environment: of which the program gets what the configuration names.
    own_addresses: where this server listens, which no url may lead to. refresh_s: how often it is asked again what it
    offers, which also tells whether it is still there.

    Raises ConfigurationError for a url that cannot be called and variables that are not set.
    """

    def __init__(
        self,
        name: str,
        config: McpServerConfig,
        *,
        environment: Mapping[str, str],
        own_addresses: frozenset[tuple[str, int]] = frozenset(),
        pauses_s: Sequence[float] = _PAUSES_S,
        refresh_s: float = 60.0,
    ) -> None:
        self.name = name
        self.config = config
        self._environment = _chosen(name, config, environment)
        self._token = None if config.token_variable is None else environment[config.token_variable]
        self._policy = None if config.url is None else _policy_of(name, config.url, own_addresses)
        self._pauses_s = pauses_s
        self._refresh_s = refresh_s
        self._client: Client | None = None
        self._functions: tuple[tuple[Tool, ToolRunner], ...] = ()
        self._work: asyncio.Task[None] | None = None
        self._is_broken = asyncio.Event()
        self._has_tried = asyncio.Event()
        self._num_silent = 0
        self._told: frozenset[str] = frozenset()
        self.problem: str | None = "it has not been started"

    def functions(self) -> Sequence[tuple[Tool, ToolRunner]]:
        """What it offers now: nothing while it is not there."""
        return self._functions

    async def start(self) -> None:
        """Begin to keep it running. Returns when the first attempt has come to an end, one way or the other."""
        self._work = asyncio.create_task(self._keep_running())
        await self._has_tried.wait()

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def call(self, function: str, arguments: Mapping[str, Json], timeout_s: float) -> ToolOutput:
        client = self._client
        if client is None:
            return ToolFault(code="unavailable", message=f"The MCP server {self.name} is not running at the moment.")
        limit_s = min(self.config.call_s, timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                result = await client.call_tool(function, dict(arguments))
        except TimeoutError:
            self._num_silent += 1
            if self._num_silent >= _MAX_SILENT_CALLS:
                self._is_broken.set()
            return ToolFault(code="timed_out", message=f"The MCP server gave no answer within {limit_s:g} seconds.")
        except MCPError as error:
            if error.code == mcp_types.CONNECTION_CLOSED:
                self._is_broken.set()
                return _BROKEN
            return ToolFault(code="failed", message=f"The MCP server answered: {error}"[:_FAULT_CHARACTERS])
        except Exception as error:  # noqa: BLE001 - logged: whatever the SDK makes of a server that misbehaves
            _log.warning("The MCP server %s failed in a call: %r", self.name, error)
            self._is_broken.set()
            return _BROKEN
        self._num_silent = 0
        return _output(result)

    async def _keep_running(self) -> None:
        attempt = 0
        while True:
            # Each connection in a task of its own: what the SDK cancels within does not reach the next.
            connection = asyncio.create_task(self._run())
            try:
                await asyncio.wait({connection})
            finally:
                self._client, self._functions = None, ()
                if not connection.done():
                    connection.cancel()
                    await asyncio.wait({connection}, timeout=_CLOSING_S)
            attempt = 0 if self._has_been_there(connection) else attempt + 1
            self._has_tried.set()
            _log.warning("The MCP server %s is not there: %s", self.name, self.problem)
            await asyncio.sleep(self._pauses_s[min(attempt, len(self._pauses_s) - 1)])

    def _has_been_there(self, connection: asyncio.Task[bool]) -> bool:
        """What `_run` has returned; however it came to its end, there will be another one."""
        if connection.cancelled():
            self.problem = "the connection was cancelled"
            return False
        error = connection.exception()
        if error is not None:
            self.problem = _first_reason(error)
            return False
        return connection.result()

    async def _run(self) -> bool:
        """One connection, until it breaks. Whether there ever was one."""
        self._is_broken.clear()
        was_there = False
        try:
            async with self._connected() as client:
                self._client, self._num_silent, self.problem = client, 0, None
                was_there = True
                self._has_tried.set()
                while not await self._breaks_within(self._refresh_s):
                    async with asyncio.timeout(self.config.start_s):
                        self._functions = tuple(await self._list(client))
                # Before the connection is closed, which may take a while.
                self._client, self._functions = None, ()
                self.problem = "it has ended or does not answer"
        except Exception as error:  # noqa: BLE001 - supervised: it is started again
            self.problem = _first_reason(error)
        return was_there

    async def _breaks_within(self, time_s: float) -> bool:
        try:
            async with asyncio.timeout(time_s):
                await self._is_broken.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Client]:
        async with contextlib.AsyncExitStack() as stack:
            if self.config.url is None:
                transport = stdio_transport(
                    self.config.command,
                    environment=self._environment,
                    folder=self.config.folder,
                    ended=self._is_broken,
                )
            else:
                assert self._policy is not None
                headers = {"User-Agent": f"deepserve/{__version__}"}
                if self._token is not None:
                    headers["Authorization"] = f"Bearer {self._token}"
                checked = CheckedTransport(
                    self._policy, connect_s=10.0, idle_s=self.config.call_s + 5.0, max_bytes=MESSAGE_BYTES
                )
                http = httpx2.AsyncClient(
                    transport=checked, headers=headers, timeout=None, trust_env=False, follow_redirects=False
                )
                await stack.enter_async_context(http)
                transport = streamable_http_client(self.config.url, http_client=http, max_sse_event_size=MESSAGE_BYTES)
            client = Client(transport, cache=None)
            async with asyncio.timeout(self.config.start_s):
                await stack.enter_async_context(client)
                self._functions = tuple(await self._list(client))
            yield client

    async def _list(self, client: Client) -> list[tuple[Tool, ToolRunner]]:
        listed: list[mcp_types.Tool] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            listed += page.tools
            cursor = page.next_cursor
            if not cursor or len(listed) > MAX_FUNCTIONS:
                break
        functions: dict[str, tuple[Tool, ToolRunner]] = {}
        complaints: list[str] = []
        for tool in listed:
            if self.config.tools is not None and tool.name not in self.config.tools:
                continue
            problem = _problem(self.name, tool, functions)
            if problem is not None:
                complaints.append(f"a function is left out: {problem}")
                continue
            function = Tool(
                name=f"mcp__{self.name}__{tool.name}",
                description=(tool.description or "")[:_DESCRIPTION_CHARACTERS],
                parameters=tool.input_schema,
            )
            functions[tool.name] = (function, McpFunction(self, tool.name, function))
        missing = set(self.config.tools or ()) - functions.keys()
        complaints += [f"it does not have {name}" for name in sorted(missing)]
        self._tell(complaints)
        return list(functions.values())

    def _tell(self, complaints: Sequence[str]) -> None:
        """Once: the server is asked every minute, and mostly says the same."""
        for complaint in complaints:
            if complaint not in self._told:
                _log.warning("The MCP server %s: %s", self.name, complaint)
        self._told = frozenset(complaints)


class McpFunction(ToolRunner):
    """One function of a server. The server checks the arguments; what it says of them is for the model to read."""

    def __init__(self, server: McpServer, name: str, function: Tool) -> None:
        self._server = server
        self._name = name
        self._function = function

    @override
    def offer(self, wanted: ServerTool) -> Tool:
        return self._function

    @override
    async def run(self, arguments: Mapping[str, Json], wanted: ServerTool, context: CallContext) -> ToolOutput:
        return await self._server.call(self._name, arguments, context.timeout_s)

    @override
    async def close(self) -> None:
        """The server is closed by whoever started it."""


def server_environment() -> dict[str, str]:
    """What every program needs in order to be found."""
    return {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}


def _chosen(name: str, config: McpServerConfig, environment: Mapping[str, str]) -> dict[str, str]:
    wanted = (*config.environment, *((config.token_variable,) if config.token_variable is not None else ()))
    missing = [variable for variable in wanted if variable not in environment]
    if missing:
        raise ConfigurationError(f"The MCP server {name} needs variables that are not set: {', '.join(missing)}.")
    passed = ("PATH", "SYSTEMROOT", *config.environment)
    return {variable: environment[variable] for variable in passed if variable in environment}


def _policy_of(name: str, url: str, own_addresses: frozenset[tuple[str, int]]) -> AddressPolicy:
    """The operator wrote the url down, so its very host and port may be private; nothing else may."""
    try:
        parsed = URL(url)
        host, port = parsed.host or "", parsed.port
        place = f"{f'[{host}]' if ':' in host else host}:{port}".lower()
        policy = AddressPolicy(allowed_hosts=frozenset((place,)), own_addresses=own_addresses)
        policy.check_url(url)
    except (ValueError, OutgoingError) as error:
        raise ConfigurationError(f"The MCP server {name} has no url that can be called: {error}") from error
    return policy


def _problem(server: str, tool: mcp_types.Tool, functions: Mapping[str, object]) -> str | None:
    if len(functions) >= MAX_FUNCTIONS:
        return f"it has more than {MAX_FUNCTIONS}"
    if not tool.name or not _NAME.fullmatch(f"mcp__{server}__{tool.name}"):
        return f"{tool.name[:80]!r} is not a name that models can call"
    if tool.name in functions:
        return f"there are two called {tool.name}"
    try:
        read_schema(tool.input_schema, field=tool.name)
    except InvalidField as error:
        return f"the schema of {tool.name} cannot be used: {error.message}"
    return None


def _output(result: mcp_types.CallToolResult) -> ToolOutput:
    pieces = [_shown(block) for block in result.content]
    if not any(pieces) and result.structured_content is not None:
        pieces = [msgspec.json.encode(result.structured_content).decode()]
    text = "\n".join(piece for piece in pieces if piece)
    if result.is_error:
        return ToolFault(code="failed", message=text[:_FAULT_CHARACTERS] or "The function failed and does not say why.")
    return PlainOutput(text=text)


def _shown(block: mcp_types.ContentBlock) -> str:
    """Models here read text; of everything else they hear that it is there."""
    match block:
        case mcp_types.TextContent():
            return block.text
        case mcp_types.EmbeddedResource(resource=mcp_types.TextResourceContents() as resource):
            return resource.text
        case mcp_types.ResourceLink():
            return f"{block.name}: {block.uri}"
        case mcp_types.ImageContent() | mcp_types.AudioContent():
            return f"[{block.mime_type}, not shown]"
        case _:
            return f"[{block.type}, not shown]"


def _first_reason(error: BaseException) -> str:
    """Task groups wrap what happened, several times over."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case TimeoutError():
            return "it did not say in time what it can do"
        case FileNotFoundError():
            return f"there is no program {error.filename}"
        case _:
            return " ".join(f"{type(error).__name__}: {error}".split())[:300]
