"""Answers that any server of a database gives again: taken by one, kept sealed, within bounds."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from deepserve.core.tenant import TenantId
from deepserve.store.database import Database
from deepserve.store.replays import KeptReplay, ReplayLimits, ReplayStore
from deepserve.store.sealing import Sealer
from deepserve.store.tables import replays

A, B = TenantId("a"), TenantId("b")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
LIMITS = ReplayLimits(answers=3, size_bytes=100_000, age_s=3600.0)
SECRET = bytes(32)


class Servers:
    """Two on one database, with one clock."""

    def __init__(self, database: Database, limits: ReplayLimits = LIMITS) -> None:
        self.now = NOON
        self.one, self.other = (
            ReplayStore(database, Sealer(SECRET), owner=owner, limits=limits, lease_s=30.0, now=lambda: self.now)
            for owner in ("one", "other")
        )


def claim(store: ReplayStore, key: str = "k", tenant: TenantId = A, digest: bytes = b"d") -> KeptReplay | None:
    return store.claim(tenant, key, digest=digest, head=b"head")


def test_who_comes_first_answers_and_the_others_find_what_was_answered(database: Database) -> None:
    servers = Servers(database)
    assert claim(servers.one) is None
    running = KeptReplay(digest=b"d", head=b"head", answer=None)
    assert claim(servers.other) == servers.other.find(A, "k") == claim(servers.one) == running
    servers.one.finish(A, "k", b"answer")
    kept = KeptReplay(digest=b"d", head=b"head", answer=b"answer")
    assert claim(servers.other, digest=b"another's") == servers.other.find(A, "k") == kept
    assert claim(servers.other, tenant=B) is None, "each tenant's for itself"
    assert servers.other.find(A, "unknown") is None


def test_a_server_that_dies_leaves_its_keys_when_its_lease_has_run_out(database: Database) -> None:
    servers = Servers(database)
    claim(servers.one)
    servers.now += timedelta(seconds=20)
    servers.one.renew(A, "k")
    servers.other.renew(A, "k")  # not its own
    servers.now += timedelta(seconds=29)
    assert claim(servers.other) is not None
    servers.now += timedelta(seconds=1)
    assert servers.other.find(A, "k") is None
    assert claim(servers.other) is None
    servers.one.finish(A, "k", b"too late")
    servers.one.drop(A, "k")
    found = servers.one.find(A, "k")
    assert found is not None
    assert found.answer is None


def test_what_was_given_up_is_for_the_next_to_answer(database: Database) -> None:
    servers = Servers(database)
    claim(servers.one)
    servers.one.drop(A, "k")
    assert servers.other.find(A, "k") is None
    assert claim(servers.other) is None


def test_answers_are_kept_for_their_time_and_the_oldest_go_first(database: Database) -> None:
    servers = Servers(database)
    claim(servers.one, tenant=B)
    servers.one.finish(B, "k", b"another tenant's")
    for number in range(5):
        servers.now += timedelta(seconds=1)
        claim(servers.one, str(number))
        servers.one.finish(A, str(number), b"answer")
    assert [servers.other.find(A, str(number)) is not None for number in range(5)] == [False, False, True, True, True]
    assert servers.other.find(B, "k") is not None
    servers.now += timedelta(hours=1)
    assert servers.other.find(A, "4") is None
    claim(servers.one, "new")
    servers.one.finish(A, "new", b"answer")
    with database.connect() as connection:
        assert connection.execute(select(replays.c.key)).scalars().all() == ["new"]


def test_answers_are_kept_within_their_size_and_a_giant_pushes_nothing_out(database: Database) -> None:
    servers = Servers(database, ReplayLimits(answers=10, size_bytes=2500, age_s=3600.0))
    for number, size_bytes in enumerate((1000, 1000, 3000, 1000)):
        servers.now += timedelta(seconds=1)
        claim(servers.one, str(number))
        servers.one.finish(A, str(number), os.urandom(size_bytes))
    assert [servers.other.find(A, str(number)) is not None for number in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("words", [b"a confidential answer" * 10])
def test_the_database_holds_nothing_readable(words: bytes, database: Database) -> None:
    servers = Servers(database)
    servers.one.claim(A, "k", digest=b"d", head=words)
    servers.one.finish(A, "k", words)
    with database.connect() as connection:
        row = connection.execute(select(replays)).one()
    assert b"confidential" not in bytes(row.head) + bytes(row.answer)
    stranger = ReplayStore(database, Sealer(bytes(31) + b"x"), owner="x", limits=LIMITS, lease_s=30.0, now=lambda: NOON)
    assert stranger.find(A, "k") is None
