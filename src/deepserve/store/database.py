"""The database, brought to the newest schema when opened: SQLite in a state directory, or a PostgreSQL server.

What differs between the two is here and in `postgres`; the SQL of all other modules is understood by both.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, Table, create_engine, event, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from deepserve.config import DatabaseLimits, Settings
from deepserve.core.errors import ConfigurationError, StoreUnavailable
from deepserve.store.postgres import is_postgres, make_postgres_engine, show_address
from deepserve.store.tables import metadata

_log = logging.getLogger(__name__)

Database = Engine
"""What `open_database` returns, for signatures above the store."""

Place = Path | str
"""Where a database is: a state directory, or the address of a PostgreSQL server."""

FAULTS = (SQLAlchemyError, StoreUnavailable)
"""What a statement may raise, for those who go on without what they asked for."""

HEAD = "0009"
"""The newest migration; a test compares it with the scripts."""

_FILE = "deepserve.db"

_BUSY_S = 5.0
"""The longest wait for a file that another process writes, looking again after each pause."""
_BUSY_PAUSE_S = 0.01

_PASSING = frozenset(("BUSY", "LOCKED", "FULL", "IOERR", "CANTOPEN", "READONLY", "NOMEM", "PROTOCOL"))
"""What SQLite says when the same statement may succeed later."""

_READ_ONLY = "25006"
"""What PostgreSQL says while another of its machines takes over."""


def open_database(place: Place, limits: DatabaseLimits = DatabaseLimits()) -> Database:  # noqa: B008 - frozen
    """The database at a place, created or migrated where that is necessary.

    In a state directory it is the file `deepserve.db`, and the directory is made readable by its owner only. From then
    on a statement raises StoreUnavailable where the database is away, slow, locked or full.

    Raises ConfigurationError when the place cannot be used or the database is from a newer release.
    """
    if isinstance(place, Path):
        _make_private(place)
        engine = create_engine(f"sqlite:///{database_file(place)}", hide_parameters=True)
        event.listen(engine, "connect", _configure)
        shown, remedy = f"in {place}", "Repair or remove deepserve.db there, or choose another --state-dir."
    else:
        if not is_postgres(place):
            raise ConfigurationError(
                "A database is either a file in the state directory, which needs no address, or a PostgreSQL server: "
                "write postgresql://USER:PASSWORD@HOST:PORT/NAME."
            )
        engine = make_postgres_engine(place, limits)
        shown = show_address(place)
        remedy = "Check that the server runs, that the address is right, and that its user may create tables there."
    try:
        _migrate(engine, shown)
    except DBAPIError as error:
        engine.dispose()
        reason = " ".join(str(error.orig).split()).rstrip(".?")
        # Without its cause, in whose frames the address stands as it was given.
        raise ConfigurationError(f"The database {shown} cannot be used: {reason}. {remedy}") from None
    except BaseException:
        engine.dispose()
        raise
    event.listen(engine, "handle_error", _tell_unavailable)
    return engine


def tell_fault(log: logging.Logger, words: str, error: BaseException) -> None:
    """Log what could not be done; with all details, unless the database is only away for a while."""
    if isinstance(error, StoreUnavailable):
        log.warning("%s: %s", words, error.message)
    else:
        log.error(words, exc_info=error)


def open_configured(settings: Settings) -> Database:
    """The database of a server with these settings. Raises ConfigurationError, also where it keeps nothing."""
    place = settings.database or settings.state_dir
    if place is None:
        raise ConfigurationError("Nothing is kept: name a place with --state-dir or --database.")
    return open_database(place, settings.database_limits)


def show_place(settings: Settings) -> str:
    """Where their database is, without a password."""
    return show_address(settings.database) if settings.database else f"{settings.state_dir}/{_FILE}"


def database_file(state_dir: Path) -> Path:
    """Where the database of a state directory is."""
    return state_dir / _FILE


def count_rows(database: Database) -> list[tuple[str, int]]:
    """How much is in each table, by its name."""
    with database.connect() as connection:
        return [
            (table.name, connection.execute(select(func.count()).select_from(table)).scalar_one())
            for table in sorted(metadata.tables.values(), key=lambda table: table.name)
        ]


def open_memory_database() -> Engine:
    """A database that ends with the process, for servers without a state directory.

    All threads share one connection: let one thread use it.
    """
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}, hide_parameters=True
    )
    metadata.create_all(engine)
    return engine


def is_shared(database: Database) -> bool:
    """Whether other machines may use the same database."""
    return _is_postgres(database)


def clock_difference_s(database: Database, now: datetime) -> float:
    """How far `now` is ahead of the database's clock, by which several servers can compare theirs."""
    if not _is_postgres(database):
        return 0.0
    with database.connect() as connection:
        there: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return (now - there).total_seconds()


def hold(connection: Connection, name: str) -> None:
    """Let nobody else past here with the same name until the transaction ends. Call it first in a transaction."""
    if _is_postgres(connection):
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        connection.execute(select(func.pg_advisory_xact_lock(int.from_bytes(digest, "big", signed=True))))
    else:
        _begin_writing(connection)


def insert_new(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:  # Any: what the columns hold
    """Insert a row unless there is one with its primary key; whether there was none."""
    statement = _insert_into(connection)(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    return connection.execute(statement, row).rowcount > 0


def insert_or_replace(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:  # Any: as above
    """Insert rows, in place of those that have their primary keys."""
    statement = _insert_into(connection)(table)
    keys = [column.name for column in table.primary_key]
    others = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=others), list(rows))


def is_text(value: str) -> bool:
    """Whether both databases can hold a text: a client may send one that they cannot, and no row has such a name."""
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _insert_into(connection: Connection) -> Callable[[Table], Any]:  # Any: the two dialects' statements, alike in shape
    if _is_postgres(connection):
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert


def _is_postgres(where: Connection | Engine) -> bool:
    return where.dialect.name == "postgresql"


def _make_private(state_dir: Path) -> None:
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.name == "posix" and stat.S_IMODE(state_dir.stat().st_mode) & 0o077:
            state_dir.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"The state directory {state_dir} cannot be used: {error.strerror}. Choose another with --state-dir."
        ) from error


def _configure(connection: Any, _record: Any) -> None:  # Any: the driver's connection, which SQLAlchemy leaves untyped
    # First, so that two processes that open a new file at once wait for each other.
    connection.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000:.0f}")
    # WAL survives the death of the process; NORMAL may lose the last commits when power fails, never the file.
    _use_write_ahead_log(connection)
    connection.execute("PRAGMA synchronous=NORMAL")


def _use_write_ahead_log(connection: Any) -> None:  # Any: as above
    """Wait here where another process does the same: SQLite's own patience does not hold for this change."""
    give_up_at = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
        time.sleep(_BUSY_PAUSE_S)


def _begin_writing(connection: Connection) -> None:
    """The driver begins at the first change only, which is too late for who reads before it."""
    raw: Any = connection.connection.dbapi_connection  # Any: SQLite's own, which SQLAlchemy leaves untyped
    if not raw.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(engine: Engine, shown: str) -> None:
    with engine.connect() as connection:
        if version_of(connection) == HEAD:
            return
    # Imported only when there is something to do: it costs a fifth of a second at every start.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "deepserve.store:migrations")
    with engine.begin() as connection:
        if _is_postgres(connection):
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        hold(connection, "migrations")
        if version_of(connection) == HEAD:  # another server was quicker
            return
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigurationError(
                f"The database {shown} was written by another release of deepserve ({error}). "
                "Use that release, or another database."
            ) from error


def version_of(connection: Connection) -> str | None:
    """The newest migration that it has been through; None: none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def _tell_unavailable(context: ExceptionContext) -> None:
    """Turn what may pass by itself into the error that clients are told to wait for."""
    error = context.original_exception
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "").removeprefix("SQLITE_")
        is_passing = name.partition("_")[0] in _PASSING
    else:
        is_passing = context.is_disconnect or isinstance(
            context.sqlalchemy_exception, OperationalError | InterfaceError
        )
        is_passing = is_passing or getattr(error, "sqlstate", None) == _READ_ONLY
    if is_passing:
        _log.warning("store: the database cannot be used: %s", " ".join(str(error).split()))
        raise StoreUnavailable("The server's database cannot be used at the moment. Please retry.") from error
