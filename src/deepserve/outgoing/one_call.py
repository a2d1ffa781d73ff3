"""One call over a connection of its own, by aiohttp: what `client` does when it comes to that."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.client import OutgoingAnswer, OutgoingLimits
from deepserve.outgoing.errors import (
    AddressRefused,
    BadCertificate,
    ConnectionFailed,
    InvalidAnswer,
    InvalidUrl,
    OutgoingError,
    OutgoingTimedOut,
)
from deepserve.outgoing.lookup import Lookup, spell_address

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 16 * 1024


async def call_once(
    method: str,
    url: str,
    *,
    body: bytes | None,
    headers: Mapping[str, str],
    limits: OutgoingLimits,
    wants_body: Callable[[int, Mapping[str, str]], bool],
    policy: AddressPolicy,
    lookup: Lookup,
    threads: ThreadPoolExecutor,
    user_agent: str,
) -> OutgoingAnswer:
    """As `OutgoingClient.request`. lookup: asked in one of the threads."""
    target = policy.check_url(url)
    host = target.host or ""
    tried: list[str] = []
    refused: list[str] = []

    def open_socket(info: tuple[Any, ...]) -> socket.socket:
        """The only door to a connection: the address given here is the one that is connected to."""
        family, kind, protocol, _, sockaddr = info
        reason = policy.refusal(host, sockaddr)
        if reason is not None:
            refused.append(f"{spell_address(sockaddr)} {reason}")
            raise PermissionError(f"{spell_address(sockaddr)} {reason}")
        tried.append(spell_address(sockaddr))
        return socket.socket(family=family, type=kind, proto=protocol)

    connector = aiohttp.TCPConnector(
        socket_factory=open_socket,
        resolver=ThreadedResolver(lookup, threads),
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
    sent = {"User-Agent": user_agent, "Accept-Encoding": "gzip, deflate", **headers}
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
