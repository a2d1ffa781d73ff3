"""Webhook calls at rest: pending, leased to one sender at a time, every attempt on record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Engine, Row, delete, func, insert, or_, select, update

from deepserve.core.task import DeliveryAttempt, DeliveryState, DeliveryStatus
from deepserve.core.tenant import Tenant, TenantId
from deepserve.store.database import hold
from deepserve.store.tables import deliveries, delivery_attempts, webhook_secrets


class PendingDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender plans with; the content stays in the database until it is sent."""

    id: str
    tenant: TenantId
    host: str
    num_attempts: int
    next_attempt_at: datetime


class DeliveryStore:
    """All methods block for a database's time. Rows come into being in `TaskStore`, with what they announce."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def pending(self) -> list[PendingDelivery]:
        """Everything still to be delivered, the most urgent first."""
        columns = (
            deliveries.c.id,
            deliveries.c.tenant_id,
            deliveries.c.host,
            deliveries.c.num_attempts,
            deliveries.c.next_attempt_at,
        )
        query = select(*columns).where(deliveries.c.status == "pending").order_by(deliveries.c.next_attempt_at)
        with self._engine.connect() as connection:
            return [
                PendingDelivery(
                    id=delivery_id,
                    tenant=TenantId(tenant),
                    host=host,
                    num_attempts=num_attempts,
                    next_attempt_at=utc(time),
                )
                for delivery_id, tenant, host, num_attempts, time in connection.execute(query)
            ]

    def claim(self, delivery_id: str, *, owner: str, now: datetime, lease_s: float) -> DeliveryState | None:
        """Take a pending delivery for one attempt; None when it has ended or somebody else is at it."""
        is_free = or_(deliveries.c.lease_owner.is_(None), deliveries.c.lease_expires_at < now)
        with self._engine.begin() as connection:
            claimed = connection.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery_id, deliveries.c.status == "pending", is_free)
                .values(lease_owner=owner, lease_expires_at=now + timedelta(seconds=lease_s))
            )
            if not claimed.rowcount:
                return None
            return _state(connection.execute(select(deliveries).where(deliveries.c.id == delivery_id)).one())

    def record(
        self,
        delivery_id: str,
        attempt: DeliveryAttempt,
        *,
        owner: str,
        status: DeliveryStatus,
        next_attempt_at: datetime,
        now: datetime,
    ) -> None:
        """Note an attempt and what follows from it, unless the lease was lost meanwhile."""
        is_over = status != "pending"
        values: dict[str, Any] = {  # Any: whatever the columns hold
            "status": status,
            "num_attempts": attempt.number,
            "next_attempt_at": next_attempt_at,
            "last_status": attempt.status,
            "last_error": attempt.error,
            "ended_at": now if is_over else None,
            "lease_owner": None,
            "lease_expires_at": None,
        }
        if status == "delivered":
            values["body"] = b""
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(deliveries)
                .where(
                    deliveries.c.id == delivery_id, deliveries.c.lease_owner == owner, deliveries.c.status == "pending"
                )
                .values(**values)
            )
            if changed.rowcount:
                connection.execute(
                    insert(delivery_attempts), {"delivery_id": delivery_id, **msgspec.structs.asdict(attempt)}
                )

    def let_go(self, delivery_id: str, *, owner: str) -> None:
        """Give a claimed delivery back without an attempt."""
        with self._engine.begin() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery_id, deliveries.c.lease_owner == owner)
                .values(lease_owner=None, lease_expires_at=None)
            )

    def release(self, *, dead_owner: str) -> None:
        """Free what an owner held that is known to be dead."""
        with self._engine.begin() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.lease_owner == dead_owner)
                .values(lease_owner=None, lease_expires_at=None)
            )

    def find(self, delivery_id: str) -> DeliveryState | None:
        with self._engine.connect() as connection:
            row = connection.execute(select(deliveries).where(deliveries.c.id == delivery_id)).one_or_none()
        return None if row is None else _state(row)

    def of_task(self, tenant: TenantId, task_id: str) -> list[DeliveryState]:
        """The calls of one task, by item."""
        query = select(deliveries).where(deliveries.c.tenant_id == tenant, deliveries.c.task_id == task_id)
        with self._engine.connect() as connection:
            return [_state(row) for row in connection.execute(query.order_by(deliveries.c.item))]

    def newest(self, *, status: DeliveryStatus | None, limit: int) -> list[DeliveryState]:
        """The newest calls of all tenants."""
        query = select(deliveries).order_by(deliveries.c.created_at.desc()).limit(limit)
        if status is not None:
            query = query.where(deliveries.c.status == status)
        with self._engine.connect() as connection:
            return [_state(row) for row in connection.execute(query)]

    def attempts(self, delivery_id: str) -> list[DeliveryAttempt]:
        query = select(delivery_attempts).where(delivery_attempts.c.delivery_id == delivery_id)
        with self._engine.connect() as connection:
            return [
                DeliveryAttempt(
                    number=row.number,
                    started_at=utc(row.started_at),
                    duration_ms=row.duration_ms,
                    status=row.status,
                    error=row.error,
                    address=row.address,
                )
                for row in connection.execute(query.order_by(delivery_attempts.c.number))
            ]

    def retry(self, delivery_id: str, *, now: datetime) -> bool:
        """Begin a failed delivery anew: all attempts again, the same id. Its earlier attempts leave the record."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery_id, deliveries.c.status.in_(("failed", "cancelled")))
                .values(status="pending", num_attempts=0, next_attempt_at=now, created_at=now, ended_at=None)
            )
            if changed.rowcount:
                connection.execute(delete(delivery_attempts).where(delivery_attempts.c.delivery_id == delivery_id))
            return bool(changed.rowcount)

    def disable(self, host: str, *, now: datetime) -> int:
        """Cancel what waits for a `host:port`; return how many calls that were."""
        return self._cancel(deliveries.c.host == host, now)

    def _cancel(self, which: ColumnElement[bool], now: datetime) -> int:
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(deliveries)
                .where(which, deliveries.c.status == "pending")
                .values(status="cancelled", ended_at=now, lease_owner=None, lease_expires_at=None)
            )
            return changed.rowcount

    def counts(self) -> Mapping[DeliveryStatus, int]:
        query = select(deliveries.c.status, func.count()).group_by(deliveries.c.status)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def purge(self, *, now: datetime, record_s: float) -> None:
        """Forget calls, with their attempts, that ended record_s ago."""
        is_old = deliveries.c.ended_at <= now - timedelta(seconds=record_s)
        with self._engine.begin() as connection:
            hold(connection, "purge")
            old = select(deliveries.c.id).where(is_old)
            connection.execute(delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(old)))
            connection.execute(delete(deliveries).where(is_old))

    def add_secret(self, tenant: TenantId, *, now: datetime) -> int:
        """A further version of a tenant's signing secret; the first is 1."""
        newest = select(func.max(webhook_secrets.c.version)).where(webhook_secrets.c.tenant_id == tenant)
        with self._engine.begin() as connection:
            hold(connection, f"webhook secrets of {tenant}")
            version = (connection.execute(newest).scalar() or 0) + 1
            connection.execute(insert(webhook_secrets), {"tenant_id": tenant, "version": version, "created_at": now})
        return version

    def secrets(self, tenant: TenantId, *, now: datetime, overlap_s: float) -> list[int]:
        """The versions to sign with, newest first: the newest, and the one before for a while after a rotation."""
        query = select(webhook_secrets).where(webhook_secrets.c.tenant_id == tenant)
        with self._engine.connect() as connection:
            rows = list(connection.execute(query.order_by(webhook_secrets.c.version.desc()).limit(2)))
        if len(rows) == 2 and utc(rows[0].created_at) + timedelta(seconds=overlap_s) <= now:
            rows.pop()
        return [row.version for row in rows]


def delivery_row(delivery: DeliveryState) -> dict[str, Any]:  # Any: whatever the columns hold
    """A new delivery as a row of its table."""
    return {
        "id": delivery.id,
        "tenant_id": delivery.tenant.id,
        "tenant_name": delivery.tenant.name,
        "task_id": delivery.task_id,
        "kind": delivery.kind,
        "item": delivery.item,
        "url": delivery.url,
        "host": delivery.host,
        "body": delivery.body,
        "status": delivery.status,
        "num_attempts": delivery.num_attempts,
        "next_attempt_at": delivery.next_attempt_at,
        "created_at": delivery.created_at,
    }


def utc(time: datetime) -> datetime:
    """SQLite forgets the zone; everything here is UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _state(row: Row[Any]) -> DeliveryState:  # Any: the columns of the table
    return DeliveryState(
        id=row.id,
        task_id=row.task_id,
        tenant=Tenant(id=TenantId(row.tenant_id), name=row.tenant_name),
        kind=row.kind,
        item=row.item,
        url=row.url,
        host=row.host,
        body=row.body,
        status=row.status,
        num_attempts=row.num_attempts,
        next_attempt_at=utc(row.next_attempt_at),
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=utc(row.created_at),
        ended_at=None if row.ended_at is None else utc(row.ended_at),
    )
