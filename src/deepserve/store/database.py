"""The database of one state directory, brought to the newest schema when opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from deepserve.core.errors import ConfigurationError
from deepserve.store.tables import metadata

Database = Engine
"""What `open_database` returns, for signatures above the store."""

HEAD = "0006"
"""The newest migration; a test compares it with the scripts."""


def open_database(state_dir: Path) -> Database:
    """Create or open `deepserve.db` in a directory only its owner can read.

    Raises ConfigurationError when the directory cannot be used or the database is from a newer release.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.name == "posix" and stat.S_IMODE(state_dir.stat().st_mode) & 0o077:
            state_dir.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"The state directory {state_dir} cannot be used: {error.strerror}. Choose another with --state-dir."
        ) from error
    engine = create_engine(f"sqlite:///{state_dir / 'deepserve.db'}", hide_parameters=True)
    event.listen(engine, "connect", _configure)
    try:
        _migrate(engine, state_dir)
    except DBAPIError as error:
        raise ConfigurationError(
            f"The database in {state_dir} cannot be used: {error.orig}. Repair or remove deepserve.db there, "
            "or choose another --state-dir."
        ) from error
    return engine


def open_memory_database() -> Engine:
    """A database that ends with the process, for servers without a state directory.

    All threads share one connection: let one thread use it.
    """
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}, hide_parameters=True
    )
    metadata.create_all(engine)
    return engine


def _configure(connection: Any, _record: Any) -> None:  # Any: the driver's connection, which SQLAlchemy leaves untyped
    # WAL survives the death of the process; NORMAL may lose the last commits when power fails, never the file.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=5000")


def _migrate(engine: Engine, state_dir: Path) -> None:
    with engine.connect() as connection:
        current = None
        if inspect(connection).has_table("alembic_version"):
            current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if current == HEAD:
        return
    # Imported only when there is something to do: it costs a fifth of a second at every start.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "deepserve.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigurationError(
                f"The database in {state_dir} was written by another release of deepserve ({error}). "
                "Use that release, or another --state-dir."
            ) from error
