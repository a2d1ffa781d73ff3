"""An id that was used once is taken, whoever asks and wherever the database is."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import create_engine

from deepserve.core.tenant import TenantId
from deepserve.store.database import Database, database_file, open_database, open_memory_database
from deepserve.store.task_ids import TaskIds
from deepserve.store.tasks import TaskStore
from tests.tasks.setup import ALICE, new_task

NOW = datetime(2026, 11, 20, tzinfo=UTC)
USED, OTHER = (ALICE.id, "used"), (ALICE.id, "other")
STRANGERS = (TenantId("stranger"), "used")


def keep(database: Database) -> None:
    TaskStore(database).insert(new_task("used"), now=NOW, max_unfinished=10, max_bytes=10**6)


def test_an_id_is_taken_for_its_tenant_alone(database: Database) -> None:
    keep(database)
    ids = TaskIds(database)
    assert [ids.is_taken(key) for key in (USED, OTHER, STRANGERS)] == [True, False, False]


def test_a_file_is_looked_into_at_once_and_sees_what_others_write(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    ids = TaskIds(database)
    assert ids.is_at_hand
    assert ids.is_taken_at_hand(USED) is False
    keep(database)
    assert [ids.is_taken_at_hand(key) for key in (USED, OTHER, STRANGERS)] == [True, False, False]
    ids.close()
    database.dispose()


def test_a_file_that_is_locked_or_broken_is_not_waited_for(tmp_path: Path) -> None:
    open_database(tmp_path).dispose()
    other = sqlite3.connect(database_file(tmp_path), isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM tasks")
    other.execute("COMMIT")
    database = create_engine(f"sqlite:///{database_file(tmp_path)}")
    ids = TaskIds(database)
    assert ids.is_taken_at_hand(USED) is None
    other.close()
    assert ids.is_taken_at_hand(USED) is False, "it is looked again"
    ids.close()
    database_file(tmp_path).write_bytes(b"no database at all, whatever its name says")
    assert ids.is_taken_at_hand(USED) is None


def test_a_database_in_memory_is_not_at_hand() -> None:
    database = open_memory_database()
    keep(database)
    assert not TaskIds(database).is_at_hand
    assert TaskIds(database).is_taken(USED)
    database.dispose()
