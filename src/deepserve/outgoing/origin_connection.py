"""One HTTP/1.1 connection to a server of the operator's: one request at a time, its answer in pieces.

Spoken here and not by the library that calls what users name, because that one takes as long for a request, and for
each event of a stream, as all else that is done with it: cookies, redirects, proxies and retries play no part here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import httptools
from typing_extensions import override

from deepserve.outgoing.errors import ConnectionFailed, InvalidAnswer, OutgoingError

_MOST_HEAD_BYTES: Final = 64 * 1024
_MOST_WAITING_BYTES: Final = 256 * 1024
"""Of an answer that nobody reads: then the server has to wait."""

_FIRST_STATUS: Final = 200
"""Lower ones announce that an answer is going to come."""


class OriginConnection(asyncio.Protocol):
    """host: for messages. After `ask`: status and headers (names in lower case; of several the first).

    is_over  the whole answer has come, or none is under way
    """

    _transport: asyncio.Transport

    def __init__(self, host: str) -> None:
        self._host = host
        self._is_open = False
        self._fault: OutgoingError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._begin()
        self.is_over = True

    def _begin(self) -> None:
        """Of an answer, nothing has come."""
        self.is_over = False
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._parser = httptools.HttpResponseParser(self)
        # What servers get away with elsewhere.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._fields: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._num_head_bytes = self._num_waiting_bytes = 0
        self._has_begun = self._is_paused = self._ends_with_connection = False
        self._keeps_alive = True

    async def ask(self, head: bytes, body: bytes) -> None:
        """Send a request and wait until the answer has begun. Raises OutgoingError."""
        assert self.is_over
        self._begin()
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)
        while not self._has_begun:
            await self._wait()

    async def piece(self) -> bytes:
        """What has come, as soon as something has; nothing at the end. Raises OutgoingError."""
        while not self._pieces and not self.is_over:
            await self._wait()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._num_waiting_bytes = 0
        if self._is_paused:
            self._is_paused = False
            if self._is_open:
                self._transport.resume_reading()
        return piece

    def can_be_used_again(self) -> bool:
        return self.is_over and self._is_open and self._keeps_alive and not self._transport.is_closing()

    def abort(self) -> None:
        """Close it at once, which is how the server learns that nobody listens."""
        if self._is_open:
            self._transport.abort()

    # What the loop tells

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what TCP gives
        self._transport = transport
        self._is_open = True

    @override
    def data_received(self, data: bytes) -> None:
        if self.is_over:
            self.abort()  # nothing was asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, httptools.HttpParserCallbackError) as error:
            self._fail(InvalidAnswer(f"{self._host} did not answer as a web server does: {error}."))
            self.abort()
        if self._num_waiting_bytes > _MOST_WAITING_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._is_open = False
        if not self.is_over and self._ends_with_connection:
            self.is_over = True
        elif not self.is_over:
            reason = "" if exc is None else f": {exc}"
            self._fail(ConnectionFailed(f"{self._host} closed the connection before the end of its answer{reason}."))
        self._wake()

    # What the parser tells

    def on_message_begin(self) -> None:
        if self.is_over:
            self._keeps_alive = False  # more than was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_head_bytes += len(name) + len(value)
        if self._num_head_bytes > _MOST_HEAD_BYTES:
            raise ValueError("its header is too long")
        self._fields.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < _FIRST_STATUS:
            return
        self.status, self.headers = status, self._fields
        self._keeps_alive = self._parser.should_keep_alive()
        has_length = "content-length" in self._fields or "transfer-encoding" in self._fields
        self._ends_with_connection = not has_length
        self._has_begun = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._num_waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._has_begun:
            self.is_over = True
        self._fields = {}

    # Inside

    async def _wait(self) -> None:
        """Until something comes. Raises what has gone wrong since."""
        if self._fault is not None:
            raise self._fault
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _fail(self, fault: OutgoingError) -> None:
        if self._fault is None:
            self._fault = fault

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
