"""Copying SQLite's write-ahead log into its file, beside the thread that writes.

Both wait for the disk, some 20 ms at a time. Done by the writer, as SQLite does it unless told otherwise, that holds up
every answer that is to be written down meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from typing import Final

_log = logging.getLogger(__name__)

_ROWS: Final = 500
"""Written between two copies: of up to ten pages each, where every row is a transaction of its own."""


class Checkpoints:
    """A thread that begins with the first of them. Where it fails the log gets longer, and the writer copies it.

    file: of the database, which is in the mode of a write-ahead log.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._num_rows = 0
        self._is_due = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def note_written(self, num_rows: int) -> None:
        """By the thread that writes."""
        self._num_rows += num_rows
        if self._num_rows < _ROWS:
            return
        self._num_rows = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="deepserve-checkpoints", daemon=True)
            self._thread.start()
        self._is_due.set()

    def close(self, timeout_s: float) -> None:
        """Once nothing is written any more."""
        self._is_closing = True
        self._is_due.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._is_due.wait() and not self._is_closing:
            self._is_due.clear()
            try:
                with contextlib.closing(sqlite3.connect(self._file, timeout=0)) as connection:
                    # Holds up nobody who reads or writes, and leaves what they are at for the next time.
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as error:
                _log.debug("ledger: SQLite's log could not be copied: %s", error)
