"""An MCP server that is a program of this machine: one message a line, over its standard input and output.

The SDK's own transport gives the program half of our environment and reads lines of any length and at any pace. Here
it gets the named variables; a line has a limit, and a server that floods is read no faster than the limits allow, so
that it waits instead of keeping this server busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_log = logging.getLogger(__name__)

MESSAGE_BYTES = 4 * 1024 * 1024
_PER_SECOND = 200
_BURST = 1_000
_END_S = 2.0
"""A program whose input has ended may take so long to end itself."""


@asynccontextmanager
async def stdio_transport(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path | None, ended: asyncio.Event
) -> AsyncGenerator[TransportStreams]:
    """ended: set when the program says nothing any more. Raises OSError when it cannot be started."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=None if _log.isEnabledFor(logging.DEBUG) else asyncio.subprocess.DEVNULL,
        env=dict(environment),
        cwd=folder,
        limit=MESSAGE_BYTES,
        start_new_session=True,
    )
    try:
        to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        async with to_session, from_server, to_server, from_session:
            reading = asyncio.create_task(_read(process, to_session, ended))
            writing = asyncio.create_task(_write(process, from_session, to_session))
            try:
                yield from_server, to_server
            finally:
                for task in (reading, writing):
                    task.cancel()
                await asyncio.gather(reading, writing, return_exceptions=True)
    finally:
        await _in_any_case(_end(process))


async def _read(
    process: asyncio.subprocess.Process,
    session: MemoryObjectSendStream[SessionMessage | Exception],
    ended: asyncio.Event,
) -> None:
    assert process.stdout is not None
    pace = _Pace()
    try:
        while True:
            line = await process.stdout.readuntil(b"\n")
            await pace.wait()
            with contextlib.suppress(ValueError, RecursionError):  # what is no message is for nobody
                await session.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))
    except asyncio.LimitOverrunError:
        _log.warning("An MCP server sent a message of more than %d bytes and is ended", MESSAGE_BYTES)
    except (asyncio.IncompleteReadError, OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
        pass
    finally:
        ended.set()
        await session.aclose()


async def _write(
    process: asyncio.subprocess.Process,
    messages: MemoryObjectReceiveStream[SessionMessage],
    session: MemoryObjectSendStream[SessionMessage | Exception],
) -> None:
    assert process.stdin is not None
    try:
        async for message in messages:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            process.stdin.write(text.encode("utf-8", "replace") + b"\n")
            await process.stdin.drain()
    except OSError:
        # Whoever waits for an answer hears that the connection has ended.
        await session.aclose()


async def _in_any_case(work: Coroutine[None, None, None]) -> None:
    """Finish what takes a bounded time before being cancelled: a program must not be left behind."""
    working = asyncio.create_task(work)
    is_cancelled = False
    while not working.done():
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError


async def _end(process: asyncio.subprocess.Process) -> None:
    """The program and what it has started: asked first, then made to."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    # A program that is still writing cannot read that its input has ended.
    emptying = asyncio.create_task(_empty(process.stdout))
    for demand in (None, signal.SIGTERM, signal.SIGKILL):
        if demand is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, demand)
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            continue
        break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # its children that are left
    await asyncio.wait({emptying}, timeout=_END_S)
    emptying.cancel()


async def _empty(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass


class _Pace:
    """Lets a burst through and then so many messages a second."""

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at = asyncio.get_running_loop().time()

    async def wait(self) -> None:
        now = asyncio.get_running_loop().time()
        self._left = min(_BURST, self._left + (now - self._at) * _PER_SECOND) - 1
        self._at = now
        if self._left < 0:
            await asyncio.sleep(-self._left / _PER_SECOND)
