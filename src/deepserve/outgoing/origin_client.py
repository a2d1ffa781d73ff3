"""Calls to one server that the operator has named: connections are kept, and answers come in pieces.

What users name is called by `client`, where every call has a connection of its own. Here all calls go to the same
place on the operator's account; cookies, redirects, proxies and environment variables play no part.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from aiohappyeyeballs import start_connection

from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.errors import AddressRefused, BadCertificate, InvalidAnswer, InvalidUrl, NotConnected
from deepserve.outgoing.lookup import Lookup, spell_address, system_lookup
from deepserve.outgoing.origin_connection import OriginConnection
from deepserve.outgoing.watched_socket import watched_socket

_LOOKUP_THREADS = 4
_KEPT_S = 10.0
"""Shorter than servers keep idle connections, so that a request seldom meets one that is being closed."""
_NEXT_ADDRESS_S = 0.25
"""So long one address of a name is waited for before the next is tried beside it (RFC 8305)."""
_MOST_HEADS: Final = 64
_INFLATED_AT_ONCE: Final = 1024 * 1024
_NO_HEADERS: Final[Mapping[str, str]] = {}


class OriginAnswer:
    """Status and headers (names in lower case), and a body that is read piece by piece. `close` it in the end.

    Closing before the end of the body breaks the connection off, which is how the server learns of it.
    """

    def __init__(self, connection: OriginConnection, client: OriginClient, *, max_bytes: int) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        self._connection: OriginConnection | None = connection
        self._client = client
        self._left_bytes = max_bytes
        self._max_bytes = max_bytes
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        self._inflation = None if encoding == "identity" else _Inflation(encoding, client.host)

    @property
    def is_over(self) -> bool:
        """The end of the body has come."""
        return self._connection is None or self._connection.is_over

    async def piece(self) -> bytes:
        """Whatever has come, as soon as something has; nothing at the end. Raises OutgoingError."""
        assert self._connection is not None, "the answer is closed"
        if self._inflation is None:
            piece = await self._connection.piece()
        else:
            piece = await self._inflation.piece(self._connection)
        self._left_bytes -= len(piece)
        if self._left_bytes < 0:
            raise InvalidAnswer(f"{self._client.host} sent more than {self._max_bytes} bytes.")
        return piece

    async def read(self) -> bytes:
        """All that has not been read. Raises OutgoingError."""
        content = bytearray()
        while piece := await self.piece():
            content += piece
        return bytes(content)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.give_back(connection)


class _Inflation:
    """A body that came compressed, though it was not asked for so."""

    def __init__(self, encoding: str, host: str) -> None:
        """Raises InvalidAnswer."""
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise InvalidAnswer(f"{host} sent its answer in the encoding {encoding[:32]}, which was not asked for.")
        self._host = host
        self._inflate = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
        self._rest = b""

    async def piece(self, connection: OriginConnection) -> bytes:
        while True:
            packed = self._rest or await connection.piece()
            if not packed:
                return b""
            try:
                piece = self._inflate.decompress(packed, _INFLATED_AT_ONCE)
            except zlib.error as error:
                raise InvalidAnswer(f"{self._host} sent an answer that cannot be unpacked: {error}.") from error
            self._rest = self._inflate.unconsumed_tail
            if piece:
                return piece


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
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        """certificates: which are trusted; None: those that the system trusts."""
        self._url = policy.check_url(base_url)
        self.host = self._url.host or ""
        self._port = self._url.port or 0
        self._policy = policy
        self._user_agent = user_agent
        self._connect_s = connect_s
        self._max_bytes = max_bytes
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="deepserve-origin")
        self._certificates = certificates
        self._heads: dict[tuple[object, ...], bytes] = {}
        self._idle: list[tuple[OriginConnection, float]] = []
        self._asked: set[OriginConnection] = set()
        self._tidying: asyncio.TimerHandle | None = None

    async def call(
        self,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str],
        once: Mapping[str, str] = _NO_HEADERS,
    ) -> OriginAnswer:
        """A POST of the body, or a GET. Any status is an answer, a redirect too. Raises OutgoingError.

        once: headers of this call, which the next will have otherwise.
        """
        head = self._head("GET" if body is None else "POST", path, headers)
        if once:
            head += _lines([f"{name}: {value}" for name, value in once.items()])
        if body is not None:
            head += b"Content-Length: %d\r\n" % len(body)
        connection = self._taken() or await self._connected()
        self._asked.add(connection)
        try:
            await connection.ask(head + b"\r\n", body or b"")
            return OriginAnswer(connection, self, max_bytes=self._max_bytes)
        except BaseException:
            self._asked.discard(connection)
            connection.abort()
            raise

    async def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
        for connection in (*self._asked, *(idle for idle, _ in self._idle)):
            connection.abort()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    def give_back(self, connection: OriginConnection) -> None:
        """Its answer is closed. Used again where that was read to its end."""
        self._asked.discard(connection)
        if not connection.can_be_used_again():
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        if self._tidying is None:
            self._tidying = loop.call_later(_KEPT_S, self._tidy)

    # Connections

    def _taken(self) -> OriginConnection | None:
        """The one that was used last."""
        while self._idle:
            connection, since = self._idle.pop()
            if connection.can_be_used_again() and asyncio.get_running_loop().time() - since < _KEPT_S:
                return connection
            connection.abort()
        return None

    def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - _KEPT_S
        for connection, since in self._idle:
            if since <= oldest:
                connection.abort()
        self._idle = [(connection, since) for connection, since in self._idle if since > oldest]
        self._tidying = loop.call_later(_KEPT_S, self._tidy) if self._idle else None

    async def _connected(self) -> OriginConnection:
        """A new connection. Raises NotConnected, AddressRefused, BadCertificate."""
        loop = asyncio.get_running_loop()
        refused: list[str] = []
        try:
            async with asyncio.timeout(self._connect_s):
                addresses = await loop.run_in_executor(
                    self._threads, self._lookup, self.host, self._port, socket.AF_UNSPEC
                )
                opened = await start_connection(
                    [(family, kind, protocol, "", address) for family, kind, protocol, _, address in addresses],
                    happy_eyeballs_delay=_NEXT_ADDRESS_S,
                    interleave=1,
                    socket_factory=partial(self._open_socket, refused),
                )
                is_secure = self._url.scheme == "https"
                _, connection = await loop.create_connection(
                    partial(OriginConnection, self.host),
                    sock=opened,
                    ssl=await self._trusted() if is_secure else None,
                    server_hostname=self.host if is_secure else None,
                )
        except ssl.SSLError as error:
            raise BadCertificate(f"The certificate of {self.host} is not valid: {error}.") from error
        except TimeoutError as error:
            raise NotConnected(f"{self.host} could not be reached in {self._connect_s:g} s.") from error
        except (OSError, ValueError) as error:
            if refused:
                raise AddressRefused(
                    f"{self.host} leads to an address that is not to be called: {'; '.join(refused)}."
                ) from error
            raise NotConnected(f"{self.host} could not be reached: {error}.") from error
        return connection

    def _open_socket(self, refused: list[str], info: tuple[Any, ...]) -> socket.socket:
        """The only door to a connection: the address given here is the one that is connected to."""
        family, kind, protocol, _, sockaddr = info
        reason = self._policy.refusal(self.host, sockaddr)
        if reason is not None:
            refused.append(f"{spell_address(sockaddr)} {reason}")
            raise PermissionError(f"{spell_address(sockaddr)} {reason}")
        return watched_socket(family, kind, protocol)

    async def _trusted(self) -> ssl.SSLContext:
        """Reading the certificates that are trusted takes a while."""
        if self._certificates is None:
            self._certificates = await asyncio.to_thread(ssl.create_default_context)
        return self._certificates

    # Requests

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """Without its end. The same again and again, so it is written once."""
        key = (method, path, *headers.items())
        head = self._heads.get(key)
        if head is None:
            fields = {
                "Host": self._url.host_port_subcomponent or "",
                "User-Agent": self._user_agent,
                "Accept-Encoding": "identity",
                **headers,
            }
            target = self._url.with_path(self._url.path.rstrip("/") + path).raw_path
            lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
            written = _lines(lines)
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[key] = written
        return head


def _lines(lines: Sequence[str]) -> bytes:
    """Raises InvalidUrl."""
    if any("\r" in line or "\n" in line or "\0" in line for line in lines):
        raise InvalidUrl("A field of the request has a line break in it.")
    return "".join(f"{line}\r\n" for line in lines).encode()
