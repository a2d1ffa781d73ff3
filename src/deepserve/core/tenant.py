"""On whose behalf a request runs, and what it may do."""

from __future__ import annotations

from decimal import Decimal
from typing import NewType

import msgspec

TenantId = NewType("TenantId", str)

KeyId = NewType("KeyId", str)
"""Names a key in the ledger and in commands. It is no secret, and stays the same when the secret is exchanged."""


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """The most US dollars that a key may spend in a day and in a month, which begin at midnight UTC. None: no bound."""

    usd_per_day: Decimal | None = None
    usd_per_month: Decimal | None = None

    @property
    def is_bound(self) -> bool:
        return self.usd_per_day is not None or self.usd_per_month is not None


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much at once, and how fast. None: no bound.

    max_concurrent       answers that run side by side
    requests_per_minute  answers begun, and tokens counted
    tokens_per_minute    prompt and output together
    """

    max_concurrent: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may do.

    models    canonical ids that may be asked for; None: all
    dialects  names as in `Request.dialect`; None: all
    tools     kinds of the tools that the server runs, as in `ServerTool.tool`; None: all
    is_admin  may read what concerns everybody: metrics, the sums of all tenants
    is_revoked  may do nothing any more; of keys whose tasks still wait
    """

    models: frozenset[str] | None = None
    dialects: frozenset[str] | None = None
    tools: frozenset[str] | None = None
    is_admin: bool = False
    budgets: Budgets = Budgets()
    limits: RateLimits = RateLimits()
    is_revoked: bool = False

    @property
    def is_metered(self) -> bool:
        """Whether anything has to be counted before a request may run."""
        return self.budgets != Budgets() or self.limits != RateLimits()


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """The account a key belongs to. Caches, memories and tasks are kept apart by its id, and by nothing else here.

    key    which of its keys was used; None: none was needed
    grant  what that key may do; None: everything
    """

    id: TenantId
    name: str = ""
    key: KeyId | None = None
    grant: Grant | None = None


LOCAL_TENANT = Tenant(id=TenantId("local"), name="local")
"""Everybody, on a server without configured keys (which then listens on loopback only)."""
