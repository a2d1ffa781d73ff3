"""One question to a server, wherever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import msgspec

from deepserve import __version__
from deepserve.core.errors import ConfigurationError
from deepserve.outgoing.addresses import AddressPolicy, parse_allowances
from deepserve.outgoing.errors import OutgoingError
from deepserve.outgoing.origin_client import OriginClient

_MOST_ANSWER_BYTES = 256 * 1024 * 1024


class Reply(msgspec.Struct, frozen=True):
    """headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReply(Exception):
    """The server was not reached, or broke off. message: for a person."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Asker(Protocol):
    async def ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """A POST. Raises NoReply."""
        ...

    async def close(self) -> None: ...


class ServerAsker:
    """Asks a server by its address. timeout_s: for one answer, from the question to its last byte."""

    def __init__(self, base_url: str, *, key: str | None, timeout_s: float) -> None:
        """Raises ConfigurationError for an address that cannot be called."""
        # Whoever starts a batch names its server; any address is meant as it stands.
        _, networks = parse_allowances(("0.0.0.0/0", "::/0"))
        base = base_url.rstrip("/")
        # Lines name addresses from /v1 on, and clients are used to base addresses that end with it.
        self._base = base.removesuffix("/v1")
        self._key = {} if key is None else {"Authorization": f"Bearer {key}", "x-api-key": key}
        self._timeout_s = timeout_s
        try:
            self._client = OriginClient(
                self._base,
                policy=AddressPolicy(allows_http=True, allowed_networks=networks),
                user_agent=f"deepserve-batch/{__version__}",
                max_bytes=_MOST_ANSWER_BYTES,
            )
        except OutgoingError as error:
            raise ConfigurationError(f"{base_url} cannot be called: {error.message}") from error

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.call(
                    path, body=body, headers={"Content-Type": "application/json", **self._key, **headers}
                )
                try:
                    return Reply(answer.status, answer.headers, await answer.read())
                finally:
                    answer.close()
        except TimeoutError as error:
            raise NoReply(f"no answer within {self._timeout_s:g} s") from error
        except OutgoingError as error:
            raise NoReply(error.message) from error

    async def close(self) -> None:
        await self._client.close()
