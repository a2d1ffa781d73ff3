"""The one thread that writes the ledger: whatever waits while it commits goes into the next commit.

A row that somebody waits for does not wait for company: it is committed at once, and under load the groups grow by
themselves. Rows that are safe in the journal already are left alone for a moment, for a commit costs more than a row.
What the database does not take is tried again and again; `ledger` decides how long a client waits for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import DataError, IntegrityError

from deepserve.core.errors import EngineFailure
from deepserve.store.checkpoints import Checkpoints
from deepserve.store.database import FAULTS
from deepserve.store.journal import Batch, Journal, Unwritten
from deepserve.store.ledger_row import LedgerRow, read_row
from deepserve.store.sqlite_driver import REFUSALS, driver_of, spell_instant
from deepserve.store.tables import ledger

_log = logging.getLogger(__name__)

Booking = Callable[[Connection, Sequence[Unwritten]], None]
"""Writes down elsewhere what rows mean for budgets, in the transaction that writes these rows."""

_MAX_ROWS_PER_COMMIT: Final = 1_000
_MAX_ROWS_PER_STATEMENT: Final = 64
"""Of 31 values each: SQLite takes 32,766 values at most."""

_BUSY_MS: Final = 250
"""So long the thread waits for another writer within SQLite, before it looks at what else there is to do."""

_LOG_PAGES: Final = 16_000
"""Of SQLite's log, 64 MB, before this thread copies them into its file: `Checkpoints` does it earlier, beside it."""

_RETRY_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0)
_REFUSALS: Final = (IntegrityError, DataError, *REFUSALS)
"""What says that the same row will never be taken."""

_LOOK_S: Final = 0.25
"""How often it is tried whether the database takes what processes left that are no more."""


class LedgerWriter:
    """Takes batches from event loops and tells these when they are durable.

    journal        what is recorded is forgotten there
    gather_s       so long rows may wait for others that nobody waits for
    is_power_safe  wait for the disk at every commit
    book           see `Booking`; None: nobody wants to know
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal | None,
        *,
        gather_s: float = 0.0,
        is_power_safe: bool = False,
        book: Booking | None = None,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._gather_s = gather_s
        self._is_power_safe = is_power_safe
        self._book = book
        self._is_sqlite = engine.dialect.name == "sqlite"
        file = engine.url.database if self._is_sqlite else None
        self._checkpoints = Checkpoints(file) if file not in (None, "", ":memory:") else None
        self._queue: queue.SimpleQueue[Sequence[Batch] | threading.Event | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._num_put = self._num_taken = 0
        self._connection: Connection | None = None
        self._closing = threading.Event()
        self._left: Sequence[Batch] = ()
        self._has_left_behind = journal is not None
        self.problem: str | None = None
        """Why the last commit failed; None once one has succeeded."""
        self._thread = threading.Thread(target=self._run, name="deepserve-ledger", daemon=True)
        self._thread.start()

    def put(self, batches: Sequence[Batch], *, is_awaited: bool = True) -> None:
        """is_awaited: by somebody, so that it must not be left alone for a moment."""
        self._num_put += 1
        self._queue.put(batches)
        if is_awaited:
            self._hurry.set()

    def catch_up(self, timeout_s: float) -> None:
        """Return once the database has what was put before, or after this time. From any thread but an event loop's."""
        if self._num_taken == self._num_put or self._closing.is_set():
            return
        reached = threading.Event()
        self._queue.put(reached)
        self._hurry.set()
        reached.wait(timeout_s)

    def close(self, timeout_s: float) -> Sequence[Batch]:
        """Write what waits and stop. Returns what the database did not take within this time."""
        self._closing.set()
        self._queue.put(None)
        self._hurry.set()
        self._thread.join(timeout_s)
        if self._checkpoints is not None:
            self._checkpoints.close(timeout_s)
        left = list(self._left)
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return left
            if isinstance(item, threading.Event):
                item.set()
            else:
                left += item or ()

    # The thread.

    def _run(self) -> None:
        is_open = True
        while is_open:
            if self._has_left_behind:
                self._guarded(self._load_left_behind)
            try:
                item = self._queue.get(timeout=_LOOK_S if self._has_left_behind else None)
            except queue.Empty:
                continue
            if self._gather_s:
                self._hurry.wait(self._gather_s)
            self._hurry.clear()
            group: list[Batch] = []
            reached: list[threading.Event] = []
            num_rows = num_taken = 0
            while item is not None:
                if isinstance(item, threading.Event):
                    reached.append(item)
                else:
                    group += item
                    num_taken += 1
                    num_rows += sum(len(batch.rows) for batch in item)
                if num_rows >= _MAX_ROWS_PER_COMMIT:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._write(group)
            self._num_taken += num_taken
            for event in reached:
                event.set()
            is_open = item is not None and not (self._left and self._closing.is_set())
        self._disconnect()

    def _write(self, group: Sequence[Batch]) -> None:
        """Until the database has taken the group, or nobody waits for that any more. `_left` is what is then left."""
        attempt = 0
        while group:
            self._left = group
            try:
                self._commit(group)
            except _REFUSALS:
                self._disconnect()
                self._write_apart(group)
                return
            except Exception as error:  # noqa: BLE001 - rows are kept whatever it is; it is logged, and tried again
                self._disconnect()
                if self.problem is None:
                    is_known = isinstance(error, (*FAULTS, sqlite3.OperationalError))
                    reason = _reason(error)
                    _log.error("ledger: rows cannot be written and are kept: %s", reason, exc_info=not is_known)
                self.problem = _reason(error)
                if self._closing.wait(_RETRY_S[min(attempt, len(_RETRY_S) - 1)]) and attempt > 0:
                    return
                attempt += 1
                continue
            if self.problem is not None:
                self.problem = None
                _log.warning("ledger: rows are written again")
            self._resolve(group)
            if self._checkpoints is not None:
                self._checkpoints.note_written(sum(len(batch.rows) for batch in group))
            break
        self._left = ()

    def _write_apart(self, group: Sequence[Batch]) -> None:
        """One row that the database refuses must not keep the others."""
        if len(group) > 1:
            for position, batch in enumerate(group):
                self._write((batch,))
                if self._left:  # closing
                    self._left = (*self._left, *group[position + 1 :])
                    return
            return
        [batch] = group
        try:
            refused = [one.row for one in batch.unwritten() if not self._is_taken(one)]
        except Exception as error:  # noqa: BLE001 - the database went away meanwhile: as any row, it is tried again
            self.problem = _reason(error)
            self._disconnect()
            self._write(group)
            return
        self._left = ()
        for row in refused:
            _tell_refused(row)
        if refused:
            self._refuse(batch)
        else:
            self._resolve(group)

    def _is_taken(self, one: Unwritten) -> bool:
        """Whether a row could be inserted, or is there: the database may have gone away after it had committed."""
        try:
            with self._transaction() as connection:
                self._insert(connection, [one.row])
                if self._book is not None:
                    self._book(connection, [one])
            return True
        except _REFUSALS:
            self._disconnect()
        with self._engine.connect() as connection:
            found = connection.execute(select(ledger).where(ledger.c.attempt_id == one.row.attempt_id)).one_or_none()
        return found is not None and read_row(found) == one.row

    def _commit(self, group: Sequence[Batch]) -> None:
        rows = group[0].rows if len(group) == 1 else [row for batch in group for row in batch.rows]
        # Only keys have budgets, and most servers have no keys.
        booked = [
            Unwritten(row, batch.release)
            for batch in (group if self._book is not None else ())
            for row in batch.rows
            if row.key_id is not None
        ]
        if not booked and len(rows) <= _MAX_ROWS_PER_STATEMENT:
            # One statement is a transaction by itself, and waits for Python's lock once and not three times.
            connection = self._connected()
            with connection.begin():
                self._insert(connection, rows)
            return
        with self._transaction() as connection:
            self._insert(connection, rows)
            if booked and self._book is not None:
                self._book(connection, booked)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Of several statements. SQLite's connection is in autocommit mode otherwise."""
        connection = self._connected()
        with connection.begin():
            driver = driver_of(connection)
            if driver is not None:
                driver.execute("BEGIN IMMEDIATE")
            yield connection
            if driver is not None:
                driver.execute("COMMIT")

    def _insert(self, connection: Connection, rows: Sequence[LedgerRow]) -> None:
        if not rows:
            return
        driver = driver_of(connection)
        if driver is None:
            connection.execute(insert(ledger), [msgspec.structs.asdict(row) for row in rows])
            return
        # One statement for many rows gives Python's lock away once, and not with each row.
        for first in range(0, len(rows), _MAX_ROWS_PER_STATEMENT):
            part = rows[first : first + _MAX_ROWS_PER_STATEMENT]
            values = [value for row in part for value in _sqlite_values(row)]
            driver.execute(_sqlite_insert(len(part)), values)

    def _resolve(self, group: Sequence[Batch]) -> None:
        """Tell the event loops, with one call for each."""
        self._forget(group)
        waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for batch in group:
            if not batch.future.done():
                waiting.setdefault(batch.future.get_loop(), []).append(batch.future)
        for loop, futures in waiting.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(_end, futures)

    def _refuse(self, batch: Batch) -> None:
        self._forget((batch,))
        with contextlib.suppress(RuntimeError):
            batch.future.get_loop().call_soon_threadsafe(_fail, batch.future)

    def _forget(self, group: Sequence[Batch]) -> None:
        if self._journal is not None:
            self._journal.forget(group)
            return
        for batch in group:
            batch.is_recorded = True

    def _load_left_behind(self) -> None:
        assert self._journal is not None
        num_rows = self._journal.load_left_behind(self._restore)
        self._has_left_behind = False
        if num_rows:
            self.problem = None
            _log.warning("ledger: %d rows that another process left in files are written now", num_rows)

    def _restore(self, waiting: Sequence[Unwritten]) -> None:
        """But for what had been written after all."""
        try:
            self._restore_together(waiting)
        except _REFUSALS:
            self._disconnect()
            for one in waiting:
                if not self._is_taken(one):
                    _tell_refused(one.row)

    def _restore_together(self, waiting: Sequence[Unwritten]) -> None:
        with self._transaction() as connection:
            for first in range(0, len(waiting), 500):
                part = waiting[first : first + 500]
                ids = [one.row.attempt_id for one in part]
                query = select(ledger.c.attempt_id).where(ledger.c.attempt_id.in_(ids))
                known = set(connection.execute(query).scalars())
                missing = [one for one in part if one.row.attempt_id not in known]
                self._insert(connection, [one.row for one in missing])
                if self._book is not None:
                    self._book(connection, missing)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the file stays, and is tried again
            self._disconnect()
            if self.problem is None:
                _log.error("ledger: rows that wait in files cannot be written: %s", _reason(error))
            self.problem = _reason(error)

    # The connection.

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect()
            if self._is_sqlite:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MS}")
                connection.exec_driver_sql(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
                connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if self._is_power_safe else 'NORMAL'}")
                connection.rollback()
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                # Its settings are no others' in a pool.
                connection.invalidate()
                connection.close()
            except FAULTS:
                _log.debug("ledger: a connection could not be closed", exc_info=True)


def _end(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _fail(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(EngineFailure("The answer could not be recorded. It has been logged."))


def _tell_refused(row: LedgerRow) -> None:
    _log.critical("ledger: an attempt was refused: %s", msgspec.json.encode(row).decode())


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    return " ".join(str(cause).split())[:300]


_NAMES: Final = tuple(column.name for column in ledger.columns)
_ARRIVED, _ENDED = _NAMES.index("arrived_at"), _NAMES.index("ended_at")
_ONE_ROW: Final = f"({', '.join('?' * len(_NAMES))})"


@lru_cache(maxsize=_MAX_ROWS_PER_STATEMENT)
def _sqlite_insert(num_rows: int) -> str:
    return f"INSERT INTO ledger ({', '.join(_NAMES)}) VALUES {', '.join([_ONE_ROW] * num_rows)}"  # noqa: S608 - ours


def _sqlite_values(row: LedgerRow) -> Sequence[Any]:  # Any: what the columns hold
    """As SQLAlchemy stores them there: instants are texts in UTC."""
    values = list(msgspec.structs.astuple(row))
    values[_ARRIVED] = spell_instant(row.arrived_at)
    if row.ended_at is not None:
        values[_ENDED] = spell_instant(row.ended_at)
    return values
