"""The address policy for libraries that bring httpx: their calls go through the same door as ours.

Needs the extra `mcp`, whose SDK takes such a transport.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx2
from typing_extensions import override

from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.errors import OutgoingError


class CheckedTransport(httpx2.AsyncBaseTransport):
    """max_bytes: of one answer. Redirects are answers; cookies, proxies and environment variables play no part."""

    def __init__(self, policy: AddressPolicy, *, connect_s: float, idle_s: float, max_bytes: int) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._host = ""
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=idle_s)
        self._session: aiohttp.ClientSession | None = None

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            target = self._policy.check_url(str(request.url))
        except OutgoingError as error:
            raise httpx2.ConnectError(error.message) from error
        self._host = target.host or ""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=self._open_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=self._timeout,
            )
        headers = [(name, value) for name, value in request.headers.items() if name.lower() != "transfer-encoding"]
        try:
            response = await self._session.request(
                request.method,
                target,
                data=await request.aread() or None,
                headers=headers,
                allow_redirects=False,
            )
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no answer in time", request=request) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise httpx2.ConnectError(f"{self._host} could not be reached", request=request) from error
        return httpx2.Response(
            status_code=response.status,
            # aiohttp has undone the compression.
            headers=[
                (name, value) for name, value in response.headers.items() if name.lower() not in _ABOUT_THE_ENCODING
            ],
            stream=_Body(response, self._max_bytes),
            request=request,
        )

    @override
    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        reason = self._policy.refusal(self._host, sockaddr)
        if reason is not None:
            raise PermissionError(f"{sockaddr[0]} {reason}")
        return socket.socket(family=family, type=kind, proto=protocol)


_ABOUT_THE_ENCODING = frozenset(("content-encoding", "content-length", "transfer-encoding"))


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        self._response = response
        self._left = max_bytes

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                self._left -= len(chunk)
                if self._left < 0:
                    raise httpx2.ReadError("the answer is too long")
                yield chunk
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no more of the answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError("the answer broke off") from error

    @override
    async def aclose(self) -> None:
        self._response.close()
