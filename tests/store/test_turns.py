"""Turns on disk: found by any of their names, by their tenant, within size and age."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from deepserve.core.tenant import TenantId
from deepserve.store.database import open_database
from deepserve.store.tables import turn_names, turns
from deepserve.store.turns import TurnLimits, TurnStore

ALICE, BOB = TenantId("alice"), TenantId("bob")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY_S = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def store_at(folder: Path, clock: Clock | None = None, *, size_bytes: int = 1 << 20) -> TurnStore:
    limits = TurnLimits(size_bytes=size_bytes, age_s=7 * DAY_S)
    return TurnStore(open_database(folder), limits=limits, now=clock or Clock())


def num_rows(folder: Path) -> tuple[int, int]:
    with open_database(folder).connect() as connection:
        counts = [connection.execute(select(func.count()).select_from(table)).scalar() for table in (turns, turn_names)]
    return counts[0] or 0, counts[1] or 0


def test_a_turn_is_found_by_each_of_its_names_also_by_the_next_server(tmp_path: Path) -> None:
    first = store_at(tmp_path)
    first.keep(ALICE, [b"a", b"b"], b"turn one")
    first.keep(ALICE, [b"c"], b"turn two")
    first.close()
    second = store_at(tmp_path)
    assert second.find(ALICE, [b"b", b"c", b"d"]) == {b"b": b"turn one", b"c": b"turn two"}
    assert second.find(ALICE, [b"a"]) == {b"a": b"turn one"}
    assert second.find(ALICE, []) == {}
    second.close()


def test_tenants_are_strangers(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.keep(ALICE, [b"a"], b"hers")
    store.keep(BOB, [b"a"], b"his")
    store.close()
    assert store.find(ALICE, [b"a"]) == {b"a": b"hers"}
    assert store.find(BOB, [b"a"]) == {b"a": b"his"}
    assert store.find(TenantId("eve"), [b"a"]) == {}


def test_the_newest_turn_of_a_name_is_the_one_found(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.keep(ALICE, [b"a", b"b"], b"old")
    store.keep(ALICE, [b"a", b"a"], b"new")
    store.close()
    assert store.find(ALICE, [b"a", b"b"]) == {b"a": b"new", b"b": b"old"}


def test_more_names_than_one_query_takes(tmp_path: Path) -> None:
    names = [number.to_bytes(16, "little") for number in range(1_201)]
    store = store_at(tmp_path)
    store.keep(ALICE, names, b"turn")
    store.close()
    assert len(store.find(ALICE, names)) == 1_201


def test_what_is_too_old_is_not_found_and_goes_with_its_names(tmp_path: Path) -> None:
    clock = Clock()
    store = store_at(tmp_path, clock)
    store.keep(ALICE, [b"a"], b"old")
    store.close()
    clock.now += timedelta(days=7)
    again = store_at(tmp_path, clock)
    assert again.find(ALICE, [b"a"]) == {}
    again.close()
    assert num_rows(tmp_path) == (0, 0)


def test_over_its_size_a_tenant_loses_its_own_oldest_turns(tmp_path: Path) -> None:
    store = store_at(tmp_path, size_bytes=4_000)
    store.keep(BOB, [b"b"], b"small")
    for number in range(10):
        store.keep(ALICE, [bytes([number])], os.urandom(1_000))
    store.close()
    assert sorted(store.find(ALICE, [bytes([number]) for number in range(10)])) == [bytes([7]), bytes([8]), bytes([9])]
    assert store.find(BOB, [b"b"]) == {b"b": b"small"}
    assert num_rows(tmp_path) == (4, 4)


def test_a_damaged_row_is_no_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_at(tmp_path)
    store.keep(ALICE, [b"a"], b"turn")
    store.close()
    with open_database(tmp_path).begin() as connection:
        connection.execute(update(turns).values(turn=b"not compressed"))
    assert store.find(ALICE, [b"a"]) == {}
    assert "damaged" in caplog.text


def test_a_database_that_is_gone_costs_the_memory_and_not_the_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database(tmp_path)
    store = TurnStore(database, limits=TurnLimits(size_bytes=1, age_s=1), now=Clock())
    with database.begin() as connection:
        turns.drop(connection)
    store.keep(ALICE, [b"a"], b"turn")
    assert store.find(ALICE, [b"a"]) == {}
    store.close()
    assert "could not be written" in caplog.text
    assert "could not be read" in caplog.text
