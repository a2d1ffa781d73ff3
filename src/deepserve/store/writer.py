"""The one thread that writes, many rows to a commit."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from sqlalchemy import Engine, Table, insert
from sqlalchemy.exc import SQLAlchemyError

logger = logging.getLogger(__name__)

_MAX_ROWS_PER_COMMIT = 1000
_MAX_WAITING_ROWS = 100_000
_GATHER_S = 0.02
"""So long a row waits for others, which share its commit."""


class Writer:
    """Takes rows from any thread without waiting and commits them in groups.

    A full queue drops the row and says so in the log: answering must not wait for a disk. `close` writes what waits.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # A row is whatever its table holds.
        self._rows: queue.Queue[tuple[Table, Mapping[str, Any]] | None] = queue.Queue(maxsize=_MAX_WAITING_ROWS)
        self._thread = threading.Thread(target=self._run, name="deepserve-store", daemon=True)
        self._thread.start()

    def insert(self, table: Table, row: Mapping[str, Any]) -> None:
        try:
            self._rows.put_nowait((table, row))
        except queue.Full:
            logger.error("store: the queue is full, a row of %s is lost", table.name)

    def close(self) -> None:
        """Write everything that waits and stop."""
        self._rows.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group: list[tuple[Table, Mapping[str, Any]]] = []
            item = self._rows.get()
            if item is not None:
                time.sleep(_GATHER_S)
            while item is not None:
                group.append(item)
                if len(group) >= _MAX_ROWS_PER_COMMIT:
                    break
                try:
                    item = self._rows.get_nowait()
                except queue.Empty:
                    break
            is_open = item is not None
            self._commit(group)

    def _commit(self, group: list[tuple[Table, Mapping[str, Any]]]) -> None:
        if not group:
            return
        try:
            with self._engine.begin() as connection:
                # Rows that follow each other and are of one kind go in one statement: each costs a tenth then.
                for (table, _), rows in groupby(group, key=lambda item: (item[0], tuple(item[1]))):
                    connection.execute(insert(table), [row for _, row in rows])
        except SQLAlchemyError:
            logger.exception("store: %d rows could not be written", len(group))
