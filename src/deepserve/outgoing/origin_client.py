"""Calls to one server that the operator has named: connections are kept, and answers come in pieces.

What users name is called by `client`, where every call has a connection of its own. Here all calls go to the same
place on the operator's account; cookies, redirects, proxies and environment variables play no part.
"""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from yarl import URL

from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.client import Lookup, ThreadedResolver, explain, spell_address, system_lookup
from deepserve.outgoing.errors import AddressRefused, BadCertificate, InvalidAnswer, NotConnected
from deepserve.outgoing.watched_socket import watched_socket

_LOOKUP_THREADS = 4
_KEPT_S = 10.0
"""Shorter than servers keep idle connections, so that a request seldom meets one that is being closed."""
_MOST_BYTES_AT_ONCE = 512 * 1024
"""Larger bodies are handed to the connection in pieces."""


class OriginAnswer:
    """Status and headers (by names in any case), and a body that is read piece by piece. `close` it in the end.

    Closing before the end of the body breaks the connection off, which is how the server learns of it.
    """

    def __init__(self, response: aiohttp.ClientResponse, host: str, *, max_bytes: int) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._host = host
        self._left_bytes = max_bytes
        self._max_bytes = max_bytes

    @property
    def is_over(self) -> bool:
        """The end of the body has come."""
        return self._response.content.at_eof()

    async def piece(self) -> bytes:
        """Whatever has come, as soon as something has; nothing at the end. Raises OutgoingError."""
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise explain(error, self._host, [], []) from error
        self._left_bytes -= len(piece)
        if self._left_bytes < 0:
            raise InvalidAnswer(f"{self._host} sent more than {self._max_bytes} bytes.")
        return piece

    async def read(self) -> bytes:
        """All that has not been read. Raises OutgoingError."""
        content = bytearray()
        while piece := await self.piece():
            content += piece
        return bytes(content)

    def close(self) -> None:
        self._response.close()


class OriginClient:
    """base_url: the scheme, the host, and a path that is put before those of the calls.

    Raises OutgoingError for a URL that cannot be called. Used within one event loop; `close` it there.
    """

    def __init__(
        self,
        base_url: str,
        *,
        policy: AddressPolicy,
        user_agent: str,
        connect_s: float = 10.0,
        max_bytes: int,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._url = policy.check_url(base_url)
        self._urls: dict[str, URL] = {}
        self.host = self._url.host or ""
        self._policy = policy
        self._user_agent = user_agent
        self._connect_s = connect_s
        self._max_bytes = max_bytes
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="deepserve-origin")
        self._session: aiohttp.ClientSession | None = None
        self._refused: list[str] = []

    async def call(self, path: str, *, body: bytes | None = None, headers: Mapping[str, str]) -> OriginAnswer:
        """A POST of the body, or a GET. Any status is an answer, a redirect too. Raises OutgoingError."""
        sent = {"User-Agent": self._user_agent, "Accept-Encoding": "identity", **headers}
        self._refused.clear()
        try:
            response = await self._opened().request(
                "GET" if body is None else "POST",
                self._url_of(path),
                data=body if body is None or len(body) <= _MOST_BYTES_AT_ONCE else io.BytesIO(body),
                headers=sent,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            found = explain(error, self.host, [], list(self._refused))
            if isinstance(found, AddressRefused | BadCertificate):
                raise found from error
            raise NotConnected(f"{self.host} could not be reached: {error}.") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise explain(error, self.host, [], list(self._refused)) from error
        return OriginAnswer(response, self.host, max_bytes=self._max_bytes)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    def _url_of(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = self._url.with_path(self._url.path.rstrip("/") + path)
        return url

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # how many requests run at once is decided elsewhere
                    keepalive_timeout=_KEPT_S,
                    socket_factory=self._open_socket,
                    resolver=ThreadedResolver(self._lookup, self._threads),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_s),
            )
        return self._session

    def _open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The only door to a connection: the address given here is the one that is connected to."""
        family, kind, protocol, _, sockaddr = info
        reason = self._policy.refusal(self.host, sockaddr)
        if reason is not None:
            self._refused.append(f"{spell_address(sockaddr)} {reason}")
            raise PermissionError(f"{spell_address(sockaddr)} {reason}")
        return watched_socket(family, kind, protocol)
