"""What accounts are told about keys: what one has spent, and which a tenant has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Engine

from deepserve.core.tenant import KeyId, Tenant, TenantId
from deepserve.store.keys import KeyRow, rows_of_tenant
from deepserve.store.spending import Spending, read_spending


class KeyRecord:
    """Methods block for a database's time; without a database there are no keys.

    catch_up  called before spending is read: brings in what this process has written down elsewhere
    """

    def __init__(self, engine: Engine | None, *, catch_up: Callable[[], None] | None = None) -> None:
        self._engine = engine
        self._catch_up = catch_up

    def spending(self, tenant: Tenant, *, now: datetime) -> Spending:
        """Of the key that was used."""
        if self._engine is None or tenant.key is None:
            return Spending()
        return self._read(self._engine, [tenant.key], now)[tenant.key]

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
        found = self._read(self._engine, [row.id for row in rows], now)
        return [found[row.id] for row in rows]

    def _read(self, engine: Engine, keys: Sequence[KeyId], now: datetime) -> Mapping[KeyId, Spending]:
        if self._catch_up is not None:
            self._catch_up()
        return read_spending(engine, keys, now=now)
