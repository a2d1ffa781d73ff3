"""A real server on a loopback port, in a thread of the test, with time in the test's hands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from deepserve.backends.backend import Backend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.script import Reply, Rule, Script
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.models import load_models
from deepserve.catalog.price_book import PriceBook
from deepserve.config import Settings
from deepserve.gateway import Gateway, Observer
from deepserve.limits.tariff import Tariffs
from deepserve.limits.turnstile import Turnstile
from deepserve.metering.meter import Meter
from deepserve.routing.router import Router
from deepserve.server.access import ConfiguredKeys, KeyLookup
from deepserve.server.app import create_app
from deepserve.server.closing import Closing
from deepserve.server.later import make_task_runner
from deepserve.server.metrics import Metrics
from deepserve.server.request_log import RequestLog
from deepserve.server.run import Server, bind, server_config
from deepserve.server.telemetry import Telemetry
from deepserve.store.database import Database
from deepserve.store.key_record import KeyRecord
from deepserve.store.ledger import Ledger
from deepserve.store.ledger_record import LedgerRecord
from deepserve.store.sealing import open_sealer
from deepserve.store.spending import book
from deepserve.tools.tool_loop import ToolLoop
from deepserve.tools.toolbox import EMPTY, Toolbox

HELLO = {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "hello"}]}
PATIENCE_S = 10.0
"""How long a test waits for what should happen at once."""


class Gate:
    """Where scripted delays wait until the test lets them pass."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self.was_cancelled = threading.Event()
        self._opened = threading.Event()

    async def sleep(self, _: float) -> None:
        self.is_reached.set()
        try:
            await asyncio.to_thread(self._opened.wait)
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise

    def open(self) -> None:
        self._opened.set()


class LiveServer:
    def __init__(self, address: str, server: Server, closing: Closing, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.port = int(address.rsplit(":", 1)[1])
        self.server = server
        self.closing = closing
        self.loop = loop

    def stop(self) -> None:
        self.server.should_exit = True

    def post(self, path: str = "/chat/completions", **fields: Any) -> httpx.Response:  # Any: JSON
        return httpx.post(self.address + path, json={**HELLO, **fields}, timeout=PATIENCE_S)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.address + path, headers=headers, timeout=PATIENCE_S)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def raw(self, data: bytes) -> bytes:
        """Everything the server answers until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def read_until(connection: socket.socket, marker: bytes) -> bytes:
    answer = b""
    while marker not in answer:
        piece = connection.recv(65536)
        assert piece, answer
        answer += piece
    return answer


def request_bytes(value: object = HELLO, *, path: str = "/chat/completions", headers: str = "") -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def scripted(*, gate: Gate | None = None, **reply: Any) -> ScriptedBackend:  # Any: fields of Reply
    """A back end that gives one reply to everything."""
    script = Script(rules=(Rule(reply=Reply(**reply)),)) if reply else Script()
    return ScriptedBackend(script) if gate is None else ScriptedBackend(script, sleep=gate.sleep)


@contextlib.contextmanager
def live_server(
    backend: Backend | None = None,
    settings: Settings | None = None,
    *,
    lookups: Sequence[KeyLookup] = (),
    toolbox: Toolbox = EMPTY,
    alive: AbstractAsyncContextManager[object] | None = None,
    router: Router | None = None,
    observers: Sequence[Observer] = (),
    database: Database | None = None,
    telemetry: Telemetry | None = None,
) -> Iterator[LiveServer]:
    """Serve for the length of a block; the port is free, whatever the settings say. alive: kept open meanwhile.

    database: has the tasks, the ledger and what keys with limits use; None: tasks end with the server, and there is
    neither of the others. telemetry: closed at the end.
    """
    backend = backend or ScriptedBackend()
    settings = settings or Settings()
    started = threading.Event()
    found: list[LiveServer] = []
    failed: list[BaseException] = []

    async def run() -> None:
        closing = Closing()
        await backend.start()
        metrics = Metrics([model.id for model in backend.models()], clock=asyncio.get_running_loop().time)
        keys = (ConfiguredKeys(settings.api_keys),) if settings.api_keys else ()
        tasks = make_task_runner(settings, database)
        state_dir, limits = settings.state_dir, settings.ledger
        ledger = None if database is None else Ledger(database, state_dir=state_dir, limits=limits, book=book)
        prices = PriceBook(settings.prices_file)
        meter = Meter(prices, ledger, on_row=metrics.on_row)
        log = RequestLog(clock=asyncio.get_running_loop().time)
        traced = () if telemetry is None else (telemetry,)
        if isinstance(backend, FleetBackend):
            for observer in (metrics, *traced):
                backend.tell(observer)
        turnstile = None
        if database is not None:
            tariff_of = Tariffs(meter, backend.models)
            turnstile = Turnstile(database, tariff_of=tariff_of, limits=settings.waiting)
        app = create_app(
            settings,
            Gateway(
                backend,
                observers=(metrics, log, *traced, *observers),
                sealer=open_sealer(settings.state_dir),
                tools=ToolLoop(toolbox, settings.tool_limits),
                router=router,
                meter=meter,
                turnstile=turnstile,
                enter=None if telemetry is None else telemetry.enter,
            ),
            names=load_models(),
            metrics=metrics,
            tasks=tasks,
            lookups=(*keys, *lookups),
            closing=closing,
            ledger=LedgerRecord(database, catch_up=None if ledger is None else ledger.catch_up),
            keys=KeyRecord(database, catch_up=None if ledger is None else ledger.catch_up),
            prices=prices,
            log=log,
        )

        def on_ready(address: str) -> None:
            found.append(LiveServer(address, server, closing, asyncio.get_running_loop()))
            started.set()

        server = Server(server_config(app, settings), closing, settings.shutdown_grace_s, on_ready=on_ready)
        with bind(Settings(port=0), has_keys=True) as listening:
            async with alive or contextlib.nullcontext():
                await tasks.start()
                await server.serve(sockets=[listening])
        await tasks.close()
        await backend.close()
        if telemetry is not None:
            await asyncio.to_thread(telemetry.close)
        if turnstile is not None:
            turnstile.close()
        if ledger is not None:
            await asyncio.to_thread(ledger.close)

    def supervise() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - the test must learn of it
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        assert not failed, failed
        yield found[0]
    finally:
        if found:
            found[0].stop()
        thread.join(PATIENCE_S + 20)
        assert not thread.is_alive()
    assert not failed, failed
