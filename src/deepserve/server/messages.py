"""The addresses of Anthropic's Messages API: answers, token counts, and the models in its shape."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from deepserve.core.errors import InvalidField, RouteNotFound, UnknownModel
from deepserve.core.provider import ServedModel
from deepserve.dialects.exchange import Decode
from deepserve.dialects.messages.exchange import messages_decoder
from deepserve.server.body import read_body
from deepserve.server.endpoint import Endpoint, arrival_of, headers_of, work_on
from deepserve.server.live_settings import LimitedDecode
from deepserve.server.site import Site
from deepserve.server.token_counts import count_headers
from deepserve.server.visit import visit_of
from deepserve.tools.toolbox import Toolbox

PREFIXES = ("/anthropic/v1", "/anthropic", "/v1", "")
"""Base addresses; clients of Anthropic append `/v1/messages`, older guides of DeepSeek's `/messages`."""

_OWN_PREFIXES = ("/anthropic/v1", "/anthropic")
"""Where `models` is this dialect's by the address alone; elsewhere the header `anthropic-version` tells."""

_DEFAULT_PAGE = 20
_MAX_PAGE = 1000


def routes(site: Site) -> list[BaseRoute]:
    """To be tried before routes of the same addresses that do not look at headers."""
    found = messages_routes(site, PREFIXES)
    models = _Models(site)
    for prefix in PREFIXES:
        kind = Route if prefix in _OWN_PREFIXES else _VersionedRoute
        found += [
            kind(f"{prefix}/models", models.list),
            kind(f"{prefix}/models/{{model:path}}", models.retrieve),
        ]
    return [*found, Route("/anthropic", _greet), Route("/anthropic/", _greet)]


def messages_routes(
    site: Site,
    prefixes: tuple[str, ...],
    *,
    tells_cost: bool = False,
    skin: Callable[[Decode], Decode] = lambda decode: decode,
) -> list[BaseRoute]:
    """Answers and counts below base addresses.

    tells_cost: for a service whose answers say it. skin: reads besides what a service adds to the dialect.
    """
    decode = LimitedDecode(
        site.live, lambda limits: messages_decoder(names=site.names, limits=limits, tells_cost=tells_cost)
    )
    answers, counts = Endpoint(site, skin(decode), name="messages"), _TokenCount(site, decode)
    return [
        route
        for prefix in prefixes
        for route in (
            Route(f"{prefix}/messages", answers, methods=["POST"]),
            Route(f"{prefix}/messages/count_tokens", counts, methods=["POST"]),
        )
    ]


async def _greet(_: Request) -> Response:
    """Claude Code asks for the head of its base address before anything else, without a key."""
    return _json({"status": "ok", "messages": "/anthropic/v1/messages"})


class _TokenCount:
    """How many prompt tokens a request would be billed for: all of them, cached or not."""

    def __init__(self, site: Site, decode: Decode) -> None:
        self._site = site
        self._decode = decode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_body(scope, receive, self._site.settings.limits)
        exchange = await work_on(raw, partial(self._decode, raw, arrival_of(self._site, scope)))
        response = _json({"input_tokens": await self._site.gateway.count(exchange.request)})
        response.raw_headers.extend([*headers_of(exchange), *count_headers(self._site.gateway.models())])
        await response(scope, receive, send)


class _VersionedRoute(Route):
    """An address shared with another dialect: only requests with the header of Anthropic's clients are meant."""

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and "anthropic-version" in Headers(scope=scope):
            return super().matches(scope)
        return Match.NONE, {}


class _Models:
    """The list and its items: Anthropic's fields, the true limits, and `served_by`, which is ours."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def list(self, request: Request) -> Response:
        """All models, or a page of them, as `limit`, `after_id` and `before_id` say."""
        models = self._site.gateway.models(visit_of(request.scope).tenant)
        ids = [model.id for model in models]
        limit = _limit(request)
        after, before = request.query_params.get("after_id"), request.query_params.get("before_id")
        first = 0 if after is None else _position(ids, "after_id", after) + 1
        last = len(ids) if before is None else _position(ids, "before_id", before)
        if before is not None and after is None:
            first = max(first, last - limit)
            has_more = first > 0
        else:
            has_more = last > first + limit
            last = min(last, first + limit)
        page = models[first:last]
        return _json(
            {
                "data": [self._item(model) for model in page],
                "has_more": has_more,
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
            }
        )

    async def retrieve(self, request: Request) -> Response:
        """Aliases and families are found too, though the list does not have them."""
        wanted, names = request.path_params["model"], self._site.names
        try:
            canonical = (names.resolve_family(wanted) or names.resolve(wanted)).id
        except UnknownModel as error:
            raise RouteNotFound(error.message, field="model") from error
        for model in self._site.gateway.models(visit_of(request.scope).tenant):
            if model.id == canonical:
                return _json(self._item(model))
        raise RouteNotFound(f"This server does not serve {canonical}.", field="model")

    def _item(self, model: ServedModel) -> dict[str, Any]:  # Any: a JSON object on its way out
        released = {row.id: row.released_at for row in self._site.names.models}
        item: dict[str, Any] = {
            "type": "model",
            "id": model.id,
            "display_name": model.display_name,
            "created_at": released.get(model.id, datetime.fromtimestamp(0, UTC)),
            "lifecycle": "active",
            "max_input_tokens": model.context_tokens,
            "max_tokens": model.max_output_tokens,
            "capabilities": _capabilities(model, self._site.gateway.toolbox),
            "served_by": model.served_by,
        }
        if model.note:
            item["note"] = model.note
        return item


def _capabilities(model: ServedModel, toolbox: Toolbox) -> dict[str, Any]:  # Any: a JSON object on its way out
    yes, no = {"supported": True}, {"supported": False}
    code = yes if toolbox.runner("code_interpreter") is not None else no
    search = yes if toolbox.runner("web_search") is not None else no
    return {
        "batch": no,
        "citations": search,
        "code_execution": code,
        "context_management": no,
        # Every level is accepted; `medium` and `xhigh` mean `high`.
        "effort": dict.fromkeys(("low", "medium", "high", "xhigh", "max"), yes) | yes,
        "image_input": {"supported": "image" in model.input_modalities},
        "pdf_input": no,
        "server_tools": {"code_execution": code, "web_search": search} | (yes if yes in (code, search) else no),
        "structured_outputs": no,
        "thinking": {"types": {"adaptive": yes, "between_tools": no, "disabled": yes, "enabled": yes}} | yes,
    }


def _limit(request: Request) -> int:
    text = request.query_params.get("limit")
    if text is None:
        return _DEFAULT_PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _MAX_PAGE):
        raise InvalidField(f"limit: a number from 1 to {_MAX_PAGE}", field="limit")
    return int(text)


def _position(ids: list[str], name: str, value: str) -> int:
    if value not in ids:
        raise InvalidField(f"{name}: there is no model {value[:100]}", field=name)
    return ids.index(value)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
