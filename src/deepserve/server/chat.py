"""POST /chat/completions: from a request's bytes to a delivery."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from deepserve.core.request import RequestId
from deepserve.dialects.chat.flavour import Flavour
from deepserve.dialects.chat.request import ChatRequest, decode_request
from deepserve.dialects.chat.response import AnswerHead
from deepserve.server.body import read_body
from deepserve.server.delivery import Delivery, HeaderList
from deepserve.server.replay import Claim, idempotency_key
from deepserve.server.site import Site
from deepserve.server.visit import visit_of

Done = TypeVar("Done")

_LARGE_BODY_BYTES = 128 * 1024
"""Larger bodies are worked on in a thread, so that other streams keep flowing."""

_MAX_HEADER_CHARACTERS = 1024


class ChatCompletions:
    """The endpoint for one flavour. is_beta: mounted at an address with the vendor's Beta features."""

    def __init__(self, site: Site, flavour: Flavour, *, is_beta: bool) -> None:
        self._site = site
        self._flavour = flavour
        self._is_beta = is_beta

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        site, visit = self._site, visit_of(scope)
        arrived_at = site.now()
        key = idempotency_key(Headers(scope=scope))
        raw = await read_body(scope, receive, site.settings.limits)
        decode = partial(
            decode_request,
            raw,
            flavour=self._flavour,
            names=site.names,
            limits=site.settings.limits,
            request_id=RequestId(visit.id.hex),
            arrived_at=arrived_at,
            tenant=visit.tenant,
            is_strict=visit.is_strict,
            is_beta=self._is_beta,
        )
        chat = await _work_on(raw, decode)
        head = AnswerHead(id=str(visit.id), created_at=arrived_at, model=chat.model.id)
        headers = _headers_of(chat)
        start = partial(site.gateway.answer, chat.request)
        claiming: AbstractContextManager[Claim]
        if key is None:
            claiming = nullcontext(Claim(head=head, events=start()))
        else:
            digest = await _work_on(raw, partial(_digest, raw, is_strict=visit.is_strict, is_beta=self._is_beta))
            claiming = site.replays.claim(visit.tenant.id, key, digest=digest, head=head, start=start)
        with claiming as claim:
            if claim.is_replay:
                headers.append((b"idempotent-replayed", b"true"))
            delivery = Delivery(
                chat,
                claim.head,
                claim.events,
                served_by=self._label_of(chat.request.model),
                headers=headers,
                settings=site.settings,
                closing=site.closing,
                clock=site.clock,
            )
            await delivery.run(receive, send)

    def _label_of(self, model: str) -> str:
        labels = {served.id: served.served_by.label for served in self._site.gateway.models()}
        return labels.get(model, "none")


async def _work_on(raw: bytes, work: Callable[[], Done]) -> Done:
    return work() if len(raw) <= _LARGE_BODY_BYTES else await asyncio.to_thread(work)


def _digest(raw: bytes, *, is_strict: bool, is_beta: bool) -> bytes:
    """Equal for equal requests: the body, and what else decides how it is read."""
    digest = hashlib.sha256(b"%d%d" % (is_strict, is_beta))
    digest.update(raw)
    return digest.digest()


def _headers_of(chat: ChatRequest) -> HeaderList:
    """What the decoder has to tell the client."""
    headers: HeaderList = []
    if chat.ignored:
        headers.append((b"x-deepserve-ignored", _header_list(chat.ignored)))
    model = chat.model
    if model.retired_at is not None and chat.request.arrived_at >= model.retired_at:
        # RFC 9745: the moment since which the name is deprecated.
        headers.append((b"deprecation", f"@{int(model.retired_at.timestamp())}".encode()))
        advice = f"{model.requested.strip()} is retired; use {model.replacement}"
        headers.append((b"x-deepserve-deprecated", _header_list((advice,))))
    return headers


def _header_list(names: tuple[str, ...]) -> bytes:
    """Clients' own texts, made harmless: printable ASCII, of bounded length."""
    joined = ", ".join(names)[:_MAX_HEADER_CHARACTERS]
    return "".join(letter if " " <= letter <= "~" else "?" for letter in joined).strip().encode("ascii")
