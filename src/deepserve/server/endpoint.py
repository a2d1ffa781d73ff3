"""A POST that is answered by a model, in any dialect: from a request's bytes to a delivery."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from deepserve.core.events import Event
from deepserve.core.request import Request, RequestId
from deepserve.dialects.exchange import AnswerHead, Arrival, Decode, Exchange
from deepserve.server.body import read_body
from deepserve.server.connection import connection_of
from deepserve.server.delivery import Delivery, HeaderList
from deepserve.server.replay import IDEMPOTENCY_KEY, Claim, idempotency_key
from deepserve.server.site import Site
from deepserve.server.visit import fields_of, visit_of

Done = TypeVar("Done")

_LARGE_BODY_BYTES = 128 * 1024
"""Larger bodies are worked on in a thread, so that other streams keep flowing."""

_MAX_HEADER_CHARACTERS = 1024


class Endpoint:
    """The ASGI application of one address.

    name       tells addresses apart whose equal bodies mean different things
    may_block  whether decoding this body may wait for something, so that it must not hold up everybody else
    answer     what is asked instead of the gateway
    announce   headers that name the answer
    """

    def __init__(
        self,
        site: Site,
        decode: Decode,
        *,
        name: str,
        may_block: Callable[[bytes], bool] = lambda _: False,
        answer: Callable[[Request], AsyncGenerator[Event]] | None = None,
        announce: Callable[[AnswerHead], HeaderList] = lambda _: [],
    ) -> None:
        self._site = site
        self._decode = decode
        self._name = name
        self._may_block = may_block
        self._announce = announce
        self._answer = site.gateway.answer if answer is None else answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        site, visit = self._site, visit_of(scope)
        arrival = arrival_of(site, scope)
        key = idempotency_key(Headers(scope=scope)) if IDEMPOTENCY_KEY in arrival.headers else None
        raw = await read_body(scope, receive, site.settings.limits)
        decode = partial(self._decode, raw, arrival)
        exchange = await (asyncio.to_thread(decode) if self._may_block(raw) else work_on(raw, decode))
        head = AnswerHead(id=str(visit.id), created_at=arrival.at, model=exchange.model.id)
        headers = headers_of(exchange, site.gateway.toolbox.lacking(exchange.request))
        start = partial(self._answer, visit.linked(exchange.request))
        claiming: AbstractAsyncContextManager[Claim]
        if key is None:
            claiming = nullcontext(Claim(head=head, events=start()))
        else:
            site.gateway.check(exchange.request)  # another key of the tenant may be allowed what this one is not
            digest = await work_on(raw, partial(self._digest, raw, exchange.request))
            claiming = site.replays.claim(visit.tenant.id, key, digest=digest, head=head, start=start)
        async with claiming as claim:
            if claim.is_replay:
                headers.append((b"idempotent-replayed", b"true"))
            sent = headers + self._announce(claim.head)
            events = claim.events
            if site.misses.is_on and not claim.is_replay:
                events = await site.misses.watch(exchange.request, events, sent, arrival.headers)
            delivery = Delivery(
                exchange,
                claim.head,
                events,
                served_by=partial(site.label_of, exchange.request.model),
                headers=sent,
                settings=site.settings,
                closing=site.closing,
                clock=site.clock,
            )
            await delivery.run(receive, send, connection_of(scope))

    def _digest(self, raw: bytes, request: Request) -> bytes:
        """Equal for equal requests: the body, and what else decides how it is read."""
        digest = hashlib.sha256(f"{self._name} {request.is_strict} {request.routing}\n".encode())
        digest.update(raw)
        return digest.digest()


def arrival_of(site: Site, scope: Scope) -> Arrival:
    """What a dialect is told about a request besides its body."""
    visit = visit_of(scope)
    return Arrival(
        id=RequestId(visit.id.hex),
        at=site.now(),
        tenant=visit.tenant,
        is_strict=visit.is_strict,
        headers=fields_of(scope),
    )


async def work_on(raw: bytes, work: Callable[[], Done]) -> Done:
    """Do what takes long for a large body without holding up everybody else."""
    return work() if len(raw) <= _LARGE_BODY_BYTES else await asyncio.to_thread(work)


def headers_of(exchange: Exchange, lacking: tuple[str, ...] = ()) -> HeaderList:
    """What the decoder has to tell the client. lacking: what this server leaves out besides."""
    headers: HeaderList = []
    if exchange.ignored or lacking:
        headers.append((b"x-deepserve-ignored", header_list((*exchange.ignored, *lacking))))
    model = exchange.model
    if model.retired_at is not None and exchange.request.arrived_at >= model.retired_at:
        # RFC 9745: the moment since which the name is deprecated.
        headers.append((b"deprecation", f"@{int(model.retired_at.timestamp())}".encode()))
        advice = f"{model.requested.strip()} is retired; use {model.replacement}"
        headers.append((b"x-deepserve-deprecated", header_list((advice,))))
    return headers


def header_list(names: Sequence[str]) -> bytes:
    """Clients' own texts, made harmless: printable ASCII, of bounded length."""
    joined = ", ".join(names)[:_MAX_HEADER_CHARACTERS]
    return "".join(letter if " " <= letter <= "~" else "?" for letter in joined).strip().encode("ascii")
