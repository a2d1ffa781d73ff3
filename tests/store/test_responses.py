"""The shelf of responses: found at once, bounded, each tenant for itself."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from deepserve.core.tenant import TenantId
from deepserve.store.database import Database
from deepserve.store.responses import ResponseStore, ShelfLimits
from tests.databases import Opener

ALICE, BOB = TenantId("alice"), TenantId("bob")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


_opened: list[ResponseStore] = []


@pytest.fixture(autouse=True)
def _closed(database: Database) -> Iterator[None]:
    yield
    for shelf in _opened:
        shelf.close()
    _opened.clear()


def store(database: Database | None, *, limits: ShelfLimits | None = None, start: datetime = NOON) -> ResponseStore:
    """Each look at the clock is a second later."""
    seconds = itertools.count()
    shelf = ResponseStore(
        database,
        limits=limits or ShelfLimits(),
        now=lambda: start + timedelta(seconds=next(seconds)),
    )
    _opened.append(shelf)
    return shelf


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_response_is_found_by_its_tenant_only_and_deleted_once(is_durable: bool, database: Database) -> None:
    shelf = store(database if is_durable else None)
    shelf.keep(ALICE, "resp_1", b"record")
    assert shelf.find(ALICE, "resp_1") == b"record"
    shelf.close()
    assert shelf.find(ALICE, "resp_1") == b"record"
    assert shelf.find(BOB, "resp_1") is None
    assert not shelf.delete(BOB, "resp_1")
    assert shelf.delete(ALICE, "resp_1")
    assert not shelf.delete(ALICE, "resp_1")
    assert shelf.find(ALICE, "resp_1") is None


def test_what_was_kept_outlives_the_process_that_kept_it(database: Database) -> None:
    first = store(database)
    first.keep(ALICE, "resp_1", b"record")
    first.close()
    assert store(database).find(ALICE, "resp_1") == b"record"


def test_the_oldest_go_when_there_are_too_many(database: Database) -> None:
    shelf = store(database, limits=ShelfLimits(num_responses=2))
    shelf.keep(BOB, "resp_0", b"bob's")
    for name in ("resp_1", "resp_2", "resp_3"):
        shelf.keep(ALICE, name, b"alice's")
    shelf.close()
    assert [shelf.find(ALICE, f"resp_{n}") is None for n in (1, 2, 3)] == [True, False, False]
    assert shelf.find(BOB, "resp_0") == b"bob's"


def test_the_oldest_go_when_they_are_too_large(database: Database) -> None:
    shelf = store(database, limits=ShelfLimits(size_bytes=2500))
    for name in ("resp_1", "resp_2", "resp_3"):
        shelf.keep(ALICE, name, os.urandom(1000))
    shelf.close()
    assert [shelf.find(ALICE, f"resp_{n}") is None for n in (1, 2, 3)] == [True, False, False]


def test_a_response_past_its_age_is_neither_found_nor_left_on_disk(database: Database) -> None:
    young = store(database, limits=ShelfLimits(age_s=60))
    young.keep(ALICE, "resp_1", b"record")
    young.close()
    later = store(database, limits=ShelfLimits(age_s=60), start=NOON + timedelta(hours=1))
    assert later.find(ALICE, "resp_1") is None
    later.keep(ALICE, "resp_2", b"record")
    later.close()
    assert store(database, start=NOON).find(ALICE, "resp_1") is None


def test_a_server_that_is_to_keep_nothing_deletes_what_was_kept(database: Database) -> None:
    before = store(database)
    before.keep(ALICE, "resp_1", b"record")
    before.close()
    store(database, limits=ShelfLimits(num_responses=0)).close()
    assert store(database).find(ALICE, "resp_1") is None


def test_deleting_what_is_not_yet_written_leaves_nothing_behind(database: Database) -> None:
    shelf = store(database)
    with shelf._database_lock:  # the writer waits here
        shelf.keep(ALICE, "resp_1", b"record")
        shelf._waiting.clear()
    shelf.close()
    assert shelf.find(ALICE, "resp_1") is None


def test_an_id_that_is_kept_stays_as_it_was() -> None:
    """A repeated request with the same idempotency key encodes the same answer once more."""
    shelf = store(None)
    shelf.keep(ALICE, "resp_1", b"first")
    shelf.flush()
    shelf.keep(ALICE, "resp_1", b"second")
    shelf.close()
    assert shelf.find(ALICE, "resp_1") == b"first"


@pytest.mark.parametrize("limits", [ShelfLimits(num_responses=0), ShelfLimits(size_bytes=0), ShelfLimits(age_s=0)])
def test_a_shelf_without_room_keeps_nothing_and_says_so(limits: ShelfLimits) -> None:
    shelf = store(None, limits=limits)
    shelf.keep(ALICE, "resp_1", b"record")
    assert shelf.find(ALICE, "resp_1") is None
    assert not shelf.can_keep


@pytest.mark.parametrize("name", ["resp_\0", "resp_\ud800"])
def test_names_that_no_database_can_hold_are_not_found(name: str, database: Database) -> None:
    shelf = store(database)
    assert shelf.find(ALICE, name) is None
    assert not shelf.delete(ALICE, name)


def test_two_servers_keep_responses_at_once_within_the_limits(open_place: Opener) -> None:
    shelves = [store(open_place(), limits=ShelfLimits(num_responses=3)) for _ in range(2)]
    for number in range(10):
        for shelf in shelves:
            shelf.keep(ALICE, f"resp_{number}", b"the same of both")
    for shelf in shelves:
        shelf.close()
    reader = store(open_place())
    assert sum(reader.find(ALICE, f"resp_{number}") is not None for number in range(10)) == 3
    assert reader.find(ALICE, "resp_9") == b"the same of both"
