"""The addresses of the Responses API: answers, what is kept of them, token counts, compaction."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from deepserve.core.errors import InvalidField, RouteNotFound, UnsupportedFeature
from deepserve.dialects.openrouter.skin import with_routing
from deepserve.dialects.responses.exchange import Decoders, is_background, may_block
from deepserve.dialects.responses.memory import Keeper, Remembered, chain, listed
from deepserve.server.background import Background
from deepserve.server.body import read_body
from deepserve.server.endpoint import Endpoint, arrival_of, headers_of
from deepserve.server.openrouter_directory import directory_of
from deepserve.server.replay import idempotency_key
from deepserve.server.site import Site
from deepserve.server.summaries import Summaries
from deepserve.server.token_counts import count_headers
from deepserve.server.visit import visit_of
from deepserve.store.sealing import Sealer

PREFIXES = ("", "/v1", "/beta", "/beta/v1", "/api/v1")
"""Base addresses."""

_TELLING_PREFIX = "/api/v1"
"""OpenRouter's, whose answers say what they cost, except those in the background, which that service has not."""

_DEFAULT_PAGE = 20
_MAX_PAGE = 100


def routes(site: Site) -> list[BaseRoute]:
    sealer = site.sealer
    decoders = Decoders(
        names=site.names, limits=lambda: site.settings.limits, memory=site.responses, sealing=sealer, now=site.now
    )
    background = Background(site, decoders)
    telling = msgspec.structs.replace(decoders, tells_cost=True)

    routed = with_routing(telling.response, directory=directory_of(site), limits=lambda: site.settings.limits)

    def answers(prefix: str) -> _Answers:
        decode = routed if prefix == _TELLING_PREFIX else decoders.response
        return _Answers(site, Endpoint(site, decode, name="responses", may_block=may_block), background)

    summaries = Summaries(site.gateway)
    compaction = Endpoint(
        site, decoders.compaction, name="responses compact", may_block=may_block, answer=summaries.answer
    )
    counts, kept = _TokenCount(site, decoders), _Kept(site, sealer, background)
    return [
        route
        for prefix in PREFIXES
        for route in (
            Route(f"{prefix}/responses", answers(prefix), methods=["POST"]),
            Route(f"{prefix}/responses/compact", compaction, methods=["POST"]),
            Route(f"{prefix}/responses/input_tokens", counts, methods=["POST"]),
            Route(f"{prefix}/responses/{{id}}", kept.retrieve, methods=["GET"]),
            Route(f"{prefix}/responses/{{id}}", kept.delete, methods=["DELETE"]),
            Route(f"{prefix}/responses/{{id}}/cancel", kept.cancel, methods=["POST"]),
            Route(f"{prefix}/responses/{{id}}/input_items", kept.input_items, methods=["GET"]),
        )
    ]


class _Answers:
    """A response: given to a client that waits, or worked on in the background."""

    def __init__(self, site: Site, waiting: Endpoint, background: Background) -> None:
        self._site = site
        self._waiting = waiting
        self._background = background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_body(scope, receive, self._site.settings.limits)
        if visit_of(scope).is_strict or not is_background(raw):
            await self._waiting(scope, _read_again(raw, receive), self._settled(send))
            return
        arrival = arrival_of(self._site, scope)
        draft = await self._background.read(raw, arrival, idempotency_key(Headers(scope=scope)))
        if draft.exchange.is_stream:
            await self._background.follow(draft, receive, send)
            return
        found, headers = await self._background.submit(draft)
        response = _json(found.response)
        response.raw_headers.extend(headers)
        await response(scope, receive, send)

    def _settled(self, send: Send) -> Send:
        """Before the end of an answer leaves, it is kept where the client's next request may look for it."""
        responses = self._site.responses
        if not responses.is_shared:
            return send

        async def send_settled(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await asyncio.to_thread(responses.settle)
            await send(message)

        return send_settled


def _read_again(raw: bytes, receive: Receive) -> Receive:
    """A body that was read, for somebody else to read; afterwards what really comes."""
    messages: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


class _TokenCount:
    """How many prompt tokens a request would be billed for: all of them, cached or not."""

    def __init__(self, site: Site, decoders: Decoders) -> None:
        self._site = site
        self._decoders = decoders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_body(scope, receive, self._site.settings.limits)
        exchange = await asyncio.to_thread(self._decoders.response, raw, arrival_of(self._site, scope))
        num_tokens = await self._site.gateway.count(exchange.request)
        response = _json({"object": "response.input_tokens", "input_tokens": num_tokens})
        response.raw_headers.extend([*headers_of(exchange), *count_headers(self._site.gateway.models())])
        await response(scope, receive, send)


class _Kept:
    """Responses after they were given."""

    def __init__(self, site: Site, sealer: Sealer, background: Background) -> None:
        self._site = site
        self._sealer = sealer
        self._background = background

    async def retrieve(self, request: Request) -> Response:
        if request.query_params.get("stream", "false").lower() not in ("false", "0", ""):
            raise UnsupportedFeature(
                "A kept response cannot be streamed again: ask for it without `stream`.", field="stream"
            )
        if "starting_after" in request.query_params:
            raise UnsupportedFeature(
                "A stream cannot be taken up again: ask for the response without `starting_after`.",
                field="starting_after",
            )
        return _json((await self._find(request)).response)

    async def delete(self, request: Request) -> Response:
        name = request.path_params["id"]
        if not await self._background.delete(visit_of(request.scope).tenant.id, name):
            raise _not_found(name)
        return _json({"id": name, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """Only work in the background can be cancelled so; a client that waits just leaves."""
        found = await self._find(request)
        if not found.response["background"]:
            raise InvalidField("Cannot cancel a synchronous response.", field="response_id")
        name = request.path_params["id"]
        found = await self._background.cancel(visit_of(request.scope).tenant.id, name) or found
        return _json(found.response)

    async def input_items(self, request: Request) -> Response:
        """What the response was given: the items of the conversation it continued, and its own."""
        found = await self._find(request)
        items = await asyncio.to_thread(self._read_by, request, found)
        match request.query_params.get("order", "desc"):
            case "asc":
                pass
            case "desc":
                items.reverse()
            case _:
                raise InvalidField("order: asc or desc", field="order")
        limit, after = _limit(request), request.query_params.get("after")
        if after is not None:
            places = [place for place, item in enumerate(items) if item["id"] == after]
            if not places:
                raise InvalidField(f"after: there is no item {after[:100]}", field="after")
            items = items[places[0] + 1 :]
        page = items[:limit]
        return _json(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(items) > limit,
            }
        )

    def _read_by(self, request: Request, found: Remembered) -> list[dict[str, Any]]:  # Any: JSON
        previous = found.response.get("previous_response_id")
        max_items = self._site.settings.limits.messages
        return [*listed(chain(self._keeper(request).find, previous, max_items=max_items)), *found.input]

    async def _find(self, request: Request) -> Remembered:
        name = request.path_params["id"]
        found = await self._background.find(visit_of(request.scope).tenant.id, name)
        if found is None:
            raise _not_found(name)
        return found

    def _keeper(self, request: Request) -> Keeper:
        site, tenant = self._site, visit_of(request.scope).tenant
        return Keeper(site.responses, self._sealer, tenant.id, max_bytes=site.settings.limits.body_bytes)


def _not_found(name: str) -> RouteNotFound:
    return RouteNotFound(f"Response with id '{name[:100]}' not found.", field="response_id")


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(_DEFAULT_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= _MAX_PAGE):
        raise InvalidField(f"limit: a number from 1 to {_MAX_PAGE}", field="limit")
    return int(text)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
