"""A web server on loopback that answers exactly what a test says, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import msgspec

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = (f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Received(msgspec.Struct, frozen=True):
    target: str
    headers: dict[str, str]
    body: bytes


Respond = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """answers: given one after the other, the last one for ever; a function writes its answer itself."""

    def __init__(self, *answers: bytes | Respond) -> None:
        self._answers = list(answers) or [OK]
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.received: list[Received] = []
        self.host = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def port(self) -> int:
        return int(self.host.partition(":")[2])

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                received = await _read(reader)
                self.received.append(received)
                given = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if isinstance(given, bytes):
                    writer.write(given)
                    await writer.drain()
                else:
                    await given(received, writer)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            self._connections.discard(connection)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(first.split(" ")[1], headers, body)


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """A port that takes connections and never says anything; yields `host:port`."""

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        connections.append(connection)
        await closing.wait()
        writer.transport.abort()

    connections: list[asyncio.Task[None]] = []
    closing = asyncio.Event()
    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        closing.set()
        server.close()
        await asyncio.gather(*connections)
