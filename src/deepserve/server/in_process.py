"""All addresses of a server without a socket: for commands that ask the model in their own process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
from starlette.types import ASGIApp, Message

from deepserve.backends.backend import Backend
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.catalog.models import load_models
from deepserve.catalog.price_book import PriceBook
from deepserve.config import Settings
from deepserve.gateway import Gateway
from deepserve.metering.meter import Meter
from deepserve.routing.difficulty import make_estimator
from deepserve.routing.router import Router
from deepserve.server.app import create_app
from deepserve.server.later import make_task_runner
from deepserve.server.metrics import Metrics


class WholeAnswer(msgspec.Struct, frozen=True):
    """headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class InProcessServer:
    """Posts requests to an application as a client of this machine would."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> WholeAnswer:
        sent = {
            "host": "localhost",
            "content-type": "application/json",
            "content-length": str(len(body)),
            **{name.lower(): value for name, value in headers.items()},
        }
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
        }
        unread = [body]
        status, told, received = 0, {}, bytearray()

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            # This client never leaves: whoever waits for that is cancelled when the answer is out.
            await asyncio.Event().wait()
            raise AssertionError("nobody sets the event")

        async def send(message: Message) -> None:
            nonlocal status, told
            if message["type"] == "http.response.start":
                status = message["status"]
                told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
            elif message["type"] == "http.response.body":
                received.extend(message.get("body", b""))

        await self._app(scope, receive, send)
        return WholeAnswer(status, told, bytes(received))


@asynccontextmanager
async def open_in_process(settings: Settings, backend: Backend) -> AsyncIterator[InProcessServer]:
    """A server that keeps nothing, and runs no tools of its own, as long as the block lasts.

    Raises what `backend.start` raises.
    """
    await backend.start()
    try:
        names = load_models()
        prices = PriceBook(settings.prices_file)
        metrics = Metrics([model.id for model in backend.models()], clock=time.monotonic)
        fleet = backend if isinstance(backend, FleetBackend) else None
        gateway = Gateway(
            backend,
            observers=(metrics,),
            router=Router(prices, presets=names.presets, estimator=make_estimator(settings.difficulty)),
            meter=Meter(prices, price_providers=None if fleet is None else fleet.price_providers),
        )
        tasks = make_task_runner(settings)
        app = create_app(settings, gateway, names=names, metrics=metrics, tasks=tasks, prices=prices)
        await tasks.start()
        try:
            yield InProcessServer(app)
        finally:
            await tasks.close()
    finally:
        await backend.close()
