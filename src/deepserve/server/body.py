"""The body of a request, whole and within its limits."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from deepserve.config import Limits
from deepserve.core.errors import BodyTooLarge, BodyTooSlow, Cancelled, UnsupportedMedia
from deepserve.server.connection import connection_of
from deepserve.server.visit import fields_of


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Raises BodyTooLarge (by announcement or by count), BodyTooSlow, UnsupportedMedia, Cancelled.

    The content type is not looked at: `curl -d` says it sends a form, and means JSON.
    """
    headers = fields_of(scope)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMedia(f"Content-Encoding {encoding[:32]} is not supported: send the body uncompressed.")
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limits.body_bytes:
        raise _too_large(limits)
    connection = connection_of(scope)
    pieces: list[bytes] = []
    num_bytes = 0
    clock = asyncio.get_running_loop().time  # what `asyncio.timeout_at` goes by
    begun_at = clock()
    while True:
        if connection is not None and connection.has_all():
            message = await receive()  # there is nothing to wait for
        else:
            is_due_at = begun_at + limits.body_grace_s + num_bytes / limits.body_bytes_per_s
            try:
                async with asyncio.timeout_at(min(is_due_at, clock() + limits.body_timeout_s)):
                    message = await receive()
            except TimeoutError:
                raise _too_slow(limits, is_crawling=clock() >= is_due_at) from None
        if message["type"] == "http.disconnect":
            raise Cancelled("The client left while sending.")
        piece = message.get("body", b"")
        num_bytes += len(piece)
        if num_bytes > limits.body_bytes:
            raise _too_large(limits)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def _too_slow(limits: Limits, *, is_crawling: bool) -> BodyTooSlow:
    if is_crawling:
        return BodyTooSlow(
            f"The request body arrives too slowly: after {limits.body_grace_s:g} seconds at least "
            f"{limits.body_bytes_per_s:g} bytes a second are expected."
        )
    return BodyTooSlow(f"No byte of the request body arrived for {limits.body_timeout_s:g} seconds.")


def _too_large(limits: Limits) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limits.body_bytes} bytes.")
