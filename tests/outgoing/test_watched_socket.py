"""A machine that vanishes is noticed within seconds, not within the minutes that an answer may take."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.origin_client import OriginClient
from deepserve.outgoing.watched_socket import EVERY_S, IDLE_S, MOST, watched_socket
from tests.outgoing.receiver import OK, Receiver


def test_the_operating_system_asks_the_other_side() -> None:
    with watched_socket(socket.AF_INET, socket.SOCK_STREAM, 0) as opened:
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            told = {
                socket.TCP_KEEPIDLE: IDLE_S,
                socket.TCP_KEEPINTVL: EVERY_S,
                socket.TCP_KEEPCNT: MOST,
            }
            assert {name: opened.getsockopt(socket.IPPROTO_TCP, name) for name in told} == told


def test_connections_to_upstreams_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def watch(family: int, kind: int, protocol: int) -> socket.socket:
        opened.append(watched_socket(family, kind, protocol))
        return opened[-1]

    monkeypatch.setattr("deepserve.outgoing.origin_client.watched_socket", watch)

    async def call() -> bytes:
        async with Receiver(OK) as receiver:
            client = OriginClient(
                f"http://{receiver.host}",
                policy=AddressPolicy(allowed_hosts=frozenset((receiver.host,))),
                user_agent="test",
                max_bytes=100,
            )
            answer = await client.call("/", headers={})
            body = await answer.read()
            await client.close()
            return body

    assert asyncio.run(call()) == b"ok"
    assert len(opened) == 1
