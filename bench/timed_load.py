"""Requests to a server of this machine, and how long each answer took: as fast as it answers, or so many a second.

Where requests come at a rate, the time of each counts from the moment when it was due, so that a server that falls
behind does not look fast because it was asked less.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import NamedTuple

import uvloop
from typing_extensions import override

from bench.http_load import LoadFailed

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_EVENT = b"data: "
_PATIENCE_S = 120.0


class TimedLoad(NamedTuple):
    """answer_ms: to the last byte, rising; first_event_ms: of streams, to the first event, rising.

    ids: what answers said in `x-request-id`
    """

    seconds: float
    answer_ms: list[float]
    first_event_ms: list[float]
    num_events: int
    ids: list[str]

    @property
    def num_answers(self) -> int:
        return len(self.answer_ms)


def quantile(rising: list[float], share: float) -> float:
    return rising[min(len(rising) - 1, int(share * len(rising)))]


def question(port: int, path: str, body: bytes, headers: str = "") -> bytes:
    """A request as it goes over the wire. headers: whole lines."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def measure_times(
    port: int,
    asked: bytes,
    *,
    connections: int,
    requests: int,
    rate: float | None = None,
    takes_broken_end: bool = False,
) -> TimedLoad:
    """So many requests over as many connections, one after the other on each.

    rate: a second, on all connections together; None: each as soon as the one before is answered. takes_broken_end: a
    server that dies in between is no fault. Raises LoadFailed for any answer but 200.
    """

    async def run() -> TimedLoad:
        loop = asyncio.get_running_loop()
        each = requests // connections
        clients = [_Client(asked, each, loop, takes_broken_end=takes_broken_end) for _ in range(connections)]
        try:
            for client in clients:
                await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
            began = time.perf_counter()
            for number, client in enumerate(clients):
                if rate is None:
                    client.begin(began, period_s=None)
                else:
                    client.begin(began + number / rate, period_s=connections / rate)
            await asyncio.wait_for(asyncio.gather(*(client.ended for client in clients)), _PATIENCE_S)
            seconds = time.perf_counter() - began
        finally:
            for client in clients:
                client.leave()
        return TimedLoad(
            seconds,
            sorted(took for client in clients for took in client.answer_ms),
            sorted(took for client in clients for took in client.first_event_ms),
            sum(client.num_events for client in clients),
            [one for client in clients for one in client.ids],
        )

    return uvloop.run(run())


class _Client(asyncio.Protocol):
    """One connection, to its last answer."""

    def __init__(self, asked: bytes, num_left: int, loop: asyncio.AbstractEventLoop, *, takes_broken_end: bool) -> None:
        self._asked = asked
        self._num_left = num_left
        self._loop = loop
        self._takes_broken_end = takes_broken_end
        self._transport: asyncio.Transport | None = None
        self._answer = bytearray()
        self._due_at = 0.0
        self._period_s: float | None = None
        self._has_event = False
        self.ended: asyncio.Future[None] = loop.create_future()
        self.answer_ms: list[float] = []
        self.first_event_ms: list[float] = []
        self.num_events = 0
        self.ids: list[str] = []

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what TCP gives
        self._transport = transport

    def begin(self, due_at: float, *, period_s: float | None) -> None:
        """due_at: when the first request is to leave, of `time.perf_counter`."""
        self._due_at, self._period_s = due_at, period_s
        self._wait()

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _wait(self) -> None:
        left_s = self._due_at - time.perf_counter()
        if self._period_s is None or left_s <= 0:
            self._ask()
        else:
            self._loop.call_later(left_s, self._ask)

    def _ask(self) -> None:
        assert self._transport is not None
        self._answer.clear()
        self._has_event = False
        if self._period_s is None:
            self._due_at = time.perf_counter()
        self._transport.write(self._asked)

    @override
    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._has_event and _EVENT in self._answer:
            self._has_event = True
            self.first_event_ms.append(1e3 * (time.perf_counter() - self._due_at))
        if not self._is_complete():
            return
        self.answer_ms.append(1e3 * (time.perf_counter() - self._due_at))
        if not self._answer.startswith(b"HTTP/1.1 200"):
            self._end(LoadFailed(f"the server answered {bytes(self._answer[:600])!r}"))
            return
        self.num_events += self._answer.count(b"\n" + _EVENT)
        self.ids += [value.decode() for value in _REQUEST_ID.findall(self._answer)]
        self._num_left -= 1
        if not self._num_left:
            self._end(None)
            return
        self._due_at += self._period_s or 0.0
        self._wait()

    def _is_complete(self) -> bool:
        end = self._answer.find(_HEAD_END)
        if end < 0:
            return False
        announced = _LENGTH.search(self._answer, 0, end + 2)
        if announced is not None:
            return len(self._answer) >= end + len(_HEAD_END) + int(announced[1])
        return self._answer.endswith(_LAST_CHUNK)

    def _end(self, fault: LoadFailed | None) -> None:
        if self.ended.done():
            return
        if fault is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(fault)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._end(None if self._takes_broken_end else LoadFailed("the server closed a connection"))


_REQUEST_ID = re.compile(rb"\r\nx-request-id: *([0-9a-f]+)", re.IGNORECASE)
