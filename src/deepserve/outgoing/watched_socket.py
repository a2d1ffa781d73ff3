"""Connections that notice when the machine at their other end is gone, though nobody says so."""

from __future__ import annotations

import socket
from typing import Final

IDLE_S: Final = 15
"""After so long without a word the other side's machine is asked whether it is there,"""

EVERY_S: Final = 5
"""and again so often."""

MOST: Final = 3
"""When so many questions were not answered, the connection has failed."""


def watched_socket(family: int, kind: int, protocol: int) -> socket.socket:
    """A TCP socket whose peer is asked by the operating system. What a platform does not know, it is not told."""
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": IDLE_S, "TCP_KEEPALIVE": IDLE_S, "TCP_KEEPINTVL": EVERY_S, "TCP_KEEPCNT": MOST}
    for name, value in options.items():
        number = getattr(socket, name, None)
        if number is not None:
            opened.setsockopt(socket.IPPROTO_TCP, number, value)
    return opened
