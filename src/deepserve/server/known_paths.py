"""Addresses without parameters, found at once: looking at one route after the other costs more than some answers."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

_KEY = "deepserve.route"


class KnownPaths(BaseRoute):
    """Stands before the routes that it is made of, and goes exactly where they would.

    What none of them takes entirely, such as another method, is left to them.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._by_path: dict[str, list[BaseRoute]] = {}
        with_parameters: list[Route | WebSocketRoute] = []
        for route in routes:
            if not isinstance(route, Route | WebSocketRoute):
                continue
            if "{" in route.path:
                with_parameters.append(route)
            elif not any(earlier.path_regex.match(route.path) for earlier in with_parameters):
                self._by_path.setdefault(route.path, []).append(route)

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] in ("http", "websocket") and not scope.get("root_path"):
            for route in self._by_path.get(scope["path"], ()):
                match, found = route.matches(scope)
                if match is Match.FULL:
                    return Match.FULL, {**found, _KEY: route}
        return Match.NONE, {}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route: BaseRoute = scope[_KEY]
        await route.handle(scope, receive, send)


class StraightToEndpoints:
    """ASGI middleware that hands POSTs of known paths to what answers them, past everything that looks for routes.

    Only where nothing can come of the detour: the first route of that path is a plain one to an ASGI application.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._by_path: dict[str, ASGIApp | None] = {}
        with_parameters: list[Route] = []
        for route in routes:
            if not isinstance(route, Route):
                continue
            if "{" in route.path:
                with_parameters.append(route)
            elif route.path not in self._by_path and (route.methods is None or "POST" in route.methods):
                is_plain = type(route) is Route and route.app is route.endpoint
                is_first = not any(earlier.path_regex.match(route.path) for earlier in with_parameters)
                self._by_path[route.path] = route.app if is_plain and is_first else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            endpoint = self._by_path.get(scope["path"])
        await (endpoint or self._app)(scope, receive, send)
