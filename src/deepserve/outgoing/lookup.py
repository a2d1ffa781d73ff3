"""How names become addresses, and how addresses are written."""

from __future__ import annotations

import socket
from typing import Any, Protocol


class Lookup(Protocol):
    """How names become addresses."""

    def __call__(self, host: str, port: int, family: socket.AddressFamily) -> list[tuple[Any, ...]]:
        """As `socket.getaddrinfo` for streams. Blocks; raises OSError."""
        ...


def system_lookup(host: str, port: int, family: socket.AddressFamily) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM))


def spell_address(sockaddr: tuple[Any, ...]) -> str:
    host, port = sockaddr[0], sockaddr[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
