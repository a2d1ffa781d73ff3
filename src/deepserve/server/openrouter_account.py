"""OpenRouter's account addresses: what a key has used, and the record of one answer, as the ledger has it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.core.cost import usd_of
from deepserve.core.errors import InvalidField, RouteNotFound, error_classes
from deepserve.core.tenant import TenantId
from deepserve.dialects.amounts import encode_amounts, plain
from deepserve.dialects.chat.openrouter.response import FINISH_WORDS
from deepserve.dialects.chat.response import FAILED_WORD
from deepserve.dialects.chat.response import FINISH_WORDS as NATIVE_WORDS
from deepserve.dialects.openrouter.ids import request_id_of
from deepserve.server.site import Site
from deepserve.server.visit import visit_of
from deepserve.store.ledger_record import RecordedAnswer

_ERROR_CODES = frozenset(cls.code for cls in error_classes())


def account_routes(site: Site, base: str) -> list[BaseRoute]:
    account = _Account(site)
    return [
        Route(f"{base}/key", account.key),
        Route(f"{base}/auth/key", account.key),
        Route(f"{base}/credits", account.credits),
        Route(f"{base}/generation", account.generation),
    ]


class _Account:
    """A key here is a tenant. Nothing is bought, so there is no limit and no balance."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def key(self, request: Request) -> Response:
        tenant = visit_of(request.scope).tenant
        now = self._site.now()
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)

        periods = {
            "usage_daily": await self._spent(tenant.id, today),
            "usage_weekly": await self._spent(tenant.id, today - timedelta(days=today.weekday())),
            "usage_monthly": await self._spent(tenant.id, today.replace(day=1)),
        }
        return _json(
            {
                "data": {
                    "label": tenant.name or tenant.id,
                    "limit": None,
                    "limit_remaining": None,
                    "limit_reset": None,
                    "include_byok_in_limit": False,
                    "usage": await self._spent(tenant.id),
                    **periods,
                    "byok_usage": 0,
                    **{f"byok_{name}": 0 for name in periods},
                    "is_free_tier": False,
                    "is_management_key": False,
                    "is_provisioning_key": False,
                    "creator_user_id": None,
                    "organization_id": None,
                    "workspace_id": None,
                    "expires_at": None,
                    "allowed_data_regions": ["global"],
                    "budgets": [],
                    "effective_budget": None,
                    "free_model_daily_requests": {"limit": 0, "remaining": 0, "used": 0},
                    "rate_limit": {"interval": "10s", "note": "No limit by request applies.", "requests": -1},
                }
            }
        )

    async def credits(self, request: Request) -> Response:
        """Nothing was bought; what was used is told as the ledger has it."""
        spent = await self._spent(visit_of(request.scope).tenant.id)
        return _json({"data": {"total_credits": 0, "total_usage": spent}})

    async def generation(self, request: Request) -> Response:
        """The record of one answer, soon after its end."""
        id_ = request.query_params.get("id")
        if id_ is None:
            raise InvalidField("The id of a generation is missing: `?id=gen-…`.", field="id")
        request_id, tenant = request_id_of(id_), visit_of(request.scope).tenant.id
        row = None
        if request_id is not None:
            row = await asyncio.to_thread(self._site.ledger.find, tenant, request_id)
        if row is None:
            raise RouteNotFound(f"Generation {id_[:100]} not found.", field="id")
        return _json({"data": self._record(id_, row)})

    def _record(self, id_: str, row: RecordedAnswer) -> dict[str, Any]:  # Any: a JSON object on its way out
        usage, cost = row.usage, plain(usd_of(row.cost_pico_usd))
        finish, native = _finish(row.outcome)
        listings = self._site.listings.openrouter
        unknown = dict.fromkeys(
            (
                *("upstream_id", "latency", "generation_time", "moderation_latency", "streamed", "http_referer"),
                *("user_agent", "app_id", "external_user", "session_id", "request_id", "router", "preset_id"),
                *("response_cache_source_id", "service_tier", "web_search_engine", "workspace_id", "cache_discount"),
                *("upstream_inference_cost", "num_media_prompt", "num_input_audio_prompt", "num_media_completion"),
                *("num_search_results", "num_fetches", "native_tokens_completion_images", "provider_responses"),
            )
        )
        return {
            **unknown,
            "id": id_,
            "model": next((one.dated_name for one in listings if one.model == row.model), row.model),
            "provider_name": row.served_by.partition("/")[0],
            "api_type": "completions",
            "created_at": row.arrived_at.isoformat(),
            "cancelled": row.outcome == "client_left",
            "finish_reason": finish,
            "native_finish_reason": native,
            "tokens_prompt": usage.prompt_tokens,
            "tokens_completion": usage.output_tokens,
            "native_tokens_prompt": usage.prompt_tokens,
            "native_tokens_completion": usage.output_tokens,
            "native_tokens_reasoning": usage.reasoning_tokens,
            "native_tokens_cached": usage.hit_tokens,
            "total_cost": cost,
            "usage": cost,
            "is_byok": False,
            "origin": "",
            "data_region": "global",
        }

    async def _spent(self, tenant: TenantId, since: datetime | None = None) -> Decimal:
        spent_pico_usd = await asyncio.to_thread(self._site.ledger.spent_pico_usd, tenant, since)
        return plain(usd_of(spent_pico_usd))


def _finish(outcome: str) -> tuple[str | None, str | None]:
    """The words for an outcome; none for an answer whose client left."""
    if outcome in _ERROR_CODES:
        return "error", FAILED_WORD
    for reason, word in FINISH_WORDS.items():
        if reason == outcome:
            return word, NATIVE_WORDS[reason]
    return None, None


def _json(value: object) -> Response:
    return Response(encode_amounts(value), media_type="application/json")
