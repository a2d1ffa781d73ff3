"""The outermost layer: every request gets an id and an identity here, every failure a body.

Answers carry the id as `x-request-id`, as `x-ds-trace-id`, the vendor's name for it, and as `request-id`, Anthropic's.
A client that sends an `x-request-id` of its own gets that one back; records have both, and ids are never a client's.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping
from uuid import UUID

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepserve.core.errors import (
    Cancelled,
    CapacityError,
    DeepserveError,
    EngineFailure,
    InvalidField,
    MethodNotAllowed,
    RateLimited,
)
from deepserve.core.request import RequestId
from deepserve.core.trace import read_trace
from deepserve.dialects.exchange import Caller
from deepserve.server.access import Access
from deepserve.server.connection import connection_of
from deepserve.server.error_shapes import error_codec
from deepserve.server.limit_headers import limit_headers, style_of_errors
from deepserve.server.live_settings import LiveSettings
from deepserve.server.request_log import RequestLog
from deepserve.server.visit import Visit, fields_of, remember

_log = logging.getLogger(__name__)

_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_S = 5.0


class Door:
    """ASGI middleware around all routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        live: LiveSettings,
        access: Access,
        new_id: Callable[[], UUID],
        on_status: Callable[[int], None],
        log: RequestLog,
        paths: Collection[str],
    ) -> None:
        """paths: addresses that may be told to the log. Any other may hold what a client said."""
        self._app = app
        self._live = live
        self._access = access
        self._new_id = new_id
        self._on_status = on_status
        self._log = log
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        link = read_trace(fields_of(scope))
        visit = Visit(id=self._new_id(), is_strict=self._live.current.is_strict, trace=link)
        remember(scope, visit)
        trace = visit.id.hex.encode()
        shown = trace if link is None or link.given_id is None else link.given_id.encode()
        has_started = has_read_all = False

        async def receive_counted() -> Message:
            nonlocal has_read_all
            message = await receive()
            has_read_all = has_read_all or not message.get("more_body", False)
            return message

        async def send_marked(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                self._on_status(message["status"])
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", shown),
                    (b"x-ds-trace-id", trace),
                    (b"request-id", trace),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            tenant = await self._access.admit(scope)
            is_strict = _is_strict(fields_of(scope), is_usual=self._live.current.is_strict)
            visit = Visit(id=visit.id, tenant=tenant, is_strict=is_strict, trace=link)
            remember(scope, visit)
            await self._app(scope, receive_counted, send_marked)
        except Cancelled:
            connection = connection_of(scope)
            if connection is not None:
                connection.abort()  # nobody is there to be told
        except DeepserveError as error:
            assert not has_started, "after its first byte an answer carries its own errors"
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._log.on_refused(RequestId(visit.id.hex), link, visit.tenant.id, path, error)
            has_more = not has_read_all and _has_body(fields_of(scope))
            await _send_error(error, visit, scope, send_marked, receive if has_more else None)
        except Exception:  # the last boundary: logged in full, shown in general
            _log.exception("Request %s met a fault of the server", visit.id.hex)
            if has_started:
                raise
            fault = EngineFailure("The server met an internal fault.")
            await _send_error(fault, visit, scope, send_marked, None)


def _is_strict(headers: Mapping[str, str], *, is_usual: bool) -> bool:
    value = headers.get("x-deepserve-strict")
    if value is None:
        return is_usual
    match value.strip().lower():
        case "1" | "true":
            return True
        case "0" | "false":
            return False
        case _:
            raise InvalidField("The header x-deepserve-strict is 1 or 0.", field="x-deepserve-strict")


def _has_body(headers: Mapping[str, str]) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _path_of(scope: Scope) -> str:
    """As it was sent, not as something made of it."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.decode("latin-1")


async def _send_error(error: DeepserveError, visit: Visit, scope: Scope, send: Send, unread: Receive | None) -> None:
    """unread: where the rest of the request comes from. It is read and dropped after the answer is out, because a
    client that is still sending would otherwise see a reset connection instead of the answer."""
    codec = error_codec(_path_of(scope))
    caller = Caller(tenant=visit.tenant, headers=fields_of(scope))
    body = codec.encode(error, request_id=visit.id.hex, is_strict=visit.is_strict, caller=caller)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if isinstance(error, CapacityError):
        headers.append((b"retry-after", str(math.ceil(error.retry_after_s)).encode()))
    if isinstance(error, RateLimited):
        headers += limit_headers(style_of_errors(codec), error.allowance, is_refusal=True)
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    if unread is not None:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": codec.status(error), "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": unread is not None})
    if unread is not None:
        await _drain(unread)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    num_bytes = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while num_bytes < _DRAIN_BYTES:
                message = await receive()
                num_bytes += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
