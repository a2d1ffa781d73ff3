"""Routes found by their path go where the list of them would."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from deepserve.server.known_paths import KnownPaths, StraightToEndpoints


class Named:
    """Answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "said", "name": self.name, "route": type(scope.get("route"))})


async def answer(request: Request) -> Response:
    return Response("a function")


class Picky(Route):
    """Takes nothing."""

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.NONE, {}


ROUTES: list[BaseRoute] = [
    Picky("/a", Named("never")),
    Route("/a", Named("post a"), methods=["POST"]),
    Route("/a", Named("get a"), methods=["GET"]),
    Route("/b/{name}", Named("b with a name")),
    Route("/b/c", Named("hidden by b with a name")),
    Route("/d/e", Named("d e")),
    Route("/d/{name}", Named("d with a name")),
    WebSocketRoute("/a", Named("socket a")),
    Route("/f", answer, methods=["POST"]),
    Route("/g", Named("post g"), methods=["POST"]),
]


def asked(routes: list[BaseRoute], kind: str, method: str, path: str, *, is_straight: bool = False) -> list[Message]:
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "said", "name": "nowhere", "route": None})

    router = Router(routes, redirect_slashes=False, default=nowhere)
    scope: Scope = {"type": kind, "method": method, "path": path, "root_path": "", "headers": []}
    app = StraightToEndpoints(router, routes=routes) if is_straight else router
    asyncio.run(app(scope, receive, send))
    return said


@pytest.mark.parametrize("path", ["/a", "/b/c", "/b/x", "/d/e", "/d/x", "/nowhere", "/a/", "/f", "/g"])
@pytest.mark.parametrize(("kind", "method"), [("http", "GET"), ("http", "POST"), ("http", "PUT"), ("websocket", "")])
def test_every_request_goes_where_it_went(kind: str, method: str, path: str) -> None:
    plain = asked(ROUTES, kind, method, path)
    known = asked([KnownPaths(ROUTES), *ROUTES], kind, method, path)
    straight = asked(ROUTES, kind, method, path, is_straight=True)
    for other in (known, straight):
        assert [{**message, "route": None} for message in other] == [{**message, "route": None} for message in plain]


def test_an_address_without_parameters_is_found_at_once() -> None:
    (said,) = asked([KnownPaths(ROUTES), *ROUTES], "http", "GET", "/a")
    assert (said["name"], said["route"]) == ("get a", KnownPaths)


@pytest.mark.parametrize(("path", "is_straight"), [("/g", True), ("/a", False), ("/b/c", False)])
def test_a_post_goes_past_the_routes_where_nothing_else_could_take_it(path: str, is_straight: bool) -> None:
    (said,) = asked(ROUTES, "http", "POST", path, is_straight=True)
    assert (said["route"] is type(None)) is is_straight
