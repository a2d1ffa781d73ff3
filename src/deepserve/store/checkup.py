"""A look at a database that changes nothing in it: whether it is there, who wrote it, whether it takes more."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError
from deepserve.store.database import HEAD, database_file, version_of
from deepserve.store.postgres import make_postgres_engine

_PATIENCE_S = 2.0


class DatabaseState(msgspec.Struct, frozen=True, kw_only=True):
    """version  of its tables, as migrations are numbered; None: it has none yet
    problem   why it cannot be used; None: it can
    free_bytes  left on the disk beneath the state directory; None: there is no such directory
    """

    exists: bool
    version: str | None = None
    problem: str | None = None
    free_bytes: int | None = None

    @property
    def is_current(self) -> bool:
        return self.version == HEAD

    @property
    def is_older(self) -> bool:
        """What the next start brings up to date."""
        return self.version is None or self.version < HEAD


def look_at_database(settings: Settings) -> DatabaseState:
    """Never raises for what may be wrong with it."""
    free_bytes = None if settings.state_dir is None else _free_bytes(settings.state_dir)
    if settings.database:
        state = _look_at_server(settings)
    elif settings.state_dir is not None:
        state = _look_at_file(settings.state_dir)
    else:
        state = DatabaseState(exists=False, problem="nothing is kept: no place is named")
    return msgspec.structs.replace(state, free_bytes=free_bytes)


def _look_at_file(state_dir: Path) -> DatabaseState:
    file = database_file(state_dir)
    if not file.exists():
        place = _existing(state_dir)
        is_writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
        return DatabaseState(exists=False, problem=None if is_writable else f"{place} cannot be written to")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE_S)) as raw:
            has_table = raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
            row = raw.execute("SELECT version_num FROM alembic_version").fetchone() if has_table else None
            raw.execute("BEGIN IMMEDIATE")
            raw.execute("ROLLBACK")
    except sqlite3.Error as error:
        return DatabaseState(exists=True, problem=str(error))
    return DatabaseState(exists=True, version=None if row is None else str(row[0]))


def _look_at_server(settings: Settings) -> DatabaseState:
    assert settings.database is not None
    try:
        engine = make_postgres_engine(settings.database, settings.database_limits)
    except ConfigurationError as error:
        return DatabaseState(exists=False, problem=error.message)
    try:
        with engine.connect() as connection:
            version = version_of(connection)
            is_read_only = connection.execute(text("SHOW transaction_read_only")).scalar() == "on"
    except SQLAlchemyError as error:
        return DatabaseState(exists=False, problem=" ".join(str(getattr(error, "orig", error)).split()))
    finally:
        engine.dispose()
    problem = "it takes no changes: this is a standby, or its user may only read" if is_read_only else None
    return DatabaseState(exists=True, version=version, problem=problem)


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(_existing(folder)).free
    except OSError:
        return None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            return place
    return folder
