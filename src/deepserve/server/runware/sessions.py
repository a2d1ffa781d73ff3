"""What a WebSocket client is still to be told, kept for a while when its connection breaks."""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from deepserve.config import SocketLimits
from deepserve.core.tenant import TenantId

_NOT_READ = 4
"""So many times `resume_bytes` may wait for a connected client."""


class Connected(Protocol):
    """The connection that a session is on."""

    def drop(self) -> None:
        """Close it: its session goes on elsewhere."""
        ...


class Session:
    """One client of one tenant, on one connection at a time or on none. Frames leave in the order they came."""

    def __init__(self, name: str, tenant: TenantId, limits: SocketLimits) -> None:
        self.name = name
        self.tenant = tenant
        self.connection: Connected | None = None
        self.num_tasks = 0
        self.left_at = 0.0
        self.has_news = asyncio.Event()
        self._limits = limits
        self._frames: deque[bytes] = deque()
        self._num_bytes = 0

    def post(self, frame: bytes) -> None:
        """To be sent. Without a connection the oldest frames are given up when there are too many bytes: what they
        told can still be asked for."""
        self._frames.append(frame)
        self._num_bytes += len(frame)
        if self.connection is not None and self._num_bytes > _NOT_READ * self._limits.resume_bytes:
            self.connection.drop()  # it asks, but does not read
        while self.connection is None and len(self._frames) > 1 and self._num_bytes > self._limits.resume_bytes:
            self._num_bytes -= len(self._frames.popleft())
        self.has_news.set()

    def post_first(self, frame: bytes) -> None:
        """To be sent before what is waiting already."""
        self._frames.appendleft(frame)
        self._num_bytes += len(frame)
        self.has_news.set()

    def first(self) -> bytes | None:
        """The next frame; it stays until `delivered`."""
        return self._frames[0] if self._frames else None

    def delivered(self, frame: bytes) -> None:
        self._frames.remove(frame)
        self._num_bytes -= len(frame)


class Sessions:
    """Sessions by name, the connected and those whose client may come back. clock: monotonic seconds."""

    def __init__(self, limits: SocketLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._connected: dict[str, Session] = {}
        self._left: OrderedDict[str, Session] = OrderedDict()

    def take(self, limits: SocketLimits) -> None:
        """Other limits from now on; sessions that are open keep theirs."""
        self._limits = limits

    def open(self, name: str, tenant: TenantId, connection: Connected) -> Session:
        session = Session(name, tenant, self._limits)
        session.connection = connection
        self._connected[name] = session
        return session

    def resume(self, name: str, tenant: TenantId, connection: Connected) -> Session | None:
        """None for a session that is unknown, over, or another tenant's."""
        self._forget()
        session = self._connected.get(name) or self._left.get(name)
        if session is None or not hmac.compare_digest(session.tenant.encode(), tenant.encode()):
            return None
        if session.connection is not None:
            session.connection.drop()
        self._left.pop(name, None)
        session.connection = connection
        self._connected[name] = session
        return session

    def leave(self, session: Session, connection: Connected) -> None:
        """The connection is gone. Does nothing when the session is on another one already."""
        if session.connection is not connection:
            return
        session.connection = None
        session.left_at = self._clock()
        self._connected.pop(session.name, None)
        if session.num_tasks or session.first() is not None:  # else there is nothing to come back for
            self._left[session.name] = session
        self._forget()

    def _forget(self) -> None:
        oldest = self._clock() - self._limits.resume_s
        while self._left:
            session = next(iter(self._left.values()))
            if session.left_at >= oldest and len(self._left) <= self._limits.sessions:
                return
            self._left.popitem(last=False)
