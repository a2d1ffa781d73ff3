"""Runware's addresses: the base addresses themselves, by POST and by WebSocket."""

from __future__ import annotations

from random import SystemRandom
from uuid import uuid4

from starlette.routing import BaseRoute, Route, WebSocketRoute

from deepserve.server.runware.desk import Desk
from deepserve.server.runware.endpoint import TaskEndpoint
from deepserve.server.runware.socket import SocketEndpoint
from deepserve.server.site import Site

ADDRESSES = ("/", "/v1", "/v1/")


def routes(site: Site) -> list[BaseRoute]:
    desk = Desk(site, draw_seed=lambda: SystemRandom().getrandbits(32), new_id=uuid4)
    posts, sockets = TaskEndpoint(site, desk, uuid4), SocketEndpoint(site, desk, uuid4)
    return [
        *(Route(address, posts, methods=["POST"]) for address in ADDRESSES),
        *(WebSocketRoute(address, sockets) for address in ADDRESSES),
    ]
