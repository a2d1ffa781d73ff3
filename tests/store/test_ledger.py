"""The ledger: durable, append-only, and true whatever the database does."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from sqlalchemy import Engine, event, inspect, select

from deepserve.config import LedgerLimits
from deepserve.core.errors import EngineFailure, StoreUnavailable
from deepserve.store.database import open_database
from deepserve.store.ledger import Ledger, LedgerRow
from deepserve.store.ledger_record import LedgerRecord
from deepserve.store.ledger_row import read_row
from deepserve.store.tables import ledger as ledger_table
from tests.databases import PostgresServer
from tests.store.ledger_rows import row

SOON = LedgerLimits(refuse_after_s=0.04, wait_s=0.08)
"""For databases that fail a test's whole length."""

PATIENCE_S = 10.0


def run(work: Callable[[], Any]) -> Any:  # Any: a coroutine's result
    return asyncio.run(asyncio.wait_for(work(), PATIENCE_S))


def written(engine: Engine) -> dict[str, LedgerRow]:
    with engine.connect() as connection:
        rows = [read_row(one) for one in connection.execute(select(ledger_table))]
    return {one.attempt_id.removeprefix("attempt-"): one for one in rows}


def journal(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("ledger-*.journal")) for line in path.read_text().splitlines()]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another program writes for the length of the block."""
    other = sqlite3.connect(folder / "deepserve.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def is_private(folder: Path) -> bool:
    [path] = folder.glob("ledger-*.journal")
    return os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - what threads do is announced to nobody
        await asyncio.sleep(0.005)


# What it is.


def test_the_row_has_the_columns_of_the_table() -> None:
    assert LedgerRow.__struct_fields__ == tuple(column.name for column in ledger_table.columns)


def test_a_row_is_durable_once_it_is_settled(database: Engine) -> None:
    async def work() -> None:
        ledger = Ledger(database, state_dir=None)
        await ledger.settle([row("one"), row("two", number=2, stated_pico_usd=77, ended_at=None)])
        assert written(database) == {
            "one": row("one"),
            "two": row("two", number=2, stated_pico_usd=77, ended_at=None),
        }
        ledger.close()

    run(work)


def test_what_nobody_waits_for_is_written_by_the_end(database: Engine) -> None:
    async def work() -> None:
        ledger = Ledger(database, state_dir=None)
        for number in range(2_500):
            ledger.settle([row(str(number))])
        ledger.close()

    run(work)
    assert len(written(database)) == 2_500


def test_rows_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    engine = open_database(tmp_path)
    commits: list[int] = []
    event.listen(engine, "commit", lambda connection: commits.append(1))

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        with locked(tmp_path):
            first = ledger.settle([row("first")])
            await asyncio.sleep(0.02)
            others = [ledger.settle([row(str(number))]) for number in range(200)]
        await asyncio.gather(first, *others)
        ledger.close()

    run(work)
    assert len(written(engine)) == 201
    assert len(commits) <= 4, "each row would have a commit of its own otherwise"


def test_the_log_of_sqlite_is_copied_while_rows_are_written(tmp_path: Path) -> None:
    """By the thread that writes them it would be at 64 MB, and whoever waits for a row would wait for the disk."""
    engine = open_database(tmp_path)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        for number in range(600):
            ledger.settle([row(str(number), served_by="x" * 2_000)])
            await asyncio.sleep(0)
        await until(lambda: (tmp_path / "deepserve.db").stat().st_size > 1_000_000)
        await ledger.settle([row("last")])
        ledger.close()

    run(work)
    assert len(written(engine)) == 601


def test_a_key_that_pays_is_booked_in_the_same_transaction(database: Engine) -> None:
    booked: list[tuple[str, str | None, int]] = []

    def book(connection: Any, rows: Any) -> None:  # Any: as `Booking` has them
        seen = connection.execute(select(ledger_table.c.attempt_id)).all()
        booked.extend((one.row.attempt_id, one.release, len(seen)) for one in rows)

    async def work() -> None:
        ledger = Ledger(database, state_dir=None, book=book)
        await ledger.settle([row("free"), row("paid", key_id="key")], release="reserved")
        ledger.close()

    run(work)
    assert booked == [("attempt-paid", "reserved", 2)]


# Append-only.


def test_an_attempt_is_never_recorded_twice(database: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        ledger = Ledger(database, state_dir=None)
        await ledger.settle([row("one")])
        again = ledger.settle([row("one", answer_tokens=99)])
        beside = ledger.settle([row("two")])
        with pytest.raises(EngineFailure, match="recorded"):
            await again
        await beside
        ledger.close()

    run(work)
    assert written(database) == {"one": row("one"), "two": row("two")}
    assert "an attempt was refused" in caplog.text


def test_a_row_that_was_written_after_all_is_no_fault(database: Engine) -> None:
    """A connection may break after the database has committed, and before it could say so."""

    async def work() -> None:
        ledger = Ledger(database, state_dir=None)
        await ledger.settle([row("one")])
        await asyncio.gather(ledger.settle([row("one")]), ledger.settle([row("two")]))
        ledger.close()

    run(work)
    assert set(written(database)) == {"one", "two"}


def test_a_row_that_no_database_takes_keeps_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_database(tmp_path)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        with locked(tmp_path):
            bad = ledger.settle([row("bad", hit_tokens=1 << 80)])
            good = ledger.settle([row("good")])
        await asyncio.gather(bad, good)
        ledger.close()

    run(work)
    assert set(written(engine)) == {"good"}
    assert not list(tmp_path.glob("ledger-*")), "it is not tried for ever"
    assert str(1 << 80) in caplog.text, "what was not recorded is in the log"


def test_nothing_changes_or_removes_a_row(tmp_path: Path) -> None:
    """Of all that is ever said to the database, in good times and bad ones."""
    engine = open_database(tmp_path)
    said: list[str] = []
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: connection.set_trace_callback(said.append))

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path, limits=SOON)
        await ledger.settle([row("one")])
        with locked(tmp_path):
            await ledger.settle([row("late")])
        await until(lambda: "late" in written(engine))
        ledger.settle([row("one", model="other")]).add_done_callback(lambda future: future.exception())
        ledger.close()

    run(work)
    record = LedgerRecord(engine)
    list(record.rows())
    record.sums(("day",))
    touching = [one for one in said if "ledger" in one.lower()]
    assert any(one.startswith("INSERT INTO ledger") for one in touching)
    assert all(re.match(r"\s*(INSERT INTO ledger |SELECT )", one) for one in touching), touching


def test_no_module_updates_or_deletes_rows_of_the_ledger() -> None:
    root = Path(__file__).parents[2] / "src" / "deepserve"
    changing = re.compile(r"(update|delete)\(\s*ledger\b|(UPDATE|DELETE FROM|REPLACE INTO|DROP TABLE)\s+ledger\b")
    found = [path for path in root.rglob("*.py") if changing.search(path.read_text())]
    assert found == []


# A database that does not do its work.


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_while_the_database_is_locked_answers_end_and_new_ones_are_refused(
    tmp_path: Path, sync: Literal["normal", "full"]
) -> None:
    engine = open_database(tmp_path)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path, limits=msgspec.structs.replace(SOON, sync=sync))
        with locked(tmp_path):
            waiting = ledger.settle([row("waiting")])
            ledger.check()
            await until(lambda: bool(ledger.gauges()["ledger_is_refusing"]))
            with pytest.raises(StoreUnavailable) as caught:
                ledger.check()
            assert caught.value.retry_after_s > 0
            await waiting
            assert len(journal(tmp_path)) == 1
            assert is_private(tmp_path)
        await until(lambda: not ledger.gauges()["ledger_is_refusing"])
        ledger.check()
        await ledger.settle([row("after")])
        ledger.close()

    run(work)
    assert written(engine) == {"waiting": row("waiting"), "after": row("after")}
    assert not list(tmp_path.glob("ledger-*")), "an empty file is removed"


def test_a_lock_that_is_short_is_waited_for_where_a_commit_must_be(tmp_path: Path) -> None:
    engine = open_database(tmp_path)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path, limits=LedgerLimits(sync="full"))
        with locked(tmp_path):
            waiting = ledger.settle([row("one")])
            await asyncio.sleep(0.05)
            assert not waiting.done()
            ledger.check()
        await waiting
        ledger.close()

    run(work)
    assert set(written(engine)) == {"one"}
    assert not list(tmp_path.glob("ledger-*"))


def test_a_full_database_loses_no_row(tmp_path: Path) -> None:
    engine = open_database(tmp_path)
    is_full = True

    def bound(connection: sqlite3.Connection, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0] if is_full else 1 << 30
        connection.execute(f"PRAGMA max_page_count={pages}")

    engine.dispose()
    event.listen(engine, "connect", bound)
    rows = [row(str(number), served_by="x" * 2_000) for number in range(40)]

    async def work() -> None:
        nonlocal is_full
        ledger = Ledger(engine, state_dir=tmp_path, limits=SOON)
        await asyncio.gather(*(ledger.settle([one]) for one in rows))
        await until(lambda: ledger.gauges()["ledger_spilled"] > 0)
        with pytest.raises(StoreUnavailable):
            ledger.check()
        is_full = False
        await until(lambda: not ledger.gauges()["ledger_is_refusing"])
        ledger.close()

    run(work)
    assert written(engine) == {one.attempt_id.removeprefix("attempt-"): one for one in rows}


def test_a_database_that_cannot_be_written_to_loses_no_row(tmp_path: Path) -> None:
    """As in a directory that has become read-only."""
    engine = open_database(tmp_path)
    engine.dispose()
    is_read_only = True
    event.listen(engine, "connect", lambda connection, _: connection.execute(f"PRAGMA query_only={int(is_read_only)}"))

    async def work() -> None:
        nonlocal is_read_only
        ledger = Ledger(engine, state_dir=tmp_path, limits=SOON)
        await ledger.settle([row("one")])
        await until(lambda: bool(ledger.gauges()["ledger_is_refusing"]))
        with pytest.raises(StoreUnavailable):
            ledger.check()
        is_read_only = False
        await until(lambda: not ledger.gauges()["ledger_is_refusing"])
        ledger.close()

    run(work)
    assert written(engine) == {"one": row("one")}


def test_where_no_file_can_be_written_either_rows_stay_in_memory_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_database(tmp_path)
    no_folder = tmp_path / "deepserve.db" / "below-a-file"

    async def work() -> None:
        ledger = Ledger(engine, state_dir=no_folder, limits=SOON)
        with locked(tmp_path), caplog.at_level(logging.CRITICAL):
            await ledger.settle([row("one")])
            assert "attempt-one" in caplog.text
            with pytest.raises(StoreUnavailable):
                ledger.check()
        await until(lambda: not ledger.gauges()["ledger_is_refusing"])
        ledger.close()

    run(work)
    assert written(engine) == {"one": row("one")}


def test_a_database_that_hangs_counts_a_row_once(tmp_path: Path) -> None:
    """The row is in the journal while the commit hangs, and the commit succeeds all the same."""
    engine = open_database(tmp_path)
    may_go_on, hangs = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        hangs.set()
        may_go_on.wait(PATIENCE_S)

    event.listen(engine, "commit", hang)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path, limits=SOON)
        await ledger.settle([row("one")])
        await until(lambda: hangs.is_set() and bool(ledger.gauges()["ledger_is_refusing"]))
        assert len(journal(tmp_path)) == 1
        with pytest.raises(StoreUnavailable):
            ledger.check()
        may_go_on.set()
        await until(lambda: not ledger.gauges()["ledger_is_refusing"])
        ledger.close()

    run(work)
    assert written(engine) == {"one": row("one")}


def test_a_fault_of_our_own_keeps_rows_and_the_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_database(tmp_path)
    faults = [RuntimeError("a mistake"), KeyError("another")]

    def book(connection: Any, rows: Any) -> None:  # Any: as `Booking` has them
        if faults:
            raise faults.pop()

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path, book=book)
        await ledger.settle([row("one", key_id="key")], release="reserved")
        await ledger.settle([row("two")])
        ledger.close()

    run(work)
    assert set(written(engine)) == {"one", "two"}
    assert "KeyError" in caplog.text


def test_more_rows_than_may_wait_refuse_new_requests(tmp_path: Path) -> None:
    engine = open_database(tmp_path)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path, limits=LedgerLimits(waiting_rows=3))
        with locked(tmp_path):
            waiting = []
            for number in range(3):
                ledger.check()
                waiting.append(ledger.settle([row(str(number))]))
            with pytest.raises(StoreUnavailable):
                ledger.check()
        await asyncio.gather(*waiting)
        await until(lambda: ledger.gauges()["ledger_waiting"] == 0)
        ledger.settle([row("next")])
        ledger.close()

    run(work)
    assert len(written(engine)) == 4


def test_a_server_that_stops_leaves_its_rows_to_the_next(tmp_path: Path) -> None:
    engine = open_database(tmp_path)

    async def stop() -> None:
        ledger = Ledger(engine, state_dir=tmp_path, limits=LedgerLimits(wait_s=0.4))
        with locked(tmp_path):
            ledger.settle([row("one"), row("two")], release="reserved")
            ledger.settle([row("three")])
            await asyncio.to_thread(ledger.close)
        assert len(journal(tmp_path)) == 3

    async def start() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        await until(lambda: len(written(engine)) == 3)
        await until(lambda: not journal(tmp_path))
        ledger.close()

    run(stop)
    run(start)
    assert set(written(engine)) == {"one", "two", "three"}


def test_a_row_that_comes_after_the_end_is_not_lost(tmp_path: Path) -> None:
    engine = open_database(tmp_path)

    async def end() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        ledger.close()
        await ledger.settle([row("late")])

    async def start() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        await until(lambda: "late" in written(engine))
        ledger.close()

    run(end)
    assert len(journal(tmp_path)) == 1
    run(start)


# The journal.


def test_an_answer_waits_for_the_journal_and_its_reservation_for_the_database(tmp_path: Path) -> None:
    """What is not reserved any more must be booked, or a budget could be spent twice."""
    engine = open_database(tmp_path)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        with locked(tmp_path):
            reserved = ledger.settle([row("reserved", key_id="key")], release="reservation")
            await ledger.settle([row("free")])
            assert not reserved.done()
            assert len(journal(tmp_path)) == 2
        await reserved
        assert set(written(engine)) == {"reserved", "free"}
        ledger.close()

    run(work)
    assert not list(tmp_path.glob("ledger-*"))


def test_who_reads_sees_what_has_ended(tmp_path: Path) -> None:
    engine = open_database(tmp_path)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        record = LedgerRecord(engine, catch_up=ledger.catch_up)
        for number in range(20):
            await ledger.settle([row(str(number))])
            assert len(await asyncio.to_thread(lambda: list(record.rows()))) == number + 1
        assert journal(tmp_path) == [], "all are in the database"
        ledger.close()

    run(work)


def test_the_journal_is_not_written_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that always has something to do leaves no moment in which the file could be emptied."""
    monkeypatch.setattr("deepserve.store.ledger._JOURNAL_BYTES", 1_000)
    engine = open_database(tmp_path)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path)
        with locked(tmp_path):
            await ledger.settle([row("one")])
            await ledger.settle([row("two")])
            three = ledger.settle([row("three")])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (len(journal(tmp_path)), three.done()) == (2, False)
        await three
        assert journal(tmp_path) == []
        await ledger.settle([row("four")])
        assert len(journal(tmp_path)) == 1
        ledger.close()

    run(work)
    assert len(written(engine)) == 4


def test_a_server_that_is_killed_before_the_commit_loses_no_row(tmp_path: Path) -> None:
    """A process of its own, whose database is locked, so that it can only have written to the journal."""
    engine = open_database(tmp_path)
    program = f"""
import asyncio, os, signal
from pathlib import Path
from deepserve.store.database import open_database
from deepserve.store.ledger import Ledger
from tests.store.ledger_rows import row

async def work():
    folder = Path({str(tmp_path)!r})
    ledger = Ledger(open_database(folder), state_dir=folder)
    await asyncio.gather(*(ledger.settle([row(str(number))]) for number in range(5)))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(work())
"""
    with locked(tmp_path):
        ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
        assert ended.returncode == -signal.SIGKILL
    assert written(engine) == {}
    [path] = tmp_path.glob("ledger-*.journal")
    left = path.read_bytes()
    Ledger(engine, state_dir=tmp_path).close()
    assert set(written(engine)) == {str(number) for number in range(5)}
    # Killed once more, after the commit and before the file was removed; its last row had been torn.
    path.write_bytes(left[:-40])
    Ledger(engine, state_dir=tmp_path).close()
    assert len(written(engine)) == 5
    assert not list(tmp_path.glob("ledger-*"))


def test_a_row_that_no_database_takes_keeps_no_other_that_was_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_database(tmp_path)
    late = Ledger(engine, state_dir=tmp_path)
    late.close()

    async def leave() -> None:
        late.settle([row("bad", hit_tokens=1 << 63), row("good")])

    run(leave)
    assert len(journal(tmp_path)) == 2
    Ledger(engine, state_dir=tmp_path).close()
    assert set(written(engine)) == {"good"}
    assert str(1 << 63) in caplog.text, "what was not recorded is in the log"


def test_a_postgresql_server_that_dies_loses_no_row(
    postgres_server: PostgresServer, postgres_place: str, tmp_path: Path
) -> None:
    engine = open_database(postgres_place)

    async def work() -> None:
        ledger = Ledger(engine, state_dir=tmp_path, limits=SOON)
        await ledger.settle([row("before")])
        postgres_server.stop(at_once=True)
        try:
            await ledger.settle([row("during")])
            with pytest.raises(StoreUnavailable):
                ledger.check()
        finally:
            postgres_server.start()
        await until(lambda: not ledger.gauges()["ledger_is_refusing"])
        await ledger.settle([row("after")])
        ledger.close()

    run(work)
    assert set(written(engine)) == {"before", "during", "after"}
    engine.dispose()


def test_power_safety_is_that_of_the_disk(tmp_path: Path) -> None:
    engine = open_database(tmp_path)
    levels: list[int] = []

    def look(connection: Any, *_: object) -> None:  # Any: SQLAlchemy's connection
        levels.append(connection.connection.dbapi_connection.execute("PRAGMA synchronous").fetchone()[0])

    event.listen(engine, "commit", look)

    async def work(sync: Literal["normal", "full"]) -> None:
        ledger = Ledger(engine, state_dir=tmp_path, limits=LedgerLimits(sync=sync))
        await ledger.settle([row(sync)])
        ledger.close()

    run(partial(work, "normal"))
    run(partial(work, "full"))
    assert levels == [1, 2], "NORMAL, then FULL"


def test_the_database_itself_knows_attempts_apart(database: Engine) -> None:
    assert inspect(database).get_pk_constraint("ledger")["constrained_columns"] == ["attempt_id"]


def test_a_row_survives_the_journal() -> None:
    one = row("one", stated_pico_usd=1, checked="checked=valid", route="a=b", key_id="key")
    assert msgspec.json.decode(msgspec.json.encode(one), type=LedgerRow) == one
