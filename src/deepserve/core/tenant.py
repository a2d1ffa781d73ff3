"""On whose behalf a request runs."""

from __future__ import annotations

from typing import NewType

import msgspec

TenantId = NewType("TenantId", str)


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """The account a key belongs to. Caches, memories, limits and the ledger are kept apart by its id."""

    id: TenantId
    name: str = ""


LOCAL_TENANT = Tenant(id=TenantId("local"), name="local")
"""Everybody, on a server without configured keys (which then listens on loopback only)."""
