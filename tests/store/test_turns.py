"""Turns at rest: found by any of their names, by their tenant, within size and age."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from deepserve.core.tenant import TenantId
from deepserve.store.database import Database
from deepserve.store.tables import turn_names, turns
from deepserve.store.turns import TurnLimits, TurnStore
from tests.databases import Opener

ALICE, BOB = TenantId("alice"), TenantId("bob")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY_S = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def store_in(database: Database, clock: Clock | None = None, *, size_bytes: int = 1 << 20) -> TurnStore:
    limits = TurnLimits(size_bytes=size_bytes, age_s=7 * DAY_S)
    return TurnStore(database, limits=limits, now=clock or Clock())


def num_rows(database: Database) -> tuple[int, int]:
    with database.connect() as connection:
        counts = [connection.execute(select(func.count()).select_from(table)).scalar() for table in (turns, turn_names)]
    return counts[0] or 0, counts[1] or 0


def test_a_turn_is_found_by_each_of_its_names_also_by_the_next_server(database: Database) -> None:
    first = store_in(database)
    first.keep(ALICE, [b"a", b"b"], b"turn one")
    first.keep(ALICE, [b"c"], b"turn two")
    first.close()
    second = store_in(database)
    assert second.find(ALICE, [b"b", b"c", b"d"]) == {b"b": b"turn one", b"c": b"turn two"}
    assert second.find(ALICE, [b"a"]) == {b"a": b"turn one"}
    assert second.find(ALICE, []) == {}
    second.close()


def test_tenants_are_strangers(database: Database) -> None:
    store = store_in(database)
    store.keep(ALICE, [b"a"], b"hers")
    store.keep(BOB, [b"a"], b"his")
    store.close()
    assert store.find(ALICE, [b"a"]) == {b"a": b"hers"}
    assert store.find(BOB, [b"a"]) == {b"a": b"his"}
    assert store.find(TenantId("eve"), [b"a"]) == {}


def test_the_newest_turn_of_a_name_is_the_one_found(database: Database) -> None:
    store = store_in(database)
    store.keep(ALICE, [b"a", b"b"], b"old")
    store.keep(ALICE, [b"a", b"a"], b"new")
    store.close()
    assert store.find(ALICE, [b"a", b"b"]) == {b"a": b"new", b"b": b"old"}


def test_more_names_than_one_query_takes(database: Database) -> None:
    names = [number.to_bytes(16, "little") for number in range(1_201)]
    store = store_in(database)
    store.keep(ALICE, names, b"turn")
    store.close()
    assert len(store.find(ALICE, names)) == 1_201


def test_what_is_too_old_is_not_found_and_goes_with_its_names(database: Database) -> None:
    clock = Clock()
    store = store_in(database, clock)
    store.keep(ALICE, [b"a"], b"old")
    store.close()
    clock.now += timedelta(days=7)
    again = store_in(database, clock)
    assert again.find(ALICE, [b"a"]) == {}
    again.close()
    assert num_rows(database) == (0, 0)


def test_over_its_size_a_tenant_loses_its_own_oldest_turns(database: Database) -> None:
    store = store_in(database, size_bytes=4_000)
    store.keep(BOB, [b"b"], b"small")
    for number in range(10):
        store.keep(ALICE, [bytes([number])], os.urandom(1_000))
    store.close()
    assert sorted(store.find(ALICE, [bytes([number]) for number in range(10)])) == [bytes([7]), bytes([8]), bytes([9])]
    assert store.find(BOB, [b"b"]) == {b"b": b"small"}
    assert num_rows(database) == (4, 4)


def test_a_damaged_row_is_no_turn(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    store = store_in(database)
    store.keep(ALICE, [b"a"], b"turn")
    store.close()
    with database.begin() as connection:
        connection.execute(update(turns).values(turn=b"not compressed"))
    assert store.find(ALICE, [b"a"]) == {}
    assert "damaged" in caplog.text


def test_a_database_that_is_gone_costs_the_memory_and_not_the_answer(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    store = TurnStore(database, limits=TurnLimits(size_bytes=1, age_s=1), now=Clock())
    with database.begin() as connection:
        turns.drop(connection)
    store.keep(ALICE, [b"a"], b"turn")
    assert store.find(ALICE, [b"a"]) == {}
    store.close()
    assert "could not be written" in caplog.text
    assert "could not be read" in caplog.text
    with database.begin() as connection:
        turns.create(connection)


def test_two_servers_keep_turns_of_one_tenant_at_once(open_place: Opener) -> None:
    """Each replaced the other's names in its own order, and one of two servers found a name taken or a deadlock."""
    names = [number.to_bytes(16, "little") for number in range(40)]
    stores = [store_in(open_place(), size_bytes=4_000) for _ in range(2)]
    for number in range(10):
        for store, order in zip(stores, (names, names[::-1]), strict=True):
            store.keep(ALICE, order, os.urandom(1_000) + bytes([number]))
    for store in stores:
        store.close()
    found = stores[0].find(ALICE, names)
    assert sorted(found) == sorted(names)
    assert {turn[-1] for turn in found.values()} == {9}
    assert num_rows(open_place())[0] == 3
