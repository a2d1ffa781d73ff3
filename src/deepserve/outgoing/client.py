"""One call to another server: to a checked address, without redirects, bounded in time and size."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.errors import (
    AddressRefused,
    BadCertificate,
    ConnectionFailed,
    InvalidAnswer,
    InvalidUrl,
    OutgoingError,
    OutgoingTimedOut,
)

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 16 * 1024
_LOOKUP_THREADS = 32
"""Twice what one tenant's webhooks can keep busy with names that nobody answers for."""


class OutgoingLimits(msgspec.Struct, frozen=True, kw_only=True):
    """total_s: from the look-up of the name to the last byte. max_bytes: of the answer's body, decompressed."""

    connect_s: float = 5.0
    total_s: float = 15.0
    max_bytes: int = 4096


class OutgoingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """is_cut: the body is not whole: too long, too slow, or broken off.

    address: what was connected to, `host:port` in numbers.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool
    address: str | None


class Lookup(Protocol):
    """How names become addresses."""

    def __call__(self, host: str, port: int, family: socket.AddressFamily) -> list[tuple[Any, ...]]:
        """As `socket.getaddrinfo` for streams. Blocks; raises OSError."""
        ...


def system_lookup(host: str, port: int, family: socket.AddressFamily) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM))


class OutgoingClient:
    """Calls what users name. `close` ends its threads.

    Every call has a connection of its own, so nothing of one user's call can reach another's; cookies, proxies and
    environment variables play no part.
    """

    def __init__(self, policy: AddressPolicy, *, user_agent: str, lookup: Lookup = system_lookup) -> None:
        self.policy = policy
        self._user_agent = user_agent
        self._lookup = lookup
        # Its own threads: names whose servers never answer must not hold up whatever else runs in threads.
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="deepserve-lookup")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limits: OutgoingLimits = OutgoingLimits(),  # noqa: B008 - frozen
        wants_body: Callable[[int, Mapping[str, str]], bool] = lambda _status, _headers: True,
    ) -> OutgoingAnswer:
        """Any status is an answer, a redirect too: `redirects.follow` checks its target and calls again.

        wants_body: asked with status and headers; a body that is not wanted is not waited for.

        Raises OutgoingError.
        """
        target = self.policy.check_url(url)
        host = target.host or ""
        tried: list[str] = []
        refused: list[str] = []

        def open_socket(info: tuple[Any, ...]) -> socket.socket:
            """The only door to a connection: the address given here is the one that is connected to."""
            family, kind, protocol, _, sockaddr = info
            reason = self.policy.refusal(host, sockaddr)
            if reason is not None:
                refused.append(f"{spell_address(sockaddr)} {reason}")
                raise PermissionError(f"{spell_address(sockaddr)} {reason}")
            tried.append(spell_address(sockaddr))
            return socket.socket(family=family, type=kind, proto=protocol)

        connector = aiohttp.TCPConnector(
            socket_factory=open_socket,
            resolver=ThreadedResolver(self._lookup, self._threads),
            use_dns_cache=False,
            force_close=True,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=limits.connect_s),
        )
        content = None if body is None else io.BytesIO(body)  # sent in pieces, however large
        sent = {"User-Agent": self._user_agent, "Accept-Encoding": "gzip, deflate", **(headers or {})}
        try:
            async with (
                session,
                asyncio.timeout(limits.total_s) as deadline,
                session.request(method, target, data=content, headers=sent, allow_redirects=False) as response,
            ):
                received_headers = {name.lower(): value for name, value in response.headers.items()}
                received, is_cut = b"", True
                if wants_body(response.status, received_headers):
                    received, is_cut = await _read(response, limits.max_bytes, deadline)
                return OutgoingAnswer(
                    status=response.status,
                    headers=received_headers,
                    body=received,
                    is_cut=is_cut,
                    address=tried[-1] if tried else None,
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise explain(error, host, tried, refused) from error


async def _read(response: aiohttp.ClientResponse, max_bytes: int, deadline: asyncio.Timeout) -> tuple[bytes, bool]:
    """The body up to a limit, and whether that is not all. The status has been heard: what breaks now only cuts."""
    content = bytearray()
    try:
        # A little before the deadline of the whole call, which would lose the status.
        async with asyncio.timeout_at((deadline.when() or 0.0) - 0.05):
            while len(content) <= max_bytes:
                chunk = await response.content.read(min(_CHUNK_BYTES, max_bytes + 1 - len(content)))
                if not chunk:
                    return bytes(content), False
                content += chunk
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        pass
    return bytes(content[:max_bytes]), True


def explain(error: Exception, host: str, tried: list[str], refused: list[str]) -> OutgoingError:
    """What went wrong with a call. tried, refused: the addresses it came to."""
    address = tried[-1] if tried else None
    if refused:
        _log.warning("A call to %s was refused: %s", host, "; ".join(refused))
        if not tried:
            return AddressRefused(f"{host} leads to an address that is not to be called: {'; '.join(refused)}.")
    match error:
        case aiohttp.InvalidURL():
            return InvalidUrl("The URL cannot be called.")
        case TimeoutError():
            return OutgoingTimedOut(f"{host} did not answer in time.", address=address)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return BadCertificate(f"The certificate of {host} is not valid: {error}.", address=address)
        case aiohttp.ClientConnectionError() | OSError():
            return ConnectionFailed(f"{host} could not be reached: {error}.", address=address)
        case _:
            return InvalidAnswer(f"{host} did not answer as a web server does: {error}.", address=address)


def spell_address(sockaddr: tuple[Any, ...]) -> str:
    host, port = sockaddr[0], sockaddr[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


class ThreadedResolver(AbstractResolver):
    """Looks names up in threads of its own."""

    def __init__(self, lookup: Lookup, threads: ThreadPoolExecutor) -> None:
        self._lookup = lookup
        self._threads = threads

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._lookup, host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=sockaddr[0],
                port=sockaddr[1],
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, sockaddr in found
        ]

    @override
    async def close(self) -> None:
        """The threads belong to the client."""
