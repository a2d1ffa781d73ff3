"""The ledger: one row for each attempt at an answer, appended and never changed.

`settle` takes rows and is done when they are durable, which the gateway awaits before an answer's last event leaves.
With SQLite that is one write to a journal, here in the event loop, and the database gets them a moment later, many at a
time. Where a commit promises more than that write, against a loss of power or on another machine, it is waited for.

While the database cannot take rows, no new requests are accepted, and answers that run wait a bounded time at most;
then their rows are kept in the journal in any case. No row is ever dropped: where not even the journal can be written,
rows stay in memory and are written to the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Engine

from deepserve.config import LedgerLimits
from deepserve.core.errors import StoreUnavailable
from deepserve.store.journal import Batch, Journal
from deepserve.store.ledger_row import LedgerRow as LedgerRow
from deepserve.store.ledger_writer import Booking, LedgerWriter

_log = logging.getLogger(__name__)

_TICKS: Final = 4
"""How often, within the shortest of the times, it is looked how long rows have been waiting."""

_GATHER_S: Final = 0.05
"""So long the journal's rows wait for others, so that they share a commit."""

_MANY_ROWS: Final = 256
"""More do not wait for others."""

_JOURNAL_BYTES: Final = 16 << 20
"""With more in it, answers wait for commits, until there is a moment in which the database has everything."""

_BEHIND_ROWS: Final = 512
"""With more that the database does not have answers wait for it, so that a busy event loop cannot leave it behind."""

_CATCH_UP_S: Final = 1.0
"""So long a reader waits for a database that takes no rows."""


class Ledger:
    """Belongs to one event loop; the writing is done by a thread. clock: monotonic seconds."""

    def __init__(
        self,
        engine: Engine,
        *,
        state_dir: Path | None,
        limits: LedgerLimits | None = None,
        book: Booking | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """state_dir: where the journal is; None: there is none, and rows wait in memory for the database.

        book: writes down what rows mean for budgets, in the transaction that writes them.
        """
        self._limits = limits or LedgerLimits()
        is_power_safe = self._limits.sync == "full"
        # A commit of another database promises more than a file that is not yet on the disk.
        self._is_quick = state_dir is not None and engine.dialect.name == "sqlite" and not is_power_safe
        self._journal = None if state_dir is None else Journal(state_dir, is_power_safe=not self._is_quick)
        self._writer = LedgerWriter(
            engine,
            self._journal,
            # Rows that gather are not late.
            gather_s=min(_GATHER_S, self._limits.refuse_after_s / 4) if self._is_quick else 0.0,
            is_power_safe=is_power_safe,
            book=book,
        )
        self._many = min(_MANY_ROWS, self._limits.waiting_rows // 2)
        self._clock = clock
        self._waiting: deque[Batch] = deque()
        self._gathered: list[Batch] = []
        self._tick: asyncio.TimerHandle | None = None
        self._is_late = self._is_closed = self._is_unwritable = False
        self._num_written = self._num_spilled = 0

    def check(self) -> None:
        """Raises StoreUnavailable while rows cannot be written, before anything is done that would need one."""
        if len(self._waiting) >= self._limits.waiting_rows:
            self._forget_recorded()
        if self._is_late or len(self._waiting) >= self._limits.waiting_rows:
            raise StoreUnavailable(
                "Answers cannot be recorded at the moment, so none are given. Please retry.", retry_after_s=2.0
            )

    def settle(self, rows: Sequence[LedgerRow], *, release: str | None = None) -> asyncio.Future[None]:
        """Hand over rows. The future is done once they are durable; who need not know may leave it.

        release: id of the reservation that they are taken from. It is given up once the future is done, so that this
        one waits for the database, which books what was spent.
        """
        loop = asyncio.get_running_loop()
        batch = Batch(rows, release, loop.create_future(), self._clock())
        if self._is_closed:
            # Who ends after everything else, as an answer that is cut off at the very end of the program.
            self._write_elsewhere((batch,))
            if self._journal is not None:
                self._journal.close()
            _set((batch,))
            return batch.future
        self._waiting.append(batch)
        if self._tick is None:
            self._tick = loop.call_later(self._tick_s, self._look)
        elif len(self._waiting) > 64:
            self._forget_recorded()
        self._num_written += len(rows)
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(batch)
        return batch.future

    def _hand_over(self) -> None:
        """All that this turn of the loop has brought: a write, and to wake the writer, costs more than a row."""
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        is_kept = self._is_quick and not self._is_closed and self._keep(gathered)
        is_awaited = (
            not is_kept or len(self._waiting) >= self._many or any(batch.release is not None for batch in gathered)
        )
        self._writer.put(gathered, is_awaited=is_awaited)
        if is_kept:
            _set([batch for batch in gathered if batch.release is None])

    def _keep(self, batches: Sequence[Batch]) -> bool:
        """Whether the journal has them now."""
        assert self._journal is not None
        is_behind = len(self._waiting) > _BEHIND_ROWS and not self._writer.problem
        if is_behind or self._journal.size_bytes >= _JOURNAL_BYTES:
            return False
        try:
            self._journal.append(batches)
        except OSError as error:
            if not self._is_unwritable:
                _log.error("ledger: the journal cannot be written, and answers wait for the database: %s", error)
            self._is_unwritable = True
            return False
        self._is_unwritable = False
        return True

    def catch_up(self) -> None:
        """Return once the database has what any client was told to have ended. Blocks for its time, not in the loop."""
        self._writer.catch_up(_CATCH_UP_S)

    def gauges(self) -> Mapping[str, float]:
        return {
            "ledger_rows": float(self._num_written),
            "ledger_waiting": float(sum(not batch.is_recorded for batch in self._waiting)),
            "ledger_spilled": float(self._num_spilled),
            "ledger_is_refusing": float(self._is_late),
        }

    def close(self) -> None:
        """Write everything and stop; what the database does not take is in the journal, and so is what comes later.

        Blocks.
        """
        self._is_closed = True
        if self._tick is not None:
            self._tick.cancel()
        self._hand_over()
        left = self._writer.close(self._limits.wait_s)
        if left:
            self._write_elsewhere(left)
        if self._journal is not None:
            self._journal.close()

    # While rows wait.

    @property
    def _tick_s(self) -> float:
        return min(self._limits.refuse_after_s, self._limits.wait_s) / _TICKS

    def _forget_recorded(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0].is_recorded:
            waiting.popleft()

    def _oldest_is_late(self) -> bool:
        self._forget_recorded()
        return bool(self._waiting) and self._clock() - self._waiting[0].settled_at >= self._limits.refuse_after_s

    def _look(self) -> None:
        self._tick = None
        is_late = self._oldest_is_late()
        if is_late and not self._is_late:
            _log.error("ledger: new requests are refused: %s", self._writer.problem or "the database is too slow")
        self._is_late = is_late
        loop, now = asyncio.get_running_loop(), self._clock()
        overdue: list[Batch] = []
        for batch in self._waiting:
            waited_s = now - batch.settled_at
            if waited_s < self._limits.wait_s or batch.is_recorded:
                continue
            if not batch.is_overdue:
                batch.is_overdue = True
                overdue.append(batch)
            elif waited_s >= 2 * self._limits.wait_s and not batch.future.done():
                # Not even the journal takes it. It stays in memory, but its answer waits no longer.
                self._tell(batch)
                _set((batch,))
        if overdue:
            loop.run_in_executor(None, self._keep_overdue, overdue, loop)
        if self._waiting:
            self._tick = loop.call_later(self._tick_s, self._look)

    def _keep_overdue(self, batches: Sequence[Batch], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread, for the disk may have to be waited for. The writer may get some of them through meanwhile."""
        if self._write_elsewhere(batches):
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(_set, batches)

    def _write_elsewhere(self, batches: Sequence[Batch]) -> bool:
        """Whether the rows are safe in the journal, where many of them are already."""
        try:
            if self._journal is None:
                raise OSError("there is no state directory")
            self._journal.append(batches)
        except OSError as error:
            _log.critical("ledger: rows cannot be written anywhere: %s", error)
            for batch in batches:
                self._tell(batch)
            return False
        num_rows = sum(len(batch.rows) for batch in batches)
        self._num_spilled += num_rows
        _log.error("ledger: %d rows wait in a file: %s", num_rows, self._writer.problem or "the database is too slow")
        return True

    def _tell(self, batch: Batch) -> None:
        """The last resort: a row has no content, and may stand in the log."""
        for row in batch.unwritten():
            _log.critical("ledger: a row that waits in memory: %s", msgspec.json.encode(row).decode())


def _set(batches: Sequence[Batch]) -> None:
    for batch in batches:
        if not batch.future.done():
            batch.future.set_result(None)
