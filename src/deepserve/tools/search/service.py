"""One call to a search service on the web, and what its failures mean to the one who searched."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from yarl import URL

from deepserve import __version__
from deepserve.core.errors import ConfigurationError
from deepserve.core.server_tool import ToolFault
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.client import OutgoingClient, OutgoingLimits
from deepserve.outgoing.errors import AddressRefused, InvalidUrl, OutgoingError, OutgoingTimedOut

_log = logging.getLogger(__name__)

_LIMITS = OutgoingLimits(connect_s=5.0, total_s=10.0, max_bytes=2 * 1024 * 1024)

_MAX_URL_CHARACTERS = 16_384
"""A query of the greatest length in characters that take nine each, and room for the rest."""

Answer = TypeVar("Answer")


class SearchService:
    """name: for messages. address: the operator's choice, so it may be private and, as written there, without TLS.

    Raises ConfigurationError for an address that cannot be called.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        try:
            url = URL(address)
            host, port = url.host, url.port
        except ValueError:
            host, port = None, None
        if not host:
            raise ConfigurationError(f"{address!r} is not the address of a search service; write https://host/path.")
        place = f"{f'[{host}]' if ':' in host else host}:{port}".lower()
        policy = AddressPolicy(allowed_hosts=frozenset((place,)), max_characters=_MAX_URL_CHARACTERS)
        try:
            policy.check_url(address)
        except (InvalidUrl, AddressRefused) as error:
            raise ConfigurationError(f"{address!r} cannot be used for searching: {error.message}") from error
        self._address = address
        self._client = OutgoingClient(policy, user_agent=f"deepserve/{__version__}")

    async def ask(
        self,
        kind: type[Answer],
        *,
        query: Mapping[str, str | int] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | ToolFault:
        """The service's JSON as `kind`. With a body it is posted, as JSON."""
        sent = {"Accept": "application/json", **(headers or {})}
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        url = str(URL(self._address).update_query(query)) if query else self._address
        try:
            got = await self._client.request(
                "GET" if body is None else "POST", url, body=content, headers=sent, limits=_LIMITS
            )
        except OutgoingTimedOut:
            return ToolFault(code="timed_out", message="The search service did not answer in time.")
        except OutgoingError as error:
            _log.warning("%s could not be asked: %s", self.name, error.message)
            return ToolFault(code="unavailable", message="The search service cannot be reached at the moment.")
        if got.status == 429:
            return ToolFault(code="too_many_requests", message="The search service asks for a pause; try again later.")
        if got.status != 200 or got.is_cut:
            _log.warning("%s answered with status %d%s", self.name, got.status, " and too much" * got.is_cut)
            return ToolFault(code="unavailable", message="The search service cannot answer at the moment.")
        try:
            return msgspec.json.decode(got.body, type=kind, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            _log.warning("%s answered with something else than its API describes: %s", self.name, error)
            return ToolFault(code="unavailable", message="The search service gave an answer that cannot be read.")

    async def close(self) -> None:
        self._client.close()
