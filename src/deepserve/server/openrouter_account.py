"""OpenRouter's account addresses: what a key has used, and the record of one answer, as the ledger has it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.core.cost import usd_of
from deepserve.core.errors import InvalidField, RouteNotFound, error_classes
from deepserve.core.tenant import Budgets, Grant, Tenant
from deepserve.dialects.amounts import encode_amounts, plain
from deepserve.dialects.chat.openrouter.response import FINISH_WORDS
from deepserve.dialects.chat.response import FAILED_WORD
from deepserve.dialects.chat.response import FINISH_WORDS as NATIVE_WORDS
from deepserve.dialects.openrouter.ids import request_id_of
from deepserve.server.site import Site
from deepserve.server.visit import visit_of
from deepserve.store.keys import KeyRow
from deepserve.store.ledger_record import RecordedAnswer
from deepserve.store.spending import Spending

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
    """What a key has used. Nothing is bought, so that there is a limit only where the key has a budget.

    A key of the settings is a tenant, and so is everybody where none is needed: theirs is what their tenant has used.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    async def key(self, request: Request) -> Response:
        tenant, now = visit_of(request.scope).tenant, self._site.now()
        spending, row = await asyncio.to_thread(self._look, tenant, now)
        grant = tenant.grant or Grant()
        budgets = _budgets(grant, spending, now)
        tightest = min(budgets, key=lambda budget: budget["remaining_usd"], default=None)
        periods = {
            "usage_daily": plain(spending.today_usd),
            "usage_weekly": plain(spending.since_monday_usd),
            "usage_monthly": plain(spending.month_usd),
        }
        return _json(
            {
                "data": {
                    "label": _label(tenant, row),
                    "limit": None if tightest is None else tightest["limit_usd"],
                    "limit_remaining": None if tightest is None else max(Decimal(0), tightest["remaining_usd"]),
                    "limit_reset": None if tightest is None else tightest["reset_interval"],
                    "include_byok_in_limit": False,
                    "usage": plain(spending.total_usd),
                    **periods,
                    "byok_usage": 0,
                    **{f"byok_{name}": 0 for name in periods},
                    "is_free_tier": False,
                    "is_management_key": False,
                    "is_provisioning_key": False,
                    "creator_user_id": None,
                    "organization_id": None,
                    "workspace_id": None,
                    "expires_at": None if row is None else row.expires_at,
                    "allowed_data_regions": ["global"],
                    "budgets": budgets,
                    "effective_budget": tightest,
                    "free_model_daily_requests": {"limit": 0, "remaining": 0, "used": 0},
                    "rate_limit": _rate_limit(grant.limits.requests_per_minute),
                }
            }
        )

    async def credits(self, request: Request) -> Response:
        """Nothing was bought; what was used is told as the ledger has it, and what a budget leaves comes on top."""
        tenant, now = visit_of(request.scope).tenant, self._site.now()
        spending, _ = await asyncio.to_thread(self._look, tenant, now)
        budgets = Budgets() if tenant.grant is None else tenant.grant.budgets
        total = Decimal(0)
        if budgets.is_bound:
            total = spending.total_usd + max(Decimal(0), spending.left_usd(budgets))
        return _json({"data": {"total_credits": plain(total), "total_usage": plain(spending.total_usd)}})

    def _look(self, tenant: Tenant, now: datetime) -> tuple[Spending, KeyRow | None]:
        """Blocks for a database's time."""
        if tenant.key is not None:
            return self._site.keys.spending(tenant, now=now), self._site.keys.row(tenant)
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)

        def spent(since: datetime | None = None) -> Decimal:
            return usd_of(self._site.ledger.spent_pico_usd(tenant.id, since))

        spending = Spending(
            today_usd=spent(today),
            since_monday_usd=spent(today - timedelta(days=today.weekday())),
            month_usd=spent(today.replace(day=1)),
            total_usd=spent(),
        )
        return spending, None

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


def _label(tenant: Tenant, row: KeyRow | None) -> str:
    """The beginning of the key, as the vendor shows it."""
    if row is None:
        return tenant.name or tenant.id
    return row.name or f"{row.shown}..."


def _budgets(grant: Grant, spending: Spending, now: datetime) -> list[dict[str, Any]]:  # Any: JSON on its way out
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    day, month = grant.budgets.usd_per_day, grant.budgets.usd_per_month
    found = [
        ("daily", day, spending.today_usd + spending.reserved_today_usd, today + timedelta(days=1)),
        ("monthly", month, spending.month_usd + spending.reserved_month_usd, next_month),
    ]
    return [
        {
            "budget_id": None,
            "guardrail_id": None,
            "include_byok": False,
            "limit_usd": plain(limit),
            "remaining_usd": plain(limit - spent),
            "spend_usd": plain(spent),
            "reset_interval": interval,
            "resets_at": resets_at,
            "scope": "key_limit",
        }
        for interval, limit, spent, resets_at in found
        if limit is not None
    ]


def _rate_limit(per_minute: int | None) -> dict[str, Any]:  # Any: JSON on its way out
    if per_minute is None:
        return {"interval": "10s", "note": "No limit by request applies.", "requests": -1}
    return {"interval": "1m", "note": "Requests above it wait for their turn.", "requests": per_minute}


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
