"""OpenRouter's account addresses: what a key has used, and the record of one answer. Amounts are list prices."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.core.errors import InvalidField, RouteNotFound, error_classes
from deepserve.core.tenant import TenantId
from deepserve.dialects.amounts import encode_amounts, plain
from deepserve.dialects.chat.openrouter.response import FINISH_WORDS
from deepserve.dialects.chat.response import FAILED_WORD
from deepserve.dialects.chat.response import FINISH_WORDS as NATIVE_WORDS
from deepserve.dialects.openrouter.ids import request_id_of
from deepserve.server.charge import Charges
from deepserve.server.site import Site
from deepserve.server.visit import visit_of
from deepserve.store.answers import AnswerRow, AnswerSum

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
        self._charges = Charges(site.prices)

    async def key(self, request: Request) -> Response:
        tenant = visit_of(request.scope).tenant
        sums = await self._sums(tenant.id)
        now = self._site.now()
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)

        def used(since: datetime) -> object:
            return plain(self._charges.total(one for one in sums if one.minute >= since))

        periods = {
            "usage_daily": used(today),
            "usage_weekly": used(today - timedelta(days=today.weekday())),
            "usage_monthly": used(today.replace(day=1)),
        }
        return _json(
            {
                "data": {
                    "label": tenant.name or tenant.id,
                    "limit": None,
                    "limit_remaining": None,
                    "limit_reset": None,
                    "include_byok_in_limit": False,
                    "usage": plain(self._charges.total(sums)),
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
        """Nothing was bought; what was used is told at list prices."""
        sums = await self._sums(visit_of(request.scope).tenant.id)
        return _json({"data": {"total_credits": 0, "total_usage": plain(self._charges.total(sums))}})

    async def generation(self, request: Request) -> Response:
        """The record of one answer, soon after its end."""
        id_ = request.query_params.get("id")
        if id_ is None:
            raise InvalidField("The id of a generation is missing: `?id=gen-…`.", field="id")
        request_id, tenant = request_id_of(id_), visit_of(request.scope).tenant.id
        row = None
        if request_id is not None:
            row = await asyncio.to_thread(self._site.answers.find, tenant, request_id)
        if row is None:
            raise RouteNotFound(f"Generation {id_[:100]} not found.", field="id")
        return _json({"data": self._record(id_, row)})

    def _record(self, id_: str, row: AnswerRow) -> dict[str, Any]:  # Any: a JSON object on its way out
        usage, cost = row.usage, self._charges.cost_of_row(row)
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
            "total_cost": plain(cost.total_usd),
            "usage": plain(cost.total_usd),
            "is_byok": False,
            "origin": "",
            "data_region": "global",
        }

    async def _sums(self, tenant: TenantId) -> Sequence[AnswerSum]:
        return await asyncio.to_thread(self._site.answers.sums, tenant)


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
