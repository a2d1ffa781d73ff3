"""What accounts are told about keys: what one has spent, and which a tenant has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine

from deepserve.core.tenant import Tenant, TenantId
from deepserve.store.keys import KeyRow, rows_of_tenant
from deepserve.store.spending import Spending, read_spending


class KeyRecord:
    """Methods block for a database's time; without a database there are no keys."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine

    def spending(self, tenant: Tenant, *, now: datetime) -> Spending:
        """Of the key that was used."""
        if self._engine is None or tenant.key is None:
            return Spending()
        return read_spending(self._engine, [tenant.key], now=now)[tenant.key]

    def row(self, tenant: Tenant) -> KeyRow | None:
        """The key that was used; None where it is one of the settings, or none was needed."""
        return next((row for row in self.of_tenant(tenant.id) if row.id == tenant.key), None)

    def of_tenant(self, tenant: TenantId) -> Sequence[KeyRow]:
        """The oldest first."""
        if self._engine is None:
            return []
        with self._engine.connect() as connection:
            return rows_of_tenant(connection, tenant)

    def spending_of(self, rows: Sequence[KeyRow], *, now: datetime) -> Sequence[Spending]:
        """Of each of these."""
        if self._engine is None or not rows:
            return [Spending() for _ in rows]
        found = read_spending(self._engine, [row.id for row in rows], now=now)
        return [found[row.id] for row in rows]
