"""Pages of the web as text: from public addresses only, within limits of time and size, read in another process."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from email.message import Message

import msgspec

from deepserve.core.domains import DomainRules
from deepserve.core.server_tool import FetchedPage, ToolFault
from deepserve.outgoing.addresses import AddressPolicy
from deepserve.outgoing.client import OutgoingAnswer, OutgoingClient, OutgoingLimits
from deepserve.outgoing.errors import AddressRefused, InvalidUrl, OutgoingError, OutgoingTimedOut
from deepserve.outgoing.redirects import follow
from deepserve.tools.reading.charset import decode_text
from deepserve.tools.reading.process import ReaderProcess
from deepserve.tools.reading.reading import Reading, Unreadable
from deepserve.tools.reading.worker import Order

_log = logging.getLogger(__name__)

_READ_APART = frozenset(("text/html", "application/xhtml+xml", "application/pdf"))
_PLAIN = frozenset(
    (
        *("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml"),
        *("application/javascript", "application/ecmascript", "application/x-ndjson", "application/sql"),
    )
)
_ACCEPT = (
    "text/html, application/xhtml+xml, text/markdown, text/plain, application/json, application/xml;q=0.9, */*;q=0.5"
)
_LOOK_BYTES = 1024
_TITLE_CHARACTERS = 300


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """max_bytes      of a page, decompressed; what follows is left out
    max_characters  of its text
    read_s          for making text of it
    max_at_once     more wait for their turn
    """

    max_bytes: int = 5 * 1024 * 1024
    connect_s: float = 5.0
    total_s: float = 15.0
    max_redirects: int = 5
    max_characters: int = 100_000
    read_s: float = 10.0
    max_at_once: int = 16


class _Refused(Exception):
    """An address that is not called, in words for whoever wrote it."""


class PageFetcher:
    """rules: the operator's; a request may only narrow them. The client is closed with the fetcher."""

    def __init__(self, client: OutgoingClient, *, rules: DomainRules, limits: FetchLimits) -> None:
        self._client = client
        self._rules = rules
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.max_at_once)

    async def close(self) -> None:
        self._client.close()

    async def fetch(
        self, url: str, *, domains: DomainRules | None = None, max_characters: int | None = None
    ) -> FetchedPage | ToolFault:
        """The page at an address. Never raises for what is wrong with the address, the site or the page.

        What cannot be told apart from outside stays so: a name that leads to a private address, or to none.
        """
        room = min(max_characters or self._limits.max_characters, self._limits.max_characters)
        rules = (self._rules,) if domains is None else (self._rules, domains)
        async with self._turns:
            try:
                found = await follow(
                    self._client,
                    url,
                    headers={"Accept": _ACCEPT},
                    limits=OutgoingLimits(
                        connect_s=self._limits.connect_s,
                        total_s=self._limits.total_s,
                        max_bytes=self._limits.max_bytes,
                    ),
                    max_redirects=self._limits.max_redirects,
                    next_url=lambda address: self._check(address, rules),
                    wants_body=lambda status, headers: status == 200 and _kind(headers, b"") != "",
                )
            except _Refused as refused:
                return ToolFault(code="not_allowed", message=str(refused))
            except InvalidUrl as error:
                return ToolFault(code="invalid_input", message=error.message)
            except OutgoingTimedOut:
                return ToolFault(code="timed_out", message="The page did not arrive in time.")
            except OutgoingError as error:
                _log.info("A page could not be fetched: %s", error.message)
                return ToolFault(code="not_accessible", message="The page cannot be reached.")
            return await self._read(found.url, found.answer, room)

    def _check(self, url: str, rules: tuple[DomainRules, ...]) -> str:
        """The address to call instead of this one, which may be written without TLS or have been redirected to."""
        policy = self._client.policy
        if not policy.allows_http:
            url = _with_tls(url, policy)
        try:
            checked = str(policy.check_url(url))
        except AddressRefused as error:
            raise _Refused(error.message) from error
        if not all(rule.allows(checked) for rule in rules):
            raise _Refused("Pages of this site are not to be fetched here.")
        return checked

    async def _read(self, url: str, answer: OutgoingAnswer, room: int) -> FetchedPage | ToolFault:
        if answer.status != 200:
            return ToolFault(
                code="too_many_requests" if answer.status == 429 else "not_accessible",
                message=f"The site answered with status {answer.status} instead of the page.",
            )
        media_type = _kind(answer.headers, answer.body[:_LOOK_BYTES])
        charset = _content_type(answer.headers).get_param("charset")
        declared = charset if isinstance(charset, str) else None
        if media_type in _READ_APART:
            order = Order(
                content=answer.body,
                media_type=media_type,
                charset=declared,
                url=url,
                max_characters=room,
                is_cut=answer.is_cut,
            )
            async with ReaderProcess(timeout_s=self._limits.read_s) as reader:
                reading = await reader.read(order)
        elif media_type:
            text = decode_text(answer.body, declared, has_markup=media_type.endswith("xml"), is_cut=answer.is_cut)
            reading = Reading(text=text[:room], is_cut=len(text) > room)
        else:
            said = _content_type(answer.headers).get_content_type() if "content-type" in answer.headers else "binary"
            return ToolFault(code="unsupported_content", message=f"Content of the type {said} is not read.")
        if isinstance(reading, Unreadable):
            return ToolFault(code="unsupported_content" if reading.is_kind else "failed", message=reading.reason)
        if not reading.text.strip():
            return ToolFault(code="unsupported_content", message="The page has no text without running its programs.")
        return FetchedPage(
            url=url,
            title=" ".join(reading.title.split())[:_TITLE_CHARACTERS],
            text=reading.text[:room],
            media_type=media_type,
            is_cut=reading.is_cut or answer.is_cut or len(reading.text) > room,
        )


def _with_tls(url: str, policy: AddressPolicy) -> str:
    """http:// means https:// to a server that calls nothing else; hosts that the operator has named stay as written."""
    if url[:7].lower() != "http://":
        return url
    authority = re.split("[/?#]", url[7:], maxsplit=1)[0]
    host = authority.removesuffix(":80")
    has_port = re.search(r":\d+$", host) is not None
    return url if has_port or policy.exempts(host, 80) else f"https://{host}{url[7 + len(authority) :]}"


def _content_type(headers: Mapping[str, str]) -> Message:
    message = Message()
    message["Content-Type"] = headers.get("content-type", "")
    return message


def _kind(headers: Mapping[str, str], beginning: bytes) -> str:
    """The media type as far as this module reads it; empty for the others.

    Where the site does not say it, the beginning of the page does.
    """
    said = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not said or said == "application/octet-stream":
        if beginning.startswith(b"%PDF-"):
            return "application/pdf"
        if beginning[:_LOOK_BYTES].lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
            return "text/html"
        return "" if b"\0" in beginning else "text/plain"
    if said in _READ_APART or said in _PLAIN or (said.endswith(("+json", "+xml")) and said != "image/svg+xml"):
        return said
    return said if said.startswith("text/") else ""
