"""`accountManagement`: what an account has used, and its keys, as the ledger has them.

Nothing is bought and nobody has a name here: the organisation is the tenant, its team is empty, and a balance is what
the budgets of the key leave. (runware.ai/docs, "Account management"; the members are those its SDKs read.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid5

from deepserve.core.cost import usd_of
from deepserve.core.messages import Json
from deepserve.core.tenant import Tenant
from deepserve.dialects.amounts import plain
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.request import read_task_uuid
from deepserve.server.site import Site
from deepserve.store.keys import KeyRow
from deepserve.store.spending import Spending

_TENANTS: Final = UUID("b5a3c0de-7b7f-4a5b-8f6e-7d1f0c5d2a10")
"""Namespace of the UUIDs by which accounts are told."""

Item = dict[str, Any]
"""A JSON object on its way out."""


def account_details(site: Site, task: Mapping[str, Json], tenant: Tenant) -> Item:
    """Blocks for a database's time. Raises TaskRefused."""
    task_uuid, operation = read_task_uuid(task), task.get("operation")
    if operation != "getDetails":
        raise TaskRefused(
            "invalidOperation" if "operation" in task else "missingOperation",
            "`operation` must be getDetails: nothing else of an account can be asked for here.",
            parameter="operation",
        )
    now = site.now()
    rows = site.keys.of_tenant(tenant.id)
    spending = site.keys.spending_of(rows, now=now)
    return {
        "taskType": "accountManagement",
        "taskUUID": task_uuid,
        "operation": operation,
        "organizationName": tenant.name or tenant.id,
        "organizationUUID": str(uuid5(_TENANTS, tenant.id)),
        "balance": {"amount": _left(site, tenant, now), "freeBalance": 0, "currency": "USD"},
        "team": [],
        "apiKeys": [_key(row, one, now) for row, one in zip(rows, spending, strict=True)],
        "usage": {
            "today": _used(site, tenant, now.replace(hour=0, minute=0, second=0, microsecond=0)),
            "last7Days": _used(site, tenant, now - timedelta(days=7)),
            "last30Days": _used(site, tenant, now - timedelta(days=30)),
            "total": _used(site, tenant, None),
        },
    }


def _left(site: Site, tenant: Tenant, now: datetime) -> Decimal | None:
    """None: there is no limit."""
    if tenant.grant is None or not tenant.grant.budgets.is_bound:
        return None
    return plain(max(Decimal(0), site.keys.spending(tenant, now=now).left_usd(tenant.grant.budgets)))


def _key(row: KeyRow, spending: Spending, now: datetime) -> Item:
    return {
        "apiKey": f"{row.shown}...",
        "name": row.name,
        "description": "",
        "enabled": row.status(now) == "valid",
        "createdAt": row.created_at,
        "lastUsedAt": spending.last_used_at,
        "requests": spending.num_attempts,
    }


def _used(site: Site, tenant: Tenant, since: datetime | None) -> Item:
    sums = site.ledger.sums(tenant=tenant.id, since=since)
    return {
        "credits": plain(usd_of(sum(one.cost_pico_usd for one in sums))),
        "requests": sum(one.num_requests for one in sums),
    }
