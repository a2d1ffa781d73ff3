"""The web application: every address the server answers at."""

from __future__ import annotations

import difflib
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.catalog.listings import load_listings
from deepserve.catalog.models import ModelCatalog
from deepserve.catalog.price_book import PriceBook
from deepserve.config import Limits, Settings
from deepserve.core.errors import ConfigurationError, MethodNotAllowed, RouteNotFound
from deepserve.dialects.chat.exchange import chat_decoder
from deepserve.dialects.chat.flavour import DEEPSEEK
from deepserve.dialects.exchange import Decode
from deepserve.gateway import Gateway
from deepserve.limits.scopes import check_admin
from deepserve.server import (
    balance,
    cache_explained,
    catalog,
    completions,
    deepseek_tools,
    messages,
    openrouter,
    oxen,
    responses,
    runware,
    upstreams,
)
from deepserve.server.access import Access, ConfiguredKeys, KeyLookup, is_loopback
from deepserve.server.cache_watch import CacheWatch
from deepserve.server.closing import Closing
from deepserve.server.door import Door
from deepserve.server.endpoint import Endpoint
from deepserve.server.fresh_ids import FreshIds
from deepserve.server.known_paths import KnownPaths, StraightToEndpoints
from deepserve.server.later import TaskMetrics
from deepserve.server.live_settings import LimitedDecode, LiveSettings
from deepserve.server.metrics import Metrics
from deepserve.server.models import Models
from deepserve.server.openapi import OpenApi
from deepserve.server.replay import ReplayMemory
from deepserve.server.request_log import RequestLog
from deepserve.server.site import Site
from deepserve.server.upstreams import UpstreamMetrics
from deepserve.server.visit import visit_of
from deepserve.store.key_record import KeyRecord
from deepserve.store.ledger_record import LedgerRecord
from deepserve.store.replays import ReplayStore
from deepserve.store.responses import ResponseStore, ShelfLimits
from deepserve.store.sealing import Sealer, open_sealer
from deepserve.tasks.runner import TaskRunner

PREFIXES = ("", "/v1", "/beta", "/beta/v1")
"""Base addresses of the DeepSeek dialect; those with `beta` check strict tools in strict mode."""

_PLANNED = {
    "/files": "files",
}
"""Ends or beginnings of addresses that clients of the vendor know and this server does not serve yet."""


def create_app(
    settings: Settings,
    gateway: Gateway,
    *,
    names: ModelCatalog,
    metrics: Metrics,
    live: LiveSettings | None = None,
    tasks: TaskRunner,
    scrape: Callable[[], Awaitable[bytes]] | None = None,
    lookups: Sequence[KeyLookup] = (),
    closing: Closing | None = None,
    kept: ResponseStore | None = None,
    replays: ReplayStore | None = None,
    sealer: Sealer | None = None,
    ledger: LedgerRecord | None = None,
    keys: KeyRecord | None = None,
    prices: PriceBook | None = None,
    log: RequestLog | None = None,
    new_id: Callable[[], UUID] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    clock: Callable[[], float] = time.monotonic,
) -> Starlette:
    """live: these settings, where they may change; None: they stay.

    lookups: where keys are found; none means that everybody on this machine is one tenant.

    metrics must also observe the gateway. scrape: what `/metrics` answers with; None: with these metrics alone.
    kept: None keeps responses in memory only. ledger: None has no record of answers, keys: None none of keys.
    replays: where several servers keep answers for repeated requests. sealer: None is that of the state directory.
    prices: None reads those of the settings.
    log: must also observe the gateway; None: answers are not logged.
    tasks: to be started by the caller once the application is made, for that registers what carries them out.
    """
    live = live or LiveSettings(settings)
    prices = prices or PriceBook(settings.prices_file, clock=clock)
    site = Site(
        live=live,
        gateway=gateway,
        access=Access(lookups),
        names=names,
        listings=load_listings(),
        prices=prices,
        ledger=ledger or LedgerRecord(None),
        keys=keys or KeyRecord(None),
        closing=closing or Closing(),
        replays=ReplayMemory(settings, clock=clock, shared=replays),
        sealer=sealer or open_sealer(settings.state_dir),
        responses=kept or ResponseStore(None, limits=ShelfLimits.of(settings), now=now),
        tasks=tasks,
        misses=CacheWatch(gateway, prices, is_on=settings.explains_cache),
        now=now,
        clock=clock,
    )
    live.consult(partial(_prepare_keys, site.access, lookups))
    metrics.watch(TaskMetrics(tasks))
    metrics.watch(UpstreamMetrics(gateway))
    models, monitoring = Models(site), _Monitoring(site, metrics, scrape)
    routes: list[BaseRoute] = [
        Route("/health", _health),
        Route("/ready", monitoring.ready),
        Route("/metrics", monitoring.metrics),
    ]
    for prefix in PREFIXES:
        is_beta = "beta" in prefix
        decode = LimitedDecode(live, partial(_chat_decoder, names, is_beta))
        chat = Endpoint(site, decode, name=f"chat {is_beta}")
        routes += [
            Route(f"{prefix}/chat/completions", chat, methods=["POST"]),
            Route(f"{prefix}/models", models.list),
            Route(f"{prefix}/models/{{model:path}}", models.retrieve),
        ]
    routes += balance.routes(site)
    routes += catalog.routes(site)
    routes += upstreams.routes(site)
    routes += cache_explained.routes(site)
    routes += completions.routes(site)
    routes += responses.routes(site)
    routes += deepseek_tools.routes(site)
    routes += openrouter.routes(site)
    routes += oxen.routes(site)
    routes += runware.routes(site)
    routes = [*messages.routes(site), *routes]  # first: it shares addresses, which headers tell apart
    routes.append(Route("/openapi.json", OpenApi(site, routes).show))
    paths = [route.path for route in routes if isinstance(route, Route) and "{" not in route.path]
    app = Starlette(routes=[KnownPaths(routes), *routes])
    refusing = ExceptionMiddleware(app.router, handlers={HTTPException: _Refusal(paths)})
    # Put together here, for Starlette's own outermost layer would tell of faults as the door does.
    app.middleware_stack = Door(
        StraightToEndpoints(refusing, routes=routes),
        live=live,
        access=site.access,
        new_id=new_id or FreshIds(),
        on_status=metrics.on_status,
        log=log or RequestLog(clock=clock),
        paths=frozenset(paths),
    )
    # A redirect to the address without a slash would be built from the Host header.
    app.router.redirect_slashes = False
    return app


def _prepare_keys(access: Access, lookups: Sequence[KeyLookup], settings: Settings) -> Callable[[], None]:
    """The settings' keys beside those that are kept elsewhere. Without any, only this machine may come in."""
    kept = [lookup for lookup in lookups if not isinstance(lookup, ConfiguredKeys)]
    found = [ConfiguredKeys(settings.api_keys), *kept] if settings.api_keys else kept
    if not found and not is_loopback(settings.host.strip("[]")):
        raise ConfigurationError(
            f"Without API keys everybody could come in, for the server listens on {settings.host}."
        )
    return partial(access.replace, found)


def _chat_decoder(names: ModelCatalog, is_beta: bool, limits: Limits) -> Decode:
    return chat_decoder(DEEPSEEK, names=names, limits=limits, is_beta=is_beta)


async def _health(_: Request) -> Response:
    """The process answers; nothing more is looked at."""
    return Response(b'{"status":"ok"}', media_type="application/json")


class _Monitoring:
    """What watches the server from outside."""

    def __init__(self, site: Site, metrics: Metrics, scrape: Callable[[], Awaitable[bytes]] | None) -> None:
        self._site = site
        self._metrics = metrics
        self._scrape = scrape

    async def ready(self, _: Request) -> Response:
        """Whether new requests would be answered."""
        is_ready = self._site.gateway.is_ready() and not self._site.closing.is_draining
        status = b"ready" if is_ready else b"not ready"
        # Whoever asks may come from anywhere: what is wrong with the configuration stands in the log.
        fault = b"" if self._site.live.problem is None else b',"configuration":"faulty"'
        body = b'{"status":"%b"%b}' % (status, fault)
        return Response(body, status_code=200 if is_ready else 503, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        check_admin(visit_of(request.scope).tenant)
        text = self._metrics.render() if self._scrape is None else await self._scrape()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _base_hint(path: str) -> str:
    return f"{path} is a base address. Give it to a client, or POST to {path.rstrip('/')}/chat/completions."


class _Refusal:
    """Unknown addresses and methods, as errors that say where to go instead."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    async def __call__(self, request: Request, exception: Exception) -> Response:
        assert isinstance(exception, HTTPException)
        path = request.url.path[:200]
        if exception.status_code == 405:
            allowed = tuple((exception.headers or {}).get("Allow", "").split(", "))
            if path.rstrip("/") in PREFIXES:
                raise MethodNotAllowed(_base_hint(path), allowed=allowed)
            raise MethodNotAllowed(
                f"{request.method} is not possible at {path}; allowed: {', '.join(allowed)}.", allowed=allowed
            )
        planned = next((text for end, text in _PLANNED.items() if path.endswith(end) or path.startswith(end)), None)
        if planned is not None:
            raise RouteNotFound(f"There is nothing at {path}: this server does not serve {planned} yet.")
        if path.rstrip("/") in PREFIXES:
            raise RouteNotFound(_base_hint(path))
        near = difflib.get_close_matches(path, self._paths, n=1, cutoff=0.0)
        raise RouteNotFound(f"There is nothing at {path}. The nearest address is {near[0]}.")
