"""Looking at a database changes nothing in it and says what is wrong."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from deepserve.config import DatabaseLimits, Settings
from deepserve.store.checkup import look_at_database
from deepserve.store.database import HEAD, Place, open_database
from tests.databases import PostgresServer


def settings_of(place: Place, state_dir: Path) -> Settings:
    if isinstance(place, Path):
        return Settings(state_dir=place)
    return Settings(state_dir=state_dir, database=place, database_limits=DatabaseLimits(connect_s=2.0))


def test_what_is_there_is_told_by_the_release_that_wrote_it(place: Place, tmp_path: Path) -> None:
    settings = settings_of(place, tmp_path)
    if isinstance(place, Path):
        fresh = look_at_database(settings)
        assert (fresh.exists, fresh.version, fresh.problem, fresh.is_older) == (False, None, None, True)
        assert list(place.iterdir()) == []
    database = open_database(place)
    state = look_at_database(settings)
    assert (state.exists, state.version, state.problem, state.is_current) == (True, HEAD, None, True)
    for version, is_older in (("0001", True), ("9999", False), (HEAD, False)):  # the server has other tests to serve
        with database.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
        found = look_at_database(settings)
        assert (found.version, found.is_older, found.is_current) == (version, is_older, version == HEAD)
    database.dispose()


def test_a_server_that_is_not_there_or_knows_another_password_is_said_without_the_password(
    postgres_server: PostgresServer, postgres_place: str, tmp_path: Path
) -> None:
    for place in (
        postgres_place.replace(postgres_server.password, "wrong-secret"),
        "postgresql://deepserve:wrong-secret@127.0.0.1:9/none",
    ):
        state = look_at_database(settings_of(place, tmp_path))
        assert state.problem
        assert "wrong-secret" not in state.problem
        assert not state.exists


def test_a_server_that_takes_no_changes_is_said(postgres_place: str, tmp_path: Path) -> None:
    database = open_database(postgres_place)
    with database.begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    try:
        state = look_at_database(settings_of(postgres_place, tmp_path))
        assert "takes no changes" in str(state.problem)
    finally:
        with database.begin() as connection:  # an old connection, which may still write
            connection.execute(text(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'))
        database.dispose()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written to" in str(look_at_database(Settings(state_dir=tmp_path / "new")).problem)


def test_a_place_beneath_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in str(look_at_database(Settings(state_dir=tmp_path / "file" / "new")).problem)


def test_a_file_that_is_held_or_is_no_database_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepserve.store.checkup._PATIENCE_S", 0.01)
    open_database(tmp_path).dispose()
    with closing(sqlite3.connect(tmp_path / "deepserve.db", isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        assert "locked" in str(look_at_database(Settings(state_dir=tmp_path)).problem)
    (tmp_path / "deepserve.db").write_bytes(b"no database" * 1000)
    assert "not a database" in str(look_at_database(Settings(state_dir=tmp_path)).problem)


def test_free_space_is_that_of_the_disk_beneath(tmp_path: Path) -> None:
    state = look_at_database(Settings(state_dir=tmp_path / "not" / "yet"))
    assert state.free_bytes is not None
    assert state.free_bytes > 0
    assert look_at_database(Settings()).free_bytes is None
