"""Answers that may be asked for again under the same `Idempotency-Key`, at whichever server of a database.

A key is taken by the server that answers first, for as long as it renews its lease; the answer then stands beside it
for a while, sealed for its tenant. Each tenant keeps within a number and a size; the oldest go first.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, and_, delete, func, select, update

from deepserve.config import Settings
from deepserve.core.tenant import TenantId
from deepserve.store.database import Database, hold, insert_or_replace
from deepserve.store.deliveries import utc
from deepserve.store.sealing import Sealer
from deepserve.store.tables import replays


class ReplayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """For one tenant: most answers, most bytes of them as they are kept, and how long each is."""

    answers: int
    size_bytes: int
    age_s: float

    @classmethod
    def of(cls, settings: Settings) -> ReplayLimits:
        return cls(answers=settings.replay_answers, size_bytes=settings.replay_bytes, age_s=settings.replay_s)


class KeptReplay(msgspec.Struct, frozen=True, kw_only=True):
    """digest: tells the first request from others. answer: None while a server is at it."""

    digest: bytes
    head: bytes
    answer: bytes | None


class ReplayStore:
    """All methods block for a database's time. owner: the name of this server. now: the wall clock, in UTC."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        owner: str,
        limits: ReplayLimits,
        lease_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._owner = owner
        self._limits = limits
        self._now = now
        self.lease_s = lease_s

    def claim(self, tenant: TenantId, key: str, *, digest: bytes, head: bytes) -> KeptReplay | None:
        """What is there under the key; None: nothing, and it is this server's to answer now."""
        with self._database.begin() as connection:
            hold(connection, f"replay {key} of {tenant}")
            row = connection.execute(select(replays).where(_is(tenant, key))).one_or_none()
            now = self._now()
            if row is not None and utc(row.until) > now:
                return self._read(tenant, row.digest, row.head, row.answer)
            insert_or_replace(
                connection,
                replays,
                [
                    {
                        "tenant_id": tenant,
                        "key": key,
                        "digest": digest,
                        "head": self._sealer.seal_bytes(tenant, head),
                        "answer": None,
                        "size_bytes": 0,
                        "owner": self._owner,
                        "until": now + timedelta(seconds=self.lease_s),
                    }
                ],
            )
        return None

    def find(self, tenant: TenantId, key: str) -> KeptReplay | None:
        """None also where the server that was at it has given up, or died."""
        with self._database.connect() as connection:
            row = connection.execute(select(replays).where(_is(tenant, key))).one_or_none()
        if row is None or utc(row.until) <= self._now():
            return None
        return self._read(tenant, row.digest, row.head, row.answer)

    def renew(self, tenant: TenantId, key: str) -> None:
        """Keep the key while it is being answered."""
        with self._database.begin() as connection:
            connection.execute(
                update(replays)
                .where(self._mine(tenant, key))
                .values(until=self._now() + timedelta(seconds=self.lease_s))
            )

    def finish(self, tenant: TenantId, key: str, answer: bytes) -> None:
        """Put the answer beside its key, unless that was lost meanwhile or the answer is larger than all may be."""
        sealed = self._sealer.seal_bytes(tenant, answer)
        if len(sealed) > self._limits.size_bytes:
            self.drop(tenant, key)
            return
        until = self._now() + timedelta(seconds=self._limits.age_s)
        with self._database.begin() as connection:
            connection.execute(
                update(replays)
                .where(self._mine(tenant, key))
                .values(answer=sealed, size_bytes=len(sealed), until=until, owner=None)
            )
        self._make_room(tenant)

    def drop(self, tenant: TenantId, key: str) -> None:
        """Leave the key to whoever asks next."""
        with self._database.begin() as connection:
            connection.execute(delete(replays).where(self._mine(tenant, key)))

    def _make_room(self, tenant: TenantId) -> None:
        is_kept = and_(replays.c.tenant_id == tenant, replays.c.answer.is_not(None))
        with self._database.begin() as connection:
            hold(connection, "replays")
            connection.execute(delete(replays).where(replays.c.until <= self._now()))
            totals = select(func.count(), func.sum(replays.c.size_bytes)).where(is_kept)
            num_kept, size_bytes = connection.execute(totals).one()
            oldest_first = select(replays.c.key, replays.c.size_bytes).where(is_kept).order_by(replays.c.until)
            if num_kept <= self._limits.answers and (size_bytes or 0) <= self._limits.size_bytes:
                return
            for key, row_bytes in connection.execute(oldest_first).all():
                if num_kept <= self._limits.answers and size_bytes <= self._limits.size_bytes:
                    break
                connection.execute(delete(replays).where(_is(tenant, key)))
                num_kept, size_bytes = num_kept - 1, size_bytes - row_bytes

    def _mine(self, tenant: TenantId, key: str) -> ColumnElement[bool]:
        return and_(_is(tenant, key), replays.c.owner == self._owner)

    def _read(self, tenant: TenantId, digest: bytes, head: bytes, answer: bytes | None) -> KeptReplay | None:
        """None for what another secret has sealed: nobody can read it any more."""
        opened = self._sealer.unseal_bytes(tenant, head)
        if opened is None:
            return None
        found = None if answer is None else self._sealer.unseal_bytes(tenant, answer)
        return KeptReplay(digest=digest, head=opened, answer=found)


def _is(tenant: TenantId, key: str) -> ColumnElement[bool]:
    return and_(replays.c.tenant_id == tenant, replays.c.key == key)
