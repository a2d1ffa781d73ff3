"""uvicorn's HTTP protocol with limits on the head of a request: its size, its fields, and the time it may take."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from uuid import uuid4

from typing_extensions import override
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from deepserve.config import Limits
from deepserve.core.errors import BodyTooSlow, MalformedBody, RequestError
from deepserve.server.error_shapes import error_codec
from deepserve.server.visit import set_abort

_SLACK_BYTES: Final = 1024
"""Separators and line ends, which the parser does not report."""


class _HeadRefused(Exception):
    """Stops the parser; `_refusal` says why."""


class LimitedHttp(HttpToolsProtocol):
    """Refuses heads that are too large with 431 and 414, and those that take too long with 408, then closes."""

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
        self._refusal: tuple[int, RequestError] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._expect_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

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

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        set_abort(self.scope, self.transport.abort)  # type: ignore[arg-type]  # a TypedDict; ASGI scopes may carry more
        self._in_head = True
        self._num_head_bytes = self._num_field_bytes = 0
        self._expect_head()

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

    def _refuse(self, status: int, error: RequestError) -> None:
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
        body = error_codec(path).encode(error, request_id=trace)
        self._forget_deadline()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"x-request-id: %b\r\nx-ds-trace-id: %b\r\n" % (trace.encode(), trace.encode())
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()


def limited_http(limits: Limits) -> type[LimitedHttp]:
    """The protocol class with these limits; uvicorn makes the instances."""
    return type("LimitedHttp", (LimitedHttp,), {"limits": limits})
