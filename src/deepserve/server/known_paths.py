"""Addresses without parameters, found at once: looking at one route after the other costs more than some answers."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
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
