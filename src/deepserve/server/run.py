"""Run a server: bind, start the back end, answer until told to stop, end what is in flight."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec
import uvicorn
from typing_extensions import override

from deepserve.backends.backend import Backend
from deepserve.backends.fleet.canaries import Canaries
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.catalog.models import ModelCatalog, load_models
from deepserve.catalog.price_book import PriceBook
from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.gateway import Gateway, Observer
from deepserve.limits.tariff import Tariffs
from deepserve.limits.turnstile import Turnstile
from deepserve.metering.meter import Meter
from deepserve.routing.difficulty import make_estimator
from deepserve.routing.router import Router
from deepserve.server.access import ConfiguredKeys, KeyLookup, is_loopback
from deepserve.server.app import create_app
from deepserve.server.closing import Closing
from deepserve.server.later import addresses_of, make_task_runner
from deepserve.server.live_settings import LiveSettings
from deepserve.server.log_format import set_up_logging
from deepserve.server.metrics import Metrics
from deepserve.server.protocol import limited_http
from deepserve.server.refit import refit_of
from deepserve.server.reload import Reloader, Source
from deepserve.server.request_log import RequestLog
from deepserve.server.telemetry_opening import open_telemetry
from deepserve.server.worker_metrics import WorkerMetrics
from deepserve.server.workers import Worker
from deepserve.store.database import Database, clock_difference_s, is_shared
from deepserve.store.key_record import KeyRecord
from deepserve.store.ledger import Ledger
from deepserve.store.ledger_record import LedgerRecord
from deepserve.store.replays import ReplayLimits, ReplayStore
from deepserve.store.responses import ResponseStore, ShelfLimits
from deepserve.store.sealing import open_sealer
from deepserve.store.secret import open_shared_secret
from deepserve.store.spending import book
from deepserve.tools.opening import OpenedTools, open_tools
from deepserve.tools.tool_loop import ToolLoop

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_IDLE_CONNECTION_S = 75
_SPARE_USERS = 64
"""Beside those of a worker's sessions: numbers that somebody of this machine has are passed over."""

_YOUNG_OBJECTS = 10_000
"""So many more objects than were freed, and the garbage collector looks for cycles among them."""

_LAST_WORDS_S = 5.0
"""After `shutdown_grace_s`: time for the ended streams to send their terminal events."""


def serve(
    settings: Settings,
    backend: Backend,
    *,
    lookups: Sequence[KeyLookup] = (),
    observers: Sequence[Observer] = (),
    names: ModelCatalog | None = None,
    database: Database | None = None,
    on_ready: Callable[[str, OpenedTools], None] = lambda _address, _tools: None,
    on_progress: Callable[[str], None] = _log.info,
    source: Source | None = None,
    listening: Sequence[socket.socket] | None = None,
    worker: Worker | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. Blocks; call it in the main thread for the signals to work.

    lookups      where keys are found besides the settings
    database     keeps what must survive a restart; None: nothing does
    on_ready     called with the base address and the tools that the server runs, once requests are answered
    on_progress  hears in words of what takes long, such as indexing folders
    source       where the settings come from, to be read again while the server runs; None: they stay as they are
    listening    what `bind_all` has bound; None: it is bound here
    worker       which of several processes on these sockets this one is

    Raises ConfigurationError for an address that cannot be used, and what `backend.start` raises.
    """
    found = (*((ConfiguredKeys(settings.api_keys),) if settings.api_keys else ()), *lookups)
    if listening is None:
        listening = bind_all(settings, has_keys=bool(found))
    try:
        # Before the event loop: walls for programs are tried, and processes are not begun beside other threads.
        tools = open_tools(
            settings if worker is None else with_own_users(settings, worker),
            environment=os.environ,
            own_addresses=addresses_of(listening),
            on_progress=on_progress,
        )
        loop_factory = uvicorn.Config(app="", loop="auto", log_config=None).get_loop_factory()
        # What is loaded by now stays. Walking over it took each full collection 16 ms, in the middle of some step.
        gc.freeze()
        # Requests make few cycles: at the usual 700 objects every few of them would pay for a look at all in flight.
        gc.set_threshold(_YOUNG_OBJECTS)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(
                _serve(
                    settings,
                    backend,
                    tools,
                    listening,
                    found,
                    observers,
                    names or load_models(),
                    database,
                    on_ready,
                    on_progress,
                    source,
                    worker,
                )
            )
    finally:
        for one in listening:
            one.close()


def with_own_users(settings: Settings, worker: Worker) -> Settings:
    """The settings of one worker's tools: programs run as other users than those of other workers, never as one user
    who could reach into both."""
    code = settings.code
    num_users = code.max_sessions + code.waiting + _SPARE_USERS
    return msgspec.structs.replace(
        settings, code=msgspec.structs.replace(code, first_uid=code.first_uid + worker.number * num_users)
    )


def bind_all(settings: Settings, *, has_keys: bool) -> list[socket.socket]:
    """Every socket the settings ask for. Raises ConfigurationError."""
    listening = [bind(settings, has_keys=has_keys)]
    try:
        if settings.runware_port is not None:
            listening.append(bind(settings, port=settings.runware_port, has_keys=has_keys))
    except ConfigurationError:
        listening[0].close()
        raise
    return listening


def bind(settings: Settings, *, has_keys: bool, port: int | None = None) -> socket.socket:
    """The listening socket. Raises ConfigurationError, in words for the operator. port: another than the settings'."""
    host, port = settings.host, settings.port if port is None else port
    if not has_keys and not is_loopback(host.strip("[]")):
        raise ConfigurationError(
            f"Without API keys the server listens on this machine only, and {host} is reachable from others. "
            "Configure at least one key, or use the host 127.0.0.1."
        )
    if not 0 <= port < 65_536:
        raise ConfigurationError(f"{port} is not a port: it must be from 0 (any free one) to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"The host {host} with port {port} is not an address to listen on.") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections have it from here: what sets it on them looks at a number that a shared socket need not carry,
        # and without it the last piece of an answer may wait 40 ms for the client to have noticed the one before.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind(address)
        listening.listen(2048)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigurationError(_bind_problem(host, port, error)) from error
    return listening


def _bind_problem(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} on {host} is in use by another program. Stop it, or choose another port."
        case errno.EACCES:
            return f"Port {port} on {host} needs more rights than this program has. Choose a port above 1023."
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine."
        case _:
            return f"The server cannot listen on {host}, port {port}: {error}."


async def _serve(
    settings: Settings,
    backend: Backend,
    tools: OpenedTools,
    listening: Sequence[socket.socket],
    lookups: Sequence[KeyLookup],
    observers: Sequence[Observer],
    names: ModelCatalog,
    database: Database | None,
    on_ready: Callable[[str, OpenedTools], None],
    on_progress: Callable[[str], None],
    source: Source | None,
    worker: Worker | None,
) -> None:
    closing = Closing()
    live = LiveSettings(settings)
    shared_secret = open_shared_secret(database, settings.state_dir, settings.secret_file)
    sealer = open_sealer(settings.state_dir, shared_secret)
    # Whether a client's next request may come to another process.
    has_others = database is not None and (worker is not None or is_shared(database))
    if database is not None:
        _compare_clocks(database, settings)
    telemetry = open_telemetry(settings, os.environ)
    await backend.start()
    try:
        async with tools:
            log = RequestLog(clock=time.monotonic)
            metrics = Metrics(
                [model.id for model in backend.models()], clock=time.monotonic, gauges=lambda: gateway.gauges()
            )
            gathered = None if worker is None else WorkerMetrics(worker, metrics.render)
            prices = PriceBook(settings.prices_file)
            ledger = (
                None
                if database is None
                else Ledger(database, state_dir=settings.state_dir, limits=settings.ledger, book=book)
            )
            fleet = backend if isinstance(backend, FleetBackend) else None
            meter = Meter(
                prices,
                ledger,
                price_providers=None if fleet is None else fleet.price_providers,
                on_row=metrics.on_row,
            )
            turnstile = (
                None
                if database is None
                else Turnstile(database, tariff_of=Tariffs(meter, lambda: gateway.offered()), limits=settings.waiting)
            )
            tool_loop = ToolLoop(tools.toolbox, settings.tool_limits)
            router = Router(prices, presets=names.presets, estimator=make_estimator(settings.difficulty))
            gateway = Gateway(
                backend,
                observers=(metrics, log, *(() if telemetry is None else (telemetry,)), *observers),
                sealer=sealer,
                tools=tool_loop,
                router=router,
                meter=meter,
                turnstile=turnstile,
                enter=None if telemetry is None else telemetry.enter,
            )
            if fleet is not None:
                fleet.tell(metrics)
                if telemetry is not None:
                    fleet.tell(telemetry)
            kept = ResponseStore(database, limits=ShelfLimits.of(settings), now=_now, is_shared=has_others)
            replays = None
            if database is not None and has_others:
                replays = ReplayStore(
                    database,
                    sealer,
                    owner=secrets.token_hex(8),
                    limits=ReplayLimits.of(settings),
                    lease_s=settings.tasks.lease_s,
                    now=_now,
                )
            tasks = make_task_runner(settings, database, listening=listening, live=live, shared_secret=shared_secret)
            app = create_app(
                settings,
                gateway,
                names=names,
                metrics=metrics,
                live=live,
                scrape=None if gathered is None else gathered.gather,
                tasks=tasks,
                lookups=lookups,
                closing=closing,
                kept=kept,
                replays=replays,
                sealer=sealer,
                ledger=LedgerRecord(database, catch_up=None if ledger is None else ledger.catch_up),
                keys=KeyRecord(database, catch_up=None if ledger is None else ledger.catch_up),
                prices=prices,
                log=log,
            )
            server = Server(
                server_config(app, settings, live),
                closing,
                settings.shutdown_grace_s,
                on_ready=lambda address: on_ready(address, tools),
            )

            def take(after: Settings) -> None:
                tool_loop.take(after.tool_limits)
                router.take(make_estimator(after.difficulty))
                if turnstile is not None:
                    turnstile.take(after.waiting)
                metrics.know(model.id for model in backend.models())
                server.grace_s = after.shutdown_grace_s
                set_up_logging(after)

            live.follow(take)
            live.refit_with(refit_of(backend, settings))
            num_processes = 1 if worker is None else worker.count
            canaries = None if fleet is None else Canaries(fleet, gateway.answer, num_processes=num_processes)
            reloader = None if source is None else Reloader(live, source, tell=on_progress, stop=server.stop)
            try:
                if reloader is not None:
                    metrics.watch(reloader)
                    reloader.start(is_behind=worker is not None)
                await tasks.start()
                if canaries is not None:
                    canaries.start()
                if gathered is not None:
                    await gathered.start()
                if worker is not None:
                    server.end_with(worker.lifeline)
                await server.serve(sockets=list(listening))
            finally:
                if reloader is not None:
                    await reloader.close()
                if gathered is not None:
                    await gathered.close()
                if canaries is not None:
                    await canaries.close()
                await tasks.close()
                await asyncio.to_thread(kept.close)
                if turnstile is not None:
                    turnstile.close()
                if ledger is not None:
                    await asyncio.to_thread(ledger.close)
    finally:
        await backend.close()
        if telemetry is not None:
            await asyncio.to_thread(telemetry.close)


def _compare_clocks(database: Database, settings: Settings) -> None:
    """Servers that share tasks take each other for dead when their clocks differ by more than a lease."""
    ahead_s = clock_difference_s(database, _now())
    if abs(ahead_s) > settings.tasks.lease_s / 3:
        _log.warning(
            "This machine's clock is %.0f s %s that of the database: set both by the network, or servers that share it "
            "take over each other's tasks.",
            abs(ahead_s),
            "ahead of" if ahead_s > 0 else "behind",
        )


def _now() -> datetime:
    return datetime.now(UTC)


def server_config(app: object, settings: Settings, live: LiveSettings | None = None) -> uvicorn.Config:
    """uvicorn, with our limits, without its own logs and headers. live: these settings, where they may change."""
    protocol = limited_http(settings.limits)
    config = uvicorn.Config(
        app=app,  # type: ignore[arg-type]  # any ASGI application; uvicorn's own type is private
        http=protocol,
        ws="websockets-sansio",
        ws_max_size=settings.sockets.message_bytes,
        ws_per_message_deflate=False,  # a small message could be a large one
        lifespan="off",
        log_config=None,
        log_level="warning",  # below it, WebSocket frames are written down, and keys with them
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_CONNECTION_S,
        timeout_graceful_shutdown=_whole_grace_s(settings),
    )

    def take(after: Settings) -> None:
        protocol.limits = after.limits
        config.ws_max_size = after.sockets.message_bytes
        config.timeout_graceful_shutdown = _whole_grace_s(after)

    if live is not None:
        live.follow(take)
    return config


def _whole_grace_s(settings: Settings) -> int:
    return int(settings.shutdown_grace_s + _LAST_WORDS_S)


class Server(uvicorn.Server):
    """uvicorn's server, which gives streams in flight a grace and then a proper end."""

    def __init__(
        self, config: uvicorn.Config, closing: Closing, grace_s: float, *, on_ready: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._closing = closing
        self.grace_s = grace_s
        self._on_ready = on_ready

    def stop(self) -> None:
        """As after SIGTERM."""
        self.should_exit = True

    def end_with(self, lifeline: int) -> None:
        """Stop, as after SIGTERM, once there is something to read. lifeline: a descriptor."""
        loop = asyncio.get_running_loop()

        def end() -> None:
            loop.remove_reader(lifeline)
            self.should_exit = True

        loop.add_reader(lifeline, end)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and self.started:
            host, port = sockets[0].getsockname()[:2]
            # Listening everywhere is no address to go to.
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
            address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            _log.info("Serving at %s", address)
            self._on_ready(address)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing.drain()
        ending = asyncio.get_running_loop().call_later(self.grace_s, self._closing.end)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but the signal is not raised again at the end: the caller still has to close things."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
