"""The ledger: one row for each attempt at an answer, appended and never changed.

`settle` takes rows and is done when they are durable, which the gateway awaits before an answer's last event leaves.
While the database cannot take them, answers that run wait a bounded time; then their rows go to a file, from where they
come back by themselves, and no new requests are accepted until then. No row is ever dropped: where not even the file
can be written, rows stay in memory and are written to the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import Engine

from deepserve.config import LedgerLimits
from deepserve.core.errors import StoreUnavailable
from deepserve.store.ledger_row import LedgerRow as LedgerRow
from deepserve.store.ledger_writer import Batch, Booking, LedgerWriter
from deepserve.store.spill import SpillFile

_log = logging.getLogger(__name__)

_TICKS = 4
"""How often, within the shortest of the times, it is looked how long rows have been waiting."""


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
        """state_dir: where rows wait that the database does not take; None: they wait in memory.

        book: writes down what rows mean for budgets, in the transaction that writes them.
        """
        self._limits = limits or LedgerLimits()
        self._spill = None if state_dir is None else SpillFile(state_dir)
        self._writer = LedgerWriter(engine, self._spill, is_power_safe=self._limits.sync == "full", book=book)
        self._clock = clock
        self._waiting: deque[Batch] = deque()
        self._gathered: list[Batch] = []
        self._tick: asyncio.TimerHandle | None = None
        self._is_late = self._is_closed = False
        self._num_written = self._num_spilled = 0

    def check(self) -> None:
        """Raises StoreUnavailable while rows cannot be written, before anything is done that would need one."""
        if self._is_late or len(self._waiting) >= self._limits.waiting_rows:
            raise StoreUnavailable(
                "Answers cannot be recorded at the moment, so none are given. Please retry.", retry_after_s=2.0
            )

    def settle(self, rows: Sequence[LedgerRow], *, release: str | None = None) -> asyncio.Future[None]:
        """Hand over rows. The future is done once they are durable; who need not know may leave it.

        release: id of the reservation that they are taken from.
        """
        loop = asyncio.get_running_loop()
        batch = Batch(rows, release, loop.create_future(), self._clock())
        if self._is_closed:
            # Who ends after everything else, as an answer that is cut off at the very end of the program.
            self._write_elsewhere((batch,))
            if self._spill is not None:
                self._spill.close()
            _set((batch,))
            return batch.future
        self._waiting.append(batch)
        if self._tick is None:
            self._tick = loop.call_later(self._tick_s, self._look)
        elif len(self._waiting) > 64:
            self._forget_settled()
        self._num_written += len(rows)
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(batch)
        return batch.future

    def _hand_over(self) -> None:
        """All that this turn of the loop has brought: waking the writer costs more than a row."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._writer.put(gathered)

    def gauges(self) -> Mapping[str, float]:
        return {
            "ledger_rows": float(self._num_written),
            "ledger_waiting": float(sum(not batch.is_safe for batch in self._waiting)),
            "ledger_spilled": float(self._num_spilled),
            "ledger_is_refusing": float(self._is_late),
        }

    def close(self) -> None:
        """Write everything and stop; what the database does not take goes to the file, and so does what comes later.

        Blocks.
        """
        self._is_closed = True
        if self._tick is not None:
            self._tick.cancel()
        self._hand_over()
        left = self._writer.close(self._limits.wait_s)
        unsafe = [batch for batch in left if not batch.is_spilled]
        if unsafe:
            self._write_elsewhere(unsafe)
        if self._spill is not None:
            self._spill.close()

    # While rows wait.

    @property
    def _tick_s(self) -> float:
        return min(self._limits.refuse_after_s, self._limits.wait_s) / _TICKS

    def _forget_settled(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0].is_safe:
            waiting.popleft()

    def _oldest_is_late(self) -> bool:
        self._forget_settled()
        return bool(self._waiting) and self._clock() - self._waiting[0].settled_at >= self._limits.refuse_after_s

    def _look(self) -> None:
        self._tick = None
        is_late = self._oldest_is_late() or bool(self._spill)
        if is_late and not self._is_late:
            _log.error("ledger: new requests are refused: %s", self._writer.problem or "the database is too slow")
        self._is_late = is_late
        loop, now = asyncio.get_running_loop(), self._clock()
        overdue: list[Batch] = []
        for batch in self._waiting:
            waited_s = now - batch.settled_at
            if waited_s < self._limits.wait_s or batch.is_safe or batch.future.done():
                continue
            if not batch.is_overdue:
                batch.is_overdue = True
                overdue.append(batch)
            elif waited_s >= 2 * self._limits.wait_s:
                # Not even the file takes it. It stays in memory, but its answer waits no longer.
                self._tell(batch)
                _set((batch,))
        if overdue:
            loop.run_in_executor(None, self._spill_rows, overdue, loop)
        if self._waiting or self._spill:
            self._tick = loop.call_later(self._tick_s, self._look)

    def _spill_rows(self, batches: Sequence[Batch], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread. The writer may get some of them through meanwhile: loading them back notices that."""
        if self._write_elsewhere(batches):
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(_set, batches)

    def _write_elsewhere(self, batches: Sequence[Batch]) -> bool:
        """Whether the rows are safe in the file."""
        rows = [row for batch in batches for row in batch.unwritten()]
        try:
            if self._spill is None:
                raise OSError("there is no state directory")
            self._spill.append(rows)
        except OSError as error:
            _log.critical("ledger: rows cannot be written anywhere: %s", error)
            for batch in batches:
                self._tell(batch)
            return False
        for batch in batches:
            batch.is_spilled = batch.is_safe = True
        self._num_spilled += len(rows)
        _log.error("ledger: %d rows wait in a file: %s", len(rows), self._writer.problem or "the database is too slow")
        return True

    def _tell(self, batch: Batch) -> None:
        """The last resort: a row has no content, and may stand in the log."""
        for row in batch.unwritten():
            _log.critical("ledger: a row that waits in memory: %s", msgspec.json.encode(row).decode())


def _set(batches: Sequence[Batch]) -> None:
    for batch in batches:
        if not batch.future.done():
            batch.future.set_result(None)
