"""Tasks for a running server, over HTTP and WebSocket."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.server.live import PATIENCE_S, LiveServer

Json = Any
"""Bodies and frames as clients write and read them."""


def task_of(**fields: Json) -> dict[str, Json]:
    return {
        "taskType": "textInference",
        "taskUUID": str(uuid4()),
        "model": "deepseek:v4@pro",
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }


def question(task: Mapping[str, Json], kind: str = "getResponse") -> dict[str, Json]:
    return {"taskType": kind, "taskUUID": task["taskUUID"]}


def post(live: LiveServer, *tasks: Json, path: str = "/v1", **headers: str) -> httpx.Response:
    return httpx.post(live.address + path, json=list(tasks), headers=headers, timeout=PATIENCE_S)


class Client:
    """A WebSocket client that reads and writes JSON."""

    def __init__(self, live: LiveServer, path: str = "/v1", **headers: str) -> None:
        address = live.address.replace("http", "ws", 1) + path
        self._connecting = connect(
            address, additional_headers=headers, open_timeout=PATIENCE_S, close_timeout=PATIENCE_S, max_size=None
        )
        self.socket: ClientConnection = self._connecting.__enter__()

    def send(self, *tasks: Json) -> None:
        self.socket.send(json.dumps(tasks))

    def receive(self) -> Json:
        return json.loads(self.socket.recv(timeout=PATIENCE_S))

    def ask(self, *tasks: Json) -> Json:
        self.send(*tasks)
        return self.receive()

    def log_in(self, key: str = "any", session: str | None = None) -> str:
        """The session's name."""
        login = {"taskType": "authentication", "apiKey": key}
        if session is not None:
            login["connectionSessionUUID"] = session
        (greeting,) = self.ask(login)["data"]
        assert greeting["taskType"] == "authentication"
        name = greeting["connectionSessionUUID"]
        assert isinstance(name, str)
        return name

    def cut(self) -> None:
        """Break off without a word, as a network does."""
        self.socket.socket.close()

    def reset(self) -> None:
        """Break off so that the other side's writes fail."""
        self.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()

    def close(self) -> None:
        self.socket.close()
