"""Which ids of tasks are taken: asked for each task that somebody waits for, and nearly always answered by no."""

from __future__ import annotations

import sqlite3

from sqlalchemy import Engine, select

from deepserve.store.tables import tasks
from deepserve.store.tasks import TaskKey

_QUERY = "SELECT 1 FROM tasks WHERE tenant_id = ? AND id = ?"
_BUSY_S = 0.01


class TaskIds:
    """is_at_hand: a look takes microseconds, in the thread that made this: readers of SQLite's write-ahead log wait for
    nobody. Elsewhere it is a question to another machine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file = engine.url.database if engine.dialect.name == "sqlite" else None
        self.is_at_hand = self._file not in (None, "", ":memory:")
        self._connection: sqlite3.Connection | None = None

    def is_taken(self, key: TaskKey) -> bool:
        """Whether the tenant has used this id, as long ago as rows are kept. Blocks for a database's time."""
        query = select(tasks.c.id).where(tasks.c.tenant_id == key[0], tasks.c.id == key[1])
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def is_taken_at_hand(self, key: TaskKey) -> bool | None:
        """The same where it is at hand; None where it is busy all the same, or not as it should be."""
        assert self._file is not None
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._file, timeout=_BUSY_S, isolation_level=None)
            return bool(self._connection.execute(_QUERY, key).fetchall())
        except sqlite3.Error:
            self.close()
            return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
