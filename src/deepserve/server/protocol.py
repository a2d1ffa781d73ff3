"""uvicorn's HTTP protocol with limits: on the head of a request (its size, its fields, the time it may take), and on
how many connections are open."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from deepserve.config import Limits
from deepserve.core.errors import BodyTooSlow, CapacityError, DeepserveError, MalformedBody, Overloaded
from deepserve.server.connection import set_connection
from deepserve.server.error_shapes import error_codec
from deepserve.server.joined_head import JoinedHead

_SLACK_BYTES: Final = 1024
"""Separators and line ends, which the parser does not report."""


_NUM_TOLD: Final = 100
"""So many connections beyond the limit are told that there are too many; further ones are just closed."""

_ALWAYS_ANSWERED: Final = frozenset((b"/health", b"/ready", b"/metrics"))
"""Raw paths of those who watch over the server: it is not dead when it is full."""


class _HeadRefused(Exception):
    """Stops the parser; `_refusal` says why."""


class LimitedHttp(HttpToolsProtocol):
    """Refuses heads that are too large with 431 and 414, and those that take too long with 408, then closes.

    Beyond the limit on connections one that is idle between two requests is closed for a new one; where there is none,
    the new one's request is refused in its dialect's words for a server that is full.
    """

    limits: Limits = Limits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # Any: uvicorn's own type
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""  # uvicorn has none before a message begins
        self._in_head = True
        self._has_ended_message = False
        self._num_head_bytes = 0
        self._num_field_bytes = 0
        self._refusal: tuple[int | None, DeepserveError] | None = None  # None: the dialect's own status
        self._is_beyond = False
        self._deadline: asyncio.TimerHandle | None = None
        self._left: Callable[[], None] | None = None
        self._is_lost = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(JoinedHead(transport, self.loop))  # type: ignore[arg-type]  # as good as a transport
        self._expect_head()
        if len(self.connections) > self.limits.connections:
            self._find_place()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)
        self._is_lost = True
        if self._left is not None:
            self._left()

    @override
    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._has_ended_message = False
        super().data_received(data)
        # A field that never ends is not reported by the parser, so its bytes are counted here; not those of a piece
        # that begins with another request.
        if self._in_head and not self._has_ended_message:
            self._num_head_bytes += len(data)
            if self._num_head_bytes > self.limits.header_bytes + self.limits.request_line_bytes + _SLACK_BYTES:
                self._refuse(431, MalformedBody("The head of the request is too large."))
        if self._in_head and self._deadline is None and self._refusal is None:
            self._expect_head()  # most heads come in one piece, and need no timer

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        set_connection(self.scope, self)  # type: ignore[arg-type]  # a TypedDict; ASGI scopes may carry more
        self._in_head = True
        self._num_head_bytes = self._num_field_bytes = 0
        self._forget_deadline()

    @override
    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.request_line_bytes:
            self._refusal = (414, MalformedBody("The address of the request is too long."))
            raise _HeadRefused

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._num_field_bytes += len(name) + len(value) + 4
        if len(self.headers) > self.limits.header_fields or self._num_field_bytes > self.limits.header_bytes:
            self._refusal = (431, MalformedBody("The request has too many or too large header fields."))
            raise _HeadRefused

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_deadline()
        if self._is_beyond and self.url.partition(b"?")[0] not in _ALWAYS_ANSWERED:
            self._refusal = (None, Overloaded("Too many connections are open. Please try again.", retry_after_s=1.0))
            raise _HeadRefused
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_ended_message = True

    @override
    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for anything the parser did not take, our own refusals included."""
        if self._refusal is None:
            self._refusal = (400, MalformedBody("This is not an HTTP request that can be read."))
        self._send_refusal()

    @override
    def handle_websocket_upgrade(self) -> None:
        """WebSockets have no heads to hold."""
        transport: object = self.transport
        if isinstance(transport, JoinedHead):
            self.transport = transport.behind
        super().handle_websocket_upgrade()

    @override
    def shutdown(self) -> None:
        """The server is stopping: what is still being sent is not waited for."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body or self.pipeline:
            super().shutdown()
        elif cycle.response_started:  # refused, and the rest of its body dropped
            self.transport.close()
        else:
            self._refuse(None, Overloaded("The server is stopping. Please send the request again."))

    # What the requests may know of their connection

    def abort(self) -> None:
        self.transport.abort()

    def has_all(self) -> bool:
        # Where requests are pipelined this is the last one, which comes after the end of the others.
        return self.cycle is not None and not self.cycle.more_body

    def when_lost(self, left: Callable[[], None]) -> None:
        self._left = left
        self.flow.resume_reading()  # what is not read does not end either
        if self._is_lost:
            self.loop.call_soon(left)

    def forget(self, left: Callable[[], None]) -> None:
        if self._left == left:
            self._left = None

    # Limits

    def is_idle(self) -> bool:
        """Between two requests: nothing of the next one has come."""
        return self.cycle is not None and self.cycle.response_complete and not self._in_head and not self.pipeline

    def _find_place(self) -> None:
        num_beyond = len(self.connections) - self.limits.connections
        for other in list(self.connections):
            if isinstance(other, LimitedHttp) and other.is_idle() and not other.transport.is_closing():
                other.transport.close()
                return
        self._is_beyond = True
        if num_beyond > _NUM_TOLD:
            self.transport.abort()

    def _expect_head(self) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(self.limits.headers_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._deadline = None
        if self._is_answering():
            self._expect_head()  # the next request can wait: this one is not done
        elif self._in_head and not self.transport.is_closing():
            self._refuse(408, BodyTooSlow("The head of the request did not arrive in time."))

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int | None, error: DeepserveError) -> None:
        if self._refusal is None:
            self._refusal = (status, error)
            self._send_refusal()

    def _is_answering(self) -> bool:
        """Whether a request has been read to its end, or is being answered, and its answer is not yet complete."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and (cycle.response_started or not cycle.more_body)

    def _send_refusal(self) -> None:
        """Tell what is wrong, unless that would land in the middle of the answer to an earlier request."""
        assert self._refusal is not None
        if self._is_answering():
            self._forget_deadline()
            self.transport.close()
            return
        status, error = self._refusal
        trace = uuid4().hex
        # Of a request line that cannot be read no address is known, and what its client speaks neither.
        path = self.url.partition(b"?")[0].decode("latin-1") or "/chat/completions"
        codec = error_codec(path)
        body = codec.encode(error, request_id=trace)
        wait_s = math.ceil(error.retry_after_s) if isinstance(error, CapacityError) else None
        self._forget_deadline()
        self.transport.write(
            STATUS_LINE[codec.status(error) if status is None else status]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"x-request-id: %b\r\nx-ds-trace-id: %b\r\n" % (trace.encode(), trace.encode())
            + (b"" if wait_s is None else b"retry-after: %d\r\n" % wait_s)
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()


def limited_http(limits: Limits) -> type[LimitedHttp]:
    """The protocol class with these limits; uvicorn makes the instances."""
    return type("LimitedHttp", (LimitedHttp,), {"limits": limits})
