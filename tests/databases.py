"""Databases to test with: SQLite, and a PostgreSQL server that is started once for all tests.

Every test that asks for `place` or `database` runs on both. Without PostgreSQL's programs its half is skipped, and
fails where CI is set.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine

from deepserve.store.database import Database, Place, open_database
from deepserve.store.tables import metadata

_SETTINGS = {
    # Nothing here has to outlive the machine; what is committed does outlive the server.
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
}

_READY_S = 30.0
_SIGNAL_AT_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG


def _find_programs() -> Path | None:
    """The folder of `postgres` and `initdb`; Debian keeps it off the path."""
    for program in (shutil.which("postgres"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))[::-1]):
        if program is not None:
            folder = Path(program).resolve().parent
            if (folder / "initdb").exists():
                return folder
    return None


def _as_user() -> dict[str, Any]:  # Any: arguments of Popen
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise AssertionError("neither postgres nor nobody is a user of this machine")


def _end_with_parent() -> None:
    """So that tests that are killed leave no server behind. The parent is the thread that begins it: the main one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGINT)


class PostgresServer:
    """A server in a temporary folder, on a loopback port, that asks for a password."""

    def __init__(self, programs: Path) -> None:
        self.password = secrets.token_hex(8)
        self._programs = programs
        self._as_user = _as_user()
        self._folder = Path(tempfile.mkdtemp(prefix="deepserve-postgres-"))
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        if self._as_user:
            for path in (self._folder, password_file):
                os.chown(path, self._as_user["user"], self._as_user["group"])
        subprocess.run(
            [
                *(programs / "initdb", "-D", self._folder / "data", "-U", "deepserve", "-E", "UTF8", "--no-locale"),
                *("--no-sync", "--auth=scram-sha-256", f"--pwfile={password_file}"),
            ],
            **self._as_user,
            cwd=self._folder,
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        assert threading.current_thread() is threading.main_thread()
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self._folder / "data", "-k", self._folder),
                    *("-p", str(self.port), *settings),
                ],
                **self._as_user,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        self._await_ready()

    def _await_ready(self) -> None:
        assert self._process is not None
        while True:
            try:
                psycopg.connect(self.address("postgres"), connect_timeout=int(_READY_S)).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
            else:
                return

    def stop(self, *, at_once: bool = False) -> None:
        """at_once: as when the machine fails, without a word to those connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def address(self, name: str, *, password: str | None = None) -> str:
        return f"postgresql://deepserve:{password or self.password}@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str, *, name: str = "postgres") -> list[tuple[Any, ...]]:  # Any: what rows hold
        """Say something to a database, each statement a transaction of its own."""
        with psycopg.connect(self.address(name), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_database(self) -> str:
        """The address of a new one, without tables."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.address(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    programs = _find_programs()
    if programs is None:
        reason = "PostgreSQL's programs (`postgres`, `initdb`) are not installed, in Debian: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_tables(postgres_server: PostgresServer) -> str:
    """The address of a database with all tables, which tests empty before they use it."""
    address = postgres_server.create_database()
    open_database(address).dispose()
    return address


@pytest.fixture
def postgres_place(postgres_server: PostgresServer, postgres_tables: str) -> str:
    """The address of a database with all tables and no rows."""
    names = ", ".join(table.name for table in metadata.sorted_tables)
    postgres_server.execute(f"TRUNCATE {names} RESTART IDENTITY", name=postgres_tables.rpartition("/")[2])
    return postgres_tables


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a database without rows is, of either kind."""
    if request.param == "sqlite":
        return tmp_path
    found: str = request.getfixturevalue("postgres_place")
    return found


Opener = Callable[[], Database]


@pytest.fixture
def open_place(place: Place) -> Iterator[Opener]:
    """Opens the same place once more, as a server that is started again would."""
    opened: list[Engine] = []

    def open_once_more() -> Database:
        opened.append(open_database(place))
        return opened[-1]

    yield open_once_more
    for database in opened:
        database.dispose()


@pytest.fixture
def database(open_place: Opener) -> Database:
    """A database without rows, of either kind."""
    return open_place()
