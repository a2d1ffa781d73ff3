"""How to reach a PostgreSQL server: addresses without their passwords, connections that give up in time.

Addresses are those of libpq, https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING: several
hosts, sockets, TLS, and passwords from PGPASSWORD or the password file work as with PostgreSQL's own tools.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, PoolProxiedConnection, QueuePool, create_engine
from sqlalchemy.exc import TimeoutError as PoolTimeout
from typing_extensions import override

from deepserve.config import DatabaseLimits
from deepserve.core.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:
    import psycopg

_log = logging.getLogger(__name__)

SCHEMES = ("postgresql://", "postgres://")

_RETRY_S = 1.0
"""So long after a failed attempt to connect nobody else waits for another one."""

_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""A server that vanishes without a word is noticed within half a minute, not after the system's two hours."""


def is_postgres(address: str) -> bool:
    return address.startswith(SCHEMES)


def make_postgres_engine(
    address: str, limits: DatabaseLimits, *, clock: Callable[[], float] = time.monotonic
) -> Engine:
    """An engine that has not connected yet. Raises ConfigurationError, never with a password in it."""
    try:
        import psycopg
    except ImportError as error:
        raise ConfigurationError(
            'A database at postgresql:// needs a driver that is not installed: pip install "deepserve[postgres]"'
        ) from error
    parameters = _parse(address)
    chosen = {
        "application_name": "deepserve",
        "connect_timeout": max(1, round(limits.connect_s)),
        **_ALIVE,
        **parameters,
        "client_encoding": "utf8",
    }
    dialer = _Dialer(lambda: _connect(psycopg, chosen, limits), lambda error: isinstance(error, psycopg.Error), clock)
    shown = URL.create(
        "postgresql+psycopg",
        username=parameters.get("user"),
        host=parameters.get("host"),
        port=_only_port(parameters.get("port")),
        database=parameters.get("dbname"),
    )
    return create_engine(
        shown,
        creator=dialer.connect,
        poolclass=_Pool,
        pool_size=limits.connections,
        max_overflow=0,
        pool_timeout=limits.wait_s,
        # A server that was restarted has closed what waits in the pool: each connection is tried before it is used.
        pool_pre_ping=True,
        hide_parameters=True,
    )


def show_address(address: str) -> str:
    """An address as people may see it."""
    try:
        parameters = _parse(address)
    except (ConfigurationError, ImportError):
        return "postgresql://…"
    user = f"{parameters['user']}@" if "user" in parameters else ""
    port = f":{parameters['port']}" if "port" in parameters else ""
    return f"postgresql://{user}{parameters.get('host', '')}{port}/{parameters.get('dbname', '')}"


def _parse(address: str) -> dict[str, str]:
    from psycopg import ProgrammingError, conninfo

    try:
        given = conninfo.conninfo_to_dict(address)
    except ProgrammingError as error:
        reason = str(error).strip()
        # Other reasons quote the address, and its password with it.
        raise _unreadable(f" ({reason})" if reason.startswith("invalid URI query parameter") else "") from None
    found = {name: str(value) for name, value in given.items() if value is not None}
    # Where a password has an @ of its own, its end was taken for a host.
    if "@" in found.get("host", "") or not set(found.get("port", "")) <= set("0123456789,"):
        raise _unreadable()
    return found


def _unreadable(detail: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"The address of the database cannot be read{detail}. Write postgresql://USER:PASSWORD@HOST:PORT/NAME; "
        "in a password, write @ : / % # and ? as %40 %3A %2F %25 %23 and %3F."
    )


def _only_port(port: str | None) -> int | None:
    """Several hosts have several ports, for which SQLAlchemy's form of addresses has no place."""
    return int(port) if port is not None and port.isdigit() else None


def _connect(driver: Any, parameters: Mapping[str, Any], limits: DatabaseLimits) -> psycopg.Connection[Any]:
    # Any: the module, imported only where it is needed, and values as libpq takes them
    connection: psycopg.Connection[Any] = driver.connect(**parameters, autocommit=True)
    # Not among the parameters above: poolers between us and the server refuse those they do not know.
    connection.execute(
        "SELECT set_config('TimeZone', 'UTC', false), set_config('statement_timeout', %s, false), "
        "set_config('idle_in_transaction_session_timeout', %s, false)",
        [str(round(limits.statement_s * 1000)), str(round(2 * limits.statement_s * 1000))],
    )
    connection.autocommit = False
    return connection


class _Pool(QueuePool):
    @override
    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except PoolTimeout as error:
            _log.warning("store: all connections to the database are busy: %s", error)
            raise StoreUnavailable("The server's database is busy. Please retry.") from error


class _Dialer:
    """Opens connections; while the server is away one caller at a time finds out, the others are told at once."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],  # Any: rows are whatever is asked for
        is_fault: Callable[[Exception], bool],
        clock: Callable[[], float],
    ) -> None:
        self._open = connect
        self._is_fault = is_fault
        self._clock = clock
        self._lock = threading.Lock()
        self._is_away = False
        self._tried_at = 0.0

    def connect(self) -> psycopg.Connection[Any]:  # Any: as above
        if self._is_away:
            with self._lock:
                is_too_early = self._is_away and self._clock() < self._tried_at + _RETRY_S
                self._tried_at = self._clock() if not is_too_early else self._tried_at
            if is_too_early:
                raise StoreUnavailable("The server's database cannot be reached. Please retry.", retry_after_s=_RETRY_S)
        try:
            connection = self._open()
        except Exception as error:
            if self._is_fault(error):
                with self._lock:
                    self._is_away, self._tried_at = True, self._clock()
            raise
        self._is_away = False
        return connection
