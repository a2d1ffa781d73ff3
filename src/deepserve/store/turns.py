"""Turns of the assistant that outlive the server: what the model drew and thought, under the names it is asked for by.

A turn is opaque here, and so are its names: digests that its owner computes. Both belong to one tenant. Kept within a
size and an age, the oldest go first. Turns are written by a thread of their own, for answering must not wait for a
disk; a crash may cost those of the last moment.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import BoundedSemaphore
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, Engine, delete, func, insert, select

from deepserve.core.tenant import TenantId
from deepserve.store.database import FAULTS, hold, insert_or_replace, is_shared, tell_fault
from deepserve.store.tables import turn_names, turns

Item = TypeVar("Item")

_log = logging.getLogger(__name__)

_COMPRESSION_LEVEL = 3
_MAX_WAITING = 1000
_PER_QUERY = 500
_NAME = "turns"


class TurnLimits(msgspec.Struct, frozen=True, kw_only=True):
    """For one tenant: most bytes after compression, and how long each turn is kept."""

    size_bytes: int
    age_s: float


class TurnStore:
    """Keeps and finds; may be called from any thread. now: the wall clock, in UTC."""

    def __init__(self, database: Engine, *, limits: TurnLimits, now: Callable[[], datetime]) -> None:
        self._database = database
        self._limits = limits
        self._now = now
        self._room = BoundedSemaphore(_MAX_WAITING)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deepserve-turns")
        self._writer.submit(self._forget_expired)

    def keep(self, tenant: TenantId, names: Sequence[bytes], turn: bytes) -> None:
        """Put a turn under its names, in place of what they named before. Does not wait."""
        if not self._room.acquire(blocking=False):
            _log.error("store: too many turns wait to be written, one is lost")
            return
        self._writer.submit(self._write, tenant, names, turn)

    def find(self, tenant: TenantId, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """The turns that these names stand for; a name without one is left out. An unreadable row is no turn."""
        found: dict[bytes, bytes] = {}
        try:
            with self._database.connect() as connection:
                for some in _batches(names):
                    found |= dict(self._read(connection, tenant, some))
        except FAULTS as error:
            tell_fault(_log, "store: turns could not be read", error)
        return found

    @property
    def is_shared(self) -> bool:
        """Whether other servers may be asked for what is kept here."""
        return is_shared(self._database)

    def flush(self) -> None:
        """Block until everything that was handed over is written."""
        self._writer.submit(lambda: None).result()

    def close(self) -> None:
        """Write everything that waits."""
        self._writer.shutdown(wait=True)

    def _read(self, connection: Connection, tenant: TenantId, names: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        query = (
            select(turn_names.c.name, turns.c.turn)
            .join(turns, turns.c.id == turn_names.c.turn_id)
            .where(
                turn_names.c.tenant_id == tenant,
                turn_names.c.name.in_(names),
                turns.c.kept_at > self._oldest(),
            )
        )
        for name, packed in connection.execute(query):
            try:
                yield name, zlib.decompress(packed)
            except zlib.error:
                _log.warning("store: a kept turn is damaged")

    def _oldest(self) -> datetime:
        return self._now() - timedelta(seconds=self._limits.age_s)

    def _write(self, tenant: TenantId, names: Sequence[bytes], turn: bytes) -> None:
        packed = zlib.compress(turn, _COMPRESSION_LEVEL)
        row = {"tenant_id": tenant, "kept_at": self._now(), "size_bytes": len(packed), "turn": packed}
        try:
            with self._database.begin() as connection:
                # Two servers may replace the same names or drop the same turns, each in its own order.
                hold(connection, _NAME)
                (turn_id,) = connection.execute(insert(turns).returning(turns.c.id), row).one()
                insert_or_replace(
                    connection,
                    turn_names,
                    [{"tenant_id": tenant, "name": name, "turn_id": turn_id} for name in dict.fromkeys(names)],
                )
                self._make_room(connection, tenant)
        except FAULTS as error:
            tell_fault(_log, "store: a turn could not be written", error)
        finally:
            self._room.release()

    def _make_room(self, connection: Connection, tenant: TenantId) -> None:
        """Drop what is too old, and the tenant's oldest until the rest is within the limit."""
        self._drop_expired(connection)
        total = select(func.sum(turns.c.size_bytes)).where(turns.c.tenant_id == tenant)
        excess_bytes = (connection.execute(total).scalar() or 0) - self._limits.size_bytes
        if excess_bytes <= 0:
            return
        oldest_first = select(turns.c.id, turns.c.size_bytes).where(turns.c.tenant_id == tenant).order_by(turns.c.id)
        dropped: list[int] = []
        for turn_id, size_bytes in connection.execute(oldest_first):
            if excess_bytes <= 0:
                break
            dropped.append(turn_id)
            excess_bytes -= size_bytes
        _drop(connection, dropped)

    def _forget_expired(self) -> None:
        try:
            with self._database.begin() as connection:
                hold(connection, _NAME)
                self._drop_expired(connection)
        except FAULTS as error:
            tell_fault(_log, "store: expired turns could not be dropped", error)

    def _drop_expired(self, connection: Connection) -> None:
        expired = select(turns.c.id).where(turns.c.kept_at <= self._oldest())
        _drop(connection, connection.execute(expired).scalars().all())


def _drop(connection: Connection, turn_ids: Sequence[int]) -> None:
    for some in _batches(turn_ids):
        connection.execute(delete(turn_names).where(turn_names.c.turn_id.in_(some)))
        connection.execute(delete(turns).where(turns.c.id.in_(some)))


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[start : start + _PER_QUERY] for start in range(0, len(items), _PER_QUERY))
