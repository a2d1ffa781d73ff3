"""Responses that can be asked for again: a bounded shelf for each tenant.

Kept within a number, a size and an age; the oldest go first. A response is found from the moment it was handed over,
though it is written a moment later, by a thread of its own: answering must not wait for a disk.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, delete, func, select

from deepserve.config import Settings
from deepserve.core.tenant import TenantId
from deepserve.store.database import FAULTS, Database, hold, insert_new, is_text, open_memory_database, tell_fault
from deepserve.store.tables import responses

_log = logging.getLogger(__name__)

_COMPRESSION_LEVEL = 3
_MAX_WAITING = 10_000

_Key = tuple[TenantId, str]


class ShelfLimits(msgspec.Struct, frozen=True, kw_only=True):
    """For one tenant: most responses, most bytes after compression, and how long each is kept."""

    num_responses: int = 1000
    size_bytes: int = 64 * 1024 * 1024
    age_s: float = 30 * 86_400.0

    @classmethod
    def of(cls, settings: Settings) -> ShelfLimits:
        return cls(
            num_responses=settings.kept_responses,
            size_bytes=settings.kept_responses_bytes,
            age_s=settings.kept_responses_s,
        )


class ResponseStore:
    """Keeps, finds and deletes; every method may be called from any thread. now: the wall clock, in UTC.

    database   None: kept in memory, for as long as the process lives
    is_shared  other servers may be asked for what is kept here
    """

    def __init__(
        self, database: Database | None, *, limits: ShelfLimits, now: Callable[[], datetime], is_shared: bool = False
    ) -> None:
        self.is_shared = is_shared
        self._database = open_memory_database() if database is None else database
        self._limits = limits
        self._now = now
        self._waiting: dict[_Key, bytes] = {}
        self._waiting_lock = threading.Lock()
        # One transaction at a time: in memory all share a single connection.
        self._database_lock = threading.Lock()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deepserve-responses")
        self._writer.submit(self._purge)

    @property
    def can_keep(self) -> bool:
        return self._limits.num_responses > 0 and self._limits.size_bytes > 0 and self._limits.age_s > 0

    def keep(self, tenant: TenantId, response_id: str, record: bytes) -> None:
        """Does not wait. An id that is already kept stays as it is."""
        if not self.can_keep:
            return
        with self._waiting_lock:
            if len(self._waiting) >= _MAX_WAITING:
                _log.error("store: too many responses wait to be written, one is lost")
                return
            self._waiting[tenant, response_id] = record
        self._writer.submit(self._write, (tenant, response_id))

    def find(self, tenant: TenantId, response_id: str) -> bytes | None:
        """The record as it was kept; None when there is none (any more)."""
        with self._waiting_lock:
            waiting = self._waiting.get((tenant, response_id))
        if waiting is not None:
            return waiting
        if not is_text(response_id):
            return None
        query = select(responses.c.record).where(
            responses.c.tenant_id == tenant,
            responses.c.response_id == response_id,
            responses.c.kept_at > self._oldest(),
        )
        with self._database_lock, self._database.connect() as connection:
            packed = connection.execute(query).scalar()
        return None if packed is None else zlib.decompress(packed)

    def delete(self, tenant: TenantId, response_id: str) -> bool:
        """Whether there was one."""
        if not is_text(response_id):
            return False
        with self._database_lock:
            with self._waiting_lock:
                has_waited = self._waiting.pop((tenant, response_id), None) is not None
            with self._database.begin() as connection:
                gone = connection.execute(
                    delete(responses).where(
                        responses.c.tenant_id == tenant,
                        responses.c.response_id == response_id,
                        responses.c.kept_at > self._oldest(),
                    )
                )
        return has_waited or gone.rowcount > 0

    def settle(self) -> None:
        """Block until other servers find everything, too."""
        if self.is_shared and self._waiting:
            self.flush()

    def flush(self) -> None:
        """Block until everything that was handed over is written."""
        self._writer.submit(lambda: None).result()

    def close(self) -> None:
        """Write everything that waits."""
        self._writer.shutdown(wait=True)

    def _oldest(self) -> datetime:
        return self._now() - timedelta(seconds=self._limits.age_s)

    def _purge(self) -> None:
        """Delete what a former server kept and this one would not have."""
        gone = delete(responses)
        if self.can_keep:
            gone = gone.where(responses.c.kept_at <= self._oldest())
        try:
            with self._database_lock, self._database.begin() as connection:
                connection.execute(gone)
        except FAULTS as error:
            tell_fault(_log, "store: old responses could not be deleted", error)

    def _write(self, key: _Key) -> None:
        with self._database_lock:
            with self._waiting_lock:
                record = self._waiting.get(key)
            if record is None:
                return  # deleted meanwhile
            try:
                self._insert(key, zlib.compress(record, _COMPRESSION_LEVEL))
            except FAULTS as error:
                tell_fault(_log, "store: a response could not be written", error)
            with self._waiting_lock:
                self._waiting.pop(key, None)

    def _insert(self, key: _Key, packed: bytes) -> None:
        tenant, response_id = key
        row = {
            "tenant_id": tenant,
            "response_id": response_id,
            "kept_at": self._now(),
            "size_bytes": len(packed),
            "record": packed,
        }
        with self._database.begin() as connection:
            if not insert_new(connection, responses, row):
                return
        # By itself: what other servers delete at the same time must not cost the new one.
        with self._database.begin() as connection:
            hold(connection, "responses")
            connection.execute(delete(responses).where(responses.c.kept_at <= self._oldest()))
            self._make_room(connection, tenant)

    def _make_room(self, connection: Connection, tenant: TenantId) -> None:
        """Drop the tenant's oldest until the rest is within the limits."""
        totals = select(func.count(), func.sum(responses.c.size_bytes)).where(responses.c.tenant_id == tenant)
        num_kept, size_bytes = connection.execute(totals).one()
        if num_kept <= self._limits.num_responses and size_bytes <= self._limits.size_bytes:
            return
        oldest_first = (
            select(responses.c.response_id, responses.c.size_bytes)
            .where(responses.c.tenant_id == tenant)
            .order_by(responses.c.kept_at)
        )
        dropped: list[str] = []
        for response_id, row_bytes in connection.execute(oldest_first):
            if num_kept <= self._limits.num_responses and size_bytes <= self._limits.size_bytes:
                break
            dropped.append(response_id)
            num_kept, size_bytes = num_kept - 1, size_bytes - row_bytes
        for response_id in dropped:
            connection.execute(
                delete(responses).where(responses.c.tenant_id == tenant, responses.c.response_id == response_id)
            )
