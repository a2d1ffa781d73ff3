"""Answers whose head and first piece leave together: each write is a call of the system, and a packet of its own."""

from __future__ import annotations

import asyncio
from typing import Any

_MOST_COPIED_BYTES = 64 * 1024


class JoinedHead:
    """A transport that holds the head of an answer back until the same turn of the loop ends, or its body comes.

    Whatever else is asked of it, the transport behind it answers.
    """

    __slots__ = ("_held", "_loop", "behind")

    def __init__(self, behind: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.behind = behind
        self._loop = loop
        self._held: bytes | None = None

    def __getattr__(self, name: str) -> Any:  # Any: whatever the transport has
        return getattr(self.behind, name)

    def write(self, data: bytes) -> None:
        if self._held is None and data.startswith(b"HTTP/"):
            self._held = data
            self._loop.call_soon(self.flush)
            return
        if self._held is not None and len(data) <= _MOST_COPIED_BYTES:
            data, self._held = self._held + data, None
        self.flush()
        self.behind.write(data)

    def flush(self) -> None:
        if self._held is not None:
            data, self._held = self._held, None
            if not self.behind.is_closing():
                self.behind.write(data)

    def close(self) -> None:
        self.flush()
        self.behind.close()
