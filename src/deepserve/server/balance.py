"""GET /user/balance, as DeepSeek's clients ask for it: what the budgets of the key leave.

Nothing is bought here. A key without a budget has no balance to show: its answer says that calls are possible, and
lists no amount. (api-docs.deepseek.com/api/get-user-balance)
"""

from __future__ import annotations

import asyncio
from decimal import ROUND_FLOOR, Decimal
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve.server.site import Site
from deepserve.server.visit import visit_of


class _Info(msgspec.Struct, frozen=True, kw_only=True):
    """Amounts are strings with two decimals, as the vendor's."""

    currency: Literal["USD"] = "USD"
    total_balance: str
    granted_balance: str
    topped_up_balance: str = "0.00"


class _Balance(msgspec.Struct, frozen=True, kw_only=True):
    is_available: bool
    balance_infos: list[_Info]


def routes(site: Site) -> list[BaseRoute]:
    async def show(request: Request) -> Response:
        tenant = visit_of(request.scope).tenant
        infos: list[_Info] = []
        is_available = True
        if tenant.grant is not None and tenant.grant.budgets.is_bound:
            spending = await asyncio.to_thread(site.keys.spending, tenant, now=site.now())
            left = spending.left_usd(tenant.grant.budgets)
            is_available = left > 0
            shown = str(max(Decimal(0), left).quantize(Decimal("0.01"), ROUND_FLOOR))
            infos.append(_Info(total_balance=shown, granted_balance=shown))
        balance = _Balance(is_available=is_available, balance_infos=infos)
        return Response(msgspec.json.encode(balance), media_type="application/json")

    return [Route(f"{prefix}/user/balance", show) for prefix in ("", "/v1", "/beta", "/beta/v1")]
