"""Requests to a server of this machine over kept-alive connections, as fast as it answers, and its CPU time."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import uvloop
from typing_extensions import override

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PATIENCE_S = 60.0


class LoadFailed(Exception):
    """The server did not answer as it should."""


class Load(NamedTuple):
    """events: lines of `data:` in streamed answers."""

    requests: int
    events: int


def measure_load(
    port: int, path: str, body: Callable[[], bytes], *, connections: int, requests: int, headers: str = ""
) -> Load:
    """So many requests on each connection, one after the other. Raises LoadFailed for any answer but 200."""

    async def run() -> Load:
        loop = asyncio.get_running_loop()
        clients = [_Client(port, path, body, requests, headers, loop.create_future()) for _ in range(connections)]
        transports: list[asyncio.Transport] = []
        try:
            for client in clients:
                opened = await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
                transports.append(opened[0])
            await asyncio.wait_for(asyncio.gather(*(client.ended for client in clients)), _PATIENCE_S)
        finally:
            for transport in transports:
                transport.close()
            await asyncio.gather(*(client.left for client in clients[: len(transports)]))
        return Load(connections * requests, sum(client.num_events for client in clients))

    return uvloop.run(run())


class _Client(asyncio.Protocol):
    """One connection, to its last answer."""

    def __init__(
        self,
        port: int,
        path: str,
        body: Callable[[], bytes],
        num_left: int,
        headers: str,
        ended: asyncio.Future[None],
    ) -> None:
        self._head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{headers}"
        self._body = body
        self._num_left = num_left
        self._answer = bytearray()
        self.ended = ended
        self.left = ended.get_loop().create_future()
        self.num_events = 0

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what TCP gives
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._answer.clear()
        body = self._body()
        self._transport.write(f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body)

    @override
    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._is_complete():
            return
        if not self._answer.startswith(b"HTTP/1.1 200"):
            self.ended.set_exception(LoadFailed(f"the server answered {bytes(self._answer[:600])!r}"))
            return
        self.num_events += self._answer.count(b"\ndata: ")
        self._num_left -= 1
        if self._num_left:
            self._ask()
        else:
            self.ended.set_result(None)

    def _is_complete(self) -> bool:
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        announced = _LENGTH.search(self._answer, 0, end + 2)
        if announced is not None:
            return len(self._answer) >= end + 4 + int(announced[1])
        return self._answer.endswith(b"\r\n0\r\n\r\n")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.left.set_result(None)
        if not self.ended.done():
            self.ended.set_exception(LoadFailed("the server closed a connection"))


def cpu_seconds_of(pid: int) -> float:
    """What a process and its children have used, to 10 ms. Reads Linux's /proc."""
    total = 0
    for one in _tree(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_A_SECOND


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from _tree(int(child))
