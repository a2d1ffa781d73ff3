"""Tasks at rest: accepted, leased to one runner at a time, ended exactly once, purged.

Every change is one statement guarded by the state it expects, so two runners on one database cannot both win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, CursorResult, Engine, Row, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from deepserve.core.task import DeliveryState, NewTask, TaskState, TaskStatus
from deepserve.core.tenant import KeyId, Tenant, TenantId
from deepserve.store.database import hold, is_text
from deepserve.store.deliveries import delivery_row, utc
from deepserve.store.keys import tenant_of_key
from deepserve.store.tables import deliveries, tasks

TaskKey = tuple[TenantId, str]
"""Tasks are named by their tenant and their id."""

_PURGED = {"is_purged": True, "body": b"", "result": None, "details": b"{}", "webhook_url": None}


class DuplicateTask(Exception):
    """The tenant has used this id before."""


class TooManyTasks(Exception):
    """The tenant has as many unfinished tasks, or as large ones, as it may."""


class TaskStore:
    """All methods block for a database's time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def insert(self, task: NewTask, *, now: datetime, max_unfinished: int, max_bytes: int) -> TaskState:
        """Durable when it returns. Raises DuplicateTask or TooManyTasks.

        max_unfinished, max_bytes: of the tenant's tasks that have not ended
        """
        unfinished = (
            select(func.count(), func.sum(func.length(tasks.c.body)))
            .select_from(tasks)
            .where(tasks.c.tenant_id == task.tenant.id, tasks.c.status.in_(("queued", "running")))
        )
        try:
            with self._engine.begin() as connection:
                hold(connection, f"tasks of {task.tenant.id}")  # so that nobody else's task comes before the count
                connection.execute(
                    insert(tasks),
                    {
                        "tenant_id": task.tenant.id,
                        "id": task.id,
                        "tenant_name": task.tenant.name,
                        "key_id": task.tenant.key,
                        "kind": task.kind,
                        "status": "queued",
                        "body": task.body,
                        "details": msgspec.json.encode(task.metadata),
                        "webhook_url": task.webhook_url,
                        "arrived_at": utc(task.arrived_at),
                        "created_at": now,
                        "keep_s": task.keep_s,
                        "num_attempts": 0,
                        "is_purged": False,
                    },
                )
                count, size_bytes = connection.execute(unfinished).one()
                if count > max_unfinished or size_bytes > max_bytes:
                    raise TooManyTasks
                return _required(connection, (task.tenant.id, task.id))
        except IntegrityError as error:
            raise DuplicateTask from error

    def find(self, key: TaskKey, *, now: datetime) -> TaskState | None:
        """None for an unknown task, and from the moment its content may no longer be given out."""
        if not is_text(key[1]):
            return None
        with self._engine.connect() as connection:
            row = connection.execute(select(tasks).where(_is(key), ~tasks.c.is_purged)).one_or_none()
        if row is None or (row.expires_at is not None and utc(row.expires_at) <= now):
            return None
        return _state(row)

    def newest(self, *, limit: int) -> list[TaskState]:
        """The newest tasks of all tenants."""
        with self._engine.connect() as connection:
            query = select(tasks).order_by(tasks.c.created_at.desc(), tasks.c.id).limit(limit)
            return [_state(row) for row in connection.execute(query)]

    def named(self, task_id: str) -> list[TaskState]:
        """The tasks of all tenants that have this id."""
        with self._engine.connect() as connection:
            return [_state(row) for row in connection.execute(select(tasks).where(tasks.c.id == task_id))]

    def queued(self) -> list[TaskKey]:
        """Tasks nobody works on, oldest first."""
        query = select(tasks.c.tenant_id, tasks.c.id).where(tasks.c.status == "queued").order_by(tasks.c.created_at)
        with self._engine.connect() as connection:
            return [(TenantId(tenant), task_id) for tenant, task_id in connection.execute(query)]

    def claim(self, key: TaskKey, *, owner: str, now: datetime, lease_s: float) -> TaskState | None:
        """Begin a queued task; None when it is no longer queued."""
        with self._engine.begin() as connection:
            claimed = connection.execute(
                update(tasks)
                .where(_is(key), tasks.c.status == "queued")
                .values(
                    status="running",
                    started_at=now,
                    num_attempts=tasks.c.num_attempts + 1,
                    lease_owner=owner,
                    lease_expires_at=now + timedelta(seconds=lease_s),
                )
            )
            if not _num_changed(claimed):
                return None
            state = _required(connection, key)
            # What the key that brought it may do now, not then.
            return msgspec.structs.replace(state, tenant=tenant_of_key(connection, state.tenant))

    def renew(self, *, owner: str, now: datetime, lease_s: float) -> set[TaskKey]:
        """Keep what the owner works on; return it: what is missing was cancelled or taken over."""
        mine = and_(tasks.c.status == "running", tasks.c.lease_owner == owner)
        with self._engine.begin() as connection:
            connection.execute(update(tasks).where(mine).values(lease_expires_at=now + timedelta(seconds=lease_s)))
            found = connection.execute(select(tasks.c.tenant_id, tasks.c.id).where(mine))
            return {(TenantId(tenant), task_id) for tenant, task_id in found}

    def requeue(self, key: TaskKey, *, owner: str, is_counted: bool) -> bool:
        """Give a begun task back; unless the attempt counts, as if it had not been begun."""
        with self._engine.begin() as connection:
            given = connection.execute(
                update(tasks)
                .where(_is(key), tasks.c.status == "running", tasks.c.lease_owner == owner)
                .values(
                    status="queued",
                    num_attempts=tasks.c.num_attempts - (0 if is_counted else 1),
                    lease_owner=None,
                    lease_expires_at=None,
                    started_at=None,
                )
            )
            return _num_changed(given) > 0

    def release(self, *, now: datetime, dead_owner: str | None) -> int:
        """Queue again what was begun by an owner known to be dead, or whose lease has run out. The attempt counts."""
        is_lost = tasks.c.lease_expires_at < now
        if dead_owner is not None:
            is_lost |= tasks.c.lease_owner == dead_owner
        with self._engine.begin() as connection:
            released = connection.execute(
                update(tasks)
                .where(tasks.c.status == "running", is_lost)
                .values(status="queued", lease_owner=None, lease_expires_at=None)
            )
            return _num_changed(released)

    def finish(
        self,
        key: TaskKey,
        *,
        owner: str,
        status: Literal["succeeded", "failed"],
        result: bytes | None,
        error_code: str | None,
        now: datetime,
        announcements: Sequence[DeliveryState] = (),
    ) -> list[DeliveryState] | None:
        """End a task and write its webhook calls, in one transaction; return the calls of items that had none.

        None when it has ended or was taken over.
        """
        mine = and_(_is(key), tasks.c.status == "running", tasks.c.lease_owner == owner)
        with self._engine.begin() as connection:
            state = _end(connection, mine, key, status, now, result=result, error_code=error_code)
            return None if state is None else _announce(connection, key, announcements)

    def advance(
        self, key: TaskKey, *, owner: str, result: bytes, announcements: Sequence[DeliveryState] = ()
    ) -> list[DeliveryState] | None:
        """Note as much of a running task's result as is known, with its webhook calls; otherwise as `finish`."""
        mine = and_(_is(key), tasks.c.status == "running", tasks.c.lease_owner == owner)
        with self._engine.begin() as connection:
            changed = connection.execute(update(tasks).where(mine).values(result=result))
            return _announce(connection, key, announcements) if _num_changed(changed) else None

    def cancel(self, key: TaskKey, *, now: datetime) -> TaskState | None:
        """The task, which has ended now or before; None for an unknown one."""
        if not is_text(key[1]):
            return None
        is_open = and_(_is(key), tasks.c.status.in_(("queued", "running")))
        with self._engine.begin() as connection:
            _end(connection, is_open, key, "cancelled", now, result=None, error_code=None)
        return self.find(key, now=now)

    def counts(self) -> Mapping[TaskStatus, int]:
        """How many tasks are known, by status."""
        query = select(tasks.c.status, func.count()).group_by(tasks.c.status)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def purge(self, *, now: datetime, record_s: float, max_bytes_per_tenant: int) -> int:
        """Remove contents whose time is over, and of each tenant the oldest beyond a size; return how many.

        The row itself, without content, stays until record_s after the end, so that its id is not taken again.
        """
        is_kept = and_(tasks.c.ended_at.is_not(None), ~tasks.c.is_purged)
        size = func.coalesce(func.length(tasks.c.body), 0) + func.coalesce(func.length(tasks.c.result), 0)
        with self._engine.begin() as connection:
            hold(connection, "purge")
            removed = connection.execute(update(tasks).where(is_kept, tasks.c.expires_at <= now).values(**_PURGED))
            num_purged = _num_changed(removed)
            totals = select(tasks.c.tenant_id).where(is_kept).group_by(tasks.c.tenant_id)
            for tenant in connection.execute(totals.having(func.sum(size) > max_bytes_per_tenant)).scalars().all():
                kept_bytes = 0
                newest_first = select(tasks.c.id, size).where(is_kept, tasks.c.tenant_id == tenant)
                for task_id, size_bytes in connection.execute(newest_first.order_by(tasks.c.ended_at.desc())).all():
                    kept_bytes += size_bytes
                    if kept_bytes > max_bytes_per_tenant:
                        connection.execute(update(tasks).where(_is((tenant, task_id))).values(**_PURGED))
                        num_purged += 1
            is_forgotten = tasks.c.ended_at <= now - timedelta(seconds=record_s)
            connection.execute(delete(tasks).where(tasks.c.is_purged, is_forgotten))
        return num_purged


def _end(
    connection: Connection,
    which: ColumnElement[bool],
    key: TaskKey,
    status: TaskStatus,
    now: datetime,
    *,
    result: bytes | None,
    error_code: str | None,
) -> TaskState | None:
    keep_s = connection.execute(select(tasks.c.keep_s).where(which)).scalar()
    if keep_s is None:
        return None
    ended = connection.execute(
        update(tasks)
        .where(which)
        .values(
            status=status,
            result=result,
            error_code=error_code,
            ended_at=now,
            expires_at=now + timedelta(seconds=keep_s),
            lease_owner=None,
            lease_expires_at=None,
        )
    )
    return _required(connection, key) if _num_changed(ended) else None


def _announce(connection: Connection, key: TaskKey, announcements: Sequence[DeliveryState]) -> list[DeliveryState]:
    """Write the calls of items that have none yet: whatever is told again, an item is called out once."""
    if not announcements:
        return []
    known = select(deliveries.c.item).where(deliveries.c.tenant_id == key[0], deliveries.c.task_id == key[1])
    announced = set(connection.execute(known).scalars())
    new = [delivery for delivery in announcements if delivery.item not in announced]
    if new:
        connection.execute(insert(deliveries), [delivery_row(delivery) for delivery in new])
    return new


def _is(key: TaskKey) -> ColumnElement[bool]:
    return and_(tasks.c.tenant_id == key[0], tasks.c.id == key[1])


def _num_changed(result: CursorResult[Any]) -> int:  # Any: an update returns no rows
    return result.rowcount


def _required(connection: Connection, key: TaskKey) -> TaskState:
    return _state(connection.execute(select(tasks).where(_is(key))).one())


def _utc_or_none(time: datetime | None) -> datetime | None:
    return None if time is None else utc(time)


def _state(row: Row[Any]) -> TaskState:  # Any: the columns of the table
    return TaskState(
        id=row.id,
        kind=row.kind,
        tenant=Tenant(
            id=TenantId(row.tenant_id),
            name=row.tenant_name,
            key=None if row.key_id is None else KeyId(row.key_id),
        ),
        status=row.status,
        body=row.body,
        result=row.result,
        error_code=row.error_code,
        arrived_at=utc(row.arrived_at),
        created_at=utc(row.created_at),
        started_at=_utc_or_none(row.started_at),
        ended_at=_utc_or_none(row.ended_at),
        keep_s=row.keep_s,
        num_attempts=row.num_attempts,
        webhook_url=row.webhook_url,
        metadata=msgspec.json.decode(row.details),
    )
