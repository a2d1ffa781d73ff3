"""The addresses of Oxen.ai's API, below `/api/ai`: answers, models with their request schemas, and the history."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid5

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from deepserve.catalog.listings import Listing
from deepserve.core.cost import usd_of
from deepserve.core.errors import InvalidField, RouteNotFound, UnknownModel, UnsupportedMedia, error_classes
from deepserve.core.model import ModelName
from deepserve.core.provider import ServedModel
from deepserve.core.request import RequestId
from deepserve.dialects.amounts import encode_amounts, plain
from deepserve.dialects.body import JsonBody
from deepserve.dialects.chat.oxen.errors import no_model
from deepserve.dialects.chat.oxen.exchange import OxenNames, answer_id, oxen_decoder
from deepserve.dialects.chat.oxen.schema import model_schema
from deepserve.dialects.node import Node
from deepserve.server.body import read_body
from deepserve.server.endpoint import Endpoint
from deepserve.server.live_settings import LimitedDecode
from deepserve.server.site import Site
from deepserve.server.visit import visit_of
from deepserve.store.ledger_record import RecordedAnswer

BASE = "/api/ai"

_CHAT = "/chat/completions"
_KEEP_ALIVE = b": keep-alive\n\n"
_DEFAULT_PAGE = 50
_MAX_PAGE = 1000
_NOT_FOUND = "The requested resource could not be found"
_MODEL_IDS = UUID("6f0c1f1e-52a9-4d6c-9f57-0d1c7a7c9b11")
"""Namespace of the UUIDs under which models are found too."""

_HEX = re.compile(r"[0-9a-f]{32}")

_ERROR_CODES = frozenset(cls.code for cls in error_classes())

Item = dict[str, Any]
"""A JSON object on its way out."""


def routes(site: Site) -> list[BaseRoute]:
    names = site.names.without_presets()
    decode = LimitedDecode(site.live, lambda limits: oxen_decoder(names=names, limits=limits))
    chat = Endpoint(site, decode, name="oxen chat")
    models, history, queue = _Models(site), _History(site), _Queue(site)
    found: list[BaseRoute] = [Route(f"{base}{_CHAT}", chat, methods=["POST"]) for base in (BASE, f"{BASE}/v1", "/api")]
    for base in (BASE, f"{BASE}/v1"):
        found += [
            Route(f"{base}/models", models.list),
            Route(f"{base}/models/search", models.list),
            Route(f"{base}/models/featured", models.list),
            Route(f"{base}/models/favorites", models.favorites),
            Route(f"{base}/models/{{id:path}}", models.retrieve),
        ]
    return [
        *found,
        Route("/api/evaluations/models", models.older_list),
        Route("/api/evaluations/models/search", models.older_list),
        Route("/api/evaluations/models/{id:path}", models.older_retrieve),
        Route("/api/authorize", _authorize),
        Route(f"{BASE}/generations", history.list),
        Route(f"{BASE}/generations/{{id}}", history.retrieve),
        Route(f"{BASE}/queue", queue.submit, methods=["POST"]),
        Route(f"{BASE}/queue", queue.list, methods=["GET"]),
        Route(f"{BASE}/queue/{{id}}", queue.retrieve, methods=["GET", "DELETE"]),
        Route("/api/events", _Events(site).listen),
    ]


async def _authorize(request: Request) -> Response:
    """Who the key belongs to. Tenants have no address for mail; the name under `.invalid` says so."""
    tenant = visit_of(request.scope).tenant
    return _json({"user": {"name": tenant.name or tenant.id, "email": f"{tenant.id}@deepserve.invalid"}})


class _Models:
    """The catalogue, in today's form and in the older one of `/api/evaluations/models`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._names = OxenNames(site.names.without_presets())

    async def list(self, request: Request) -> Response:
        """All models, or those that the query leaves."""
        data = [self._item(request, listing, served) for listing, served in self._wanted(request)]
        return _json({"object": "list", "data": data})

    async def favorites(self, _: Request) -> Response:
        """No stars are kept."""
        return _json({"object": "list", "data": []})

    async def retrieve(self, request: Request) -> Response:
        return _json(self._item(request, *self._find(request)))

    async def older_list(self, request: Request) -> Response:
        return _json({"models": [self._older(request, listing, served) for listing, served in self._wanted(request)]})

    async def older_retrieve(self, request: Request) -> Response:
        return _json({"model": self._older(request, *self._find(request))})

    def _wanted(self, request: Request) -> Sequence[tuple[Listing, ServedModel]]:
        query = request.query_params
        search = query.get("search", "").strip().lower()
        developer = query.get("developer_name", "deepseek").lower()
        output = query.get("output_capability", "text")
        # There is no fine-tuning, so no model has any action of it.
        if developer != "deepseek" or query.get("action"):
            return []
        return [
            (listing, served)
            for listing, served in self._listed(request)
            if search in f"{listing.name} {listing.title}".lower() and output in served.output_modalities
        ]

    def _listed(self, request: Request) -> Sequence[tuple[Listing, ServedModel]]:
        served = {model.id: model for model in self._site.gateway.models(visit_of(request.scope).tenant)}
        return [(listing, served[listing.model]) for listing in self._site.listings.oxen if listing.model in served]

    def _find(self, request: Request) -> tuple[Listing, ServedModel]:
        """By name, alias or UUID."""
        wanted = request.path_params["id"]
        for listing, served in self._listed(request):
            if wanted == _model_uuid(listing):
                return listing, served
        try:
            model: ModelName = self._names.resolve(wanted)
        except UnknownModel as error:
            raise RouteNotFound(_NOT_FOUND, field="id") from error
        for listing, served in self._listed(request):
            if listing.model == model.id:
                return listing, served
        raise RouteNotFound(_NOT_FOUND, field="id")

    def _item(self, request: Request, listing: Listing, served: ServedModel) -> Item:
        schema = self._schema(request)
        return {
            "id": listing.name,
            "object": "model",
            "created": int(listing.created_at.timestamp()),
            "owned_by": "deepserve",
            "display_name": listing.title,
            "summary": listing.summary,
            "description": _description(listing, served),
            "model_type": "base",
            "endpoint": _CHAT,
            "capabilities": {"input": served.input_modalities, "output": served.output_modalities},
            "pricing": self._pricing(served.id),
            "fine_tuning": None,
            "deployments": [],
            "developer": {"name": "DeepSeek", "logo": None},
            "source_model": listing.hugging_face_id,
            "image_url": None,
            "released_at": listing.created_at,
            "request_schema": schema,
            "json_request_schema": schema,
            "showcase": None,
            "context_length": served.context_tokens,
            "max_output_tokens": served.max_output_tokens,
            "served_by": served.served_by,
        }

    def _older(self, request: Request, listing: Listing, served: ServedModel) -> Item:
        return {
            "id": _model_uuid(listing),
            "name": listing.name,
            "display_name": listing.title,
            "summary": listing.summary,
            "description": _description(listing, served),
            "capabilities": {"input": served.input_modalities, "output": served.output_modalities},
            "json_request_schema": self._schema(request),
            "request_schema": self._schema(request),
            "developer": {"name": "DeepSeek", "logo": None},
            "provider": {"name": "deepserve", "display_name": "deepserve"},
            "model_type": "base",
            "endpoint": _CHAT,
            "pricing": self._pricing(served.id),
            "can_run_inference": True,
            "deprecated": False,
        }

    def _schema(self, request: Request) -> Item:
        names = [listing.name for listing, _ in self._listed(request)]
        return model_schema(self._site.settings.limits, names)

    def _pricing(self, model: str) -> Item:
        """US dollars for one token at this moment; the price of cached tokens is our addition."""
        price = self._site.prices.price_at(model, self._site.now())
        if price is None:
            return {"method": "token", "input_cost_per_token": 0, "output_cost_per_token": 0}
        return {
            "method": "token",
            "input_cost_per_token": plain(price.miss.scaleb(-6)),
            "output_cost_per_token": plain(price.output.scaleb(-6)),
            "cached_input_cost_per_token": plain(price.hit.scaleb(-6)),
        }


class _History:
    """What was answered, newest first, with its cost. Prompts and answers are not kept."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def list(self, request: Request) -> Response:
        page = _number(request, "page", 1, high=10**6)
        size = _number(request, "page_size", _DEFAULT_PAGE, high=_MAX_PAGE)
        tenant = visit_of(request.scope).tenant
        ledger = self._site.ledger
        rows = await asyncio.to_thread(ledger.page, tenant.id, first=(page - 1) * size, size=size)
        count = await asyncio.to_thread(ledger.count, tenant.id)
        total = usd_of(await asyncio.to_thread(ledger.spent_pico_usd, tenant.id))
        return _json(
            {
                "count": len(rows),
                "generations": [self._row(row, tenant.name or tenant.id) for row in rows],
                "page_number": page,
                "page_size": size,
                "total_pages": -(-count // size),
                "total_entries": count,
                "total_cost": format(plain(total), "f"),
            }
        )

    async def retrieve(self, request: Request) -> Response:
        tenant = visit_of(request.scope).tenant
        wanted = request.path_params["id"].removeprefix("chatcmpl-").replace("-", "")
        row = await asyncio.to_thread(self._site.ledger.find, tenant.id, RequestId(wanted))
        if row is None:
            raise RouteNotFound(_NOT_FOUND, field="id")
        return _json(
            {
                "status": "success",
                "status_message": "resource_found",
                "generation": self._row(row, tenant.name or tenant.id),
            }
        )

    def _row(self, row: RecordedAnswer, user: str) -> Item:
        """Amounts are texts here, as the service writes them."""
        is_failed = row.outcome in _ERROR_CODES
        arrived = int(row.arrived_at.timestamp())
        return {
            "generation_id": _shown_id(row),
            "model_name": row.model,
            "prompt": None,
            "media_type": "text",
            "status": "failed" if is_failed else "cancelled" if row.outcome == "client_left" else "succeeded",
            "result_url": None,
            "error_message": row.outcome if is_failed else None,
            "enqueued_at": arrived,
            "started_at": arrived,
            "completed_at": None,
            "target_namespace": None,
            "target_repo": None,
            "target_directory": None,
            "cost": format(plain(usd_of(row.cost_pico_usd)), "f"),
            "prompt_tokens": row.usage.prompt_tokens,
            "cached_tokens": row.usage.hit_tokens,
            "completion_tokens": row.usage.output_tokens,
            "user_id": None,
            "username": user,
            "user_image": None,
        }


class _Queue:
    """Jobs for images and videos, which no model here makes."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._names = OxenNames(site.names.without_presets())

    async def submit(self, request: Request) -> Response:
        """Always refused: for its model, or because that model writes text."""
        limits = self._site.settings.limits
        raw = await read_body(request.scope, request.receive, limits)
        body = JsonBody(raw, limits)
        model = Node(body, body.value).optional("model")
        if model is None:
            raise no_model()
        name = self._names.resolve(model.string())
        raise UnsupportedMedia(
            f":unsupported_media_type: {name.id} writes text, which is not queued; POST to {BASE}{_CHAT}.",
            field="model",
        )

    async def list(self, _: Request) -> Response:
        return _json({"count": 0, "generations": []})

    async def retrieve(self, _: Request) -> Response:
        raise RouteNotFound(_NOT_FOUND, field="generation_id")


class _Events:
    """What becomes of queued jobs. There are none, so a listener hears only that the server is there."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def listen(self, _: Request) -> Response:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(self._beats(), media_type="text/event-stream", headers=headers)

    async def _beats(self) -> AsyncIterator[bytes]:
        closing, clock = self._site.closing, self._site.clock
        yield _KEEP_ALIVE
        told_at = clock()
        while not closing.is_draining:
            await asyncio.sleep(_CLOSING_CHECK_S)
            if clock() - told_at >= self._site.settings.keep_alive_s:
                told_at = clock()
                yield _KEEP_ALIVE


_CLOSING_CHECK_S = 0.5
"""How soon a listener notices that the server stops."""


def _shown_id(row: RecordedAnswer) -> str:
    """As answers of this dialect carry it; other dialects may name their requests otherwise."""
    digits = row.request_id
    return answer_id(str(UUID(digits))) if _HEX.fullmatch(digits) else digits


def _model_uuid(listing: Listing) -> str:
    return str(uuid5(_MODEL_IDS, listing.name))


def _description(listing: Listing, served: ServedModel) -> str:
    """With what really answers, which need not be what the name promises."""
    return f"{listing.summary}. Answered by {served.served_by.label}. {served.note}".strip()


def _number(request: Request, name: str, default: int, *, high: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= high):
        raise InvalidField(f"{name}: a number from 1 to {high}", field=name)
    return int(text)


def _json(value: object) -> Response:
    return Response(encode_amounts(value), media_type="application/json")
