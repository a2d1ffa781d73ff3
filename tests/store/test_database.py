"""The two kinds of databases: opened, migrated by whoever comes first, and told apart from what passes by itself."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, insert, select, text, update

from deepserve.config import DatabaseLimits
from deepserve.core.errors import ConfigurationError, StoreUnavailable
from deepserve.store.database import (
    FAULTS,
    HEAD,
    Database,
    Place,
    clock_difference_s,
    hold,
    insert_new,
    insert_or_replace,
    is_shared,
    is_text,
    open_database,
)
from deepserve.store.postgres import _Dialer, make_postgres_engine, show_address
from deepserve.store.tables import metadata, turn_names, webhook_secrets
from tests.databases import Opener, PostgresServer

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
PATIENCE_S = 10.0


def version_of(connection: Connection) -> Any:  # Any: what the database holds
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def test_migrations_lead_to_the_tables_of_the_code(database: Database) -> None:
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_database_of_a_newer_release_is_refused(place: Place, open_place: Opener) -> None:
    database = open_place()
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(ConfigurationError, match="another release"):
            open_place()
    finally:
        with database.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": HEAD})


def start_together(place: Place) -> None:
    starting = threading.Barrier(4)

    def start() -> Database:
        starting.wait(PATIENCE_S)
        return open_database(place)

    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(start) for _ in range(4)]]
    for database in found:
        with database.connect() as connection:
            assert version_of(connection) == HEAD
        database.dispose()


def test_servers_that_start_together_migrate_a_file_once(tmp_path: Path) -> None:
    start_together(tmp_path)


def test_servers_that_start_together_migrate_a_postgresql_database_once(postgres_server: PostgresServer) -> None:
    start_together(postgres_server.create_database())


def test_instants_come_back_as_they_went_whatever_their_zone(database: Database) -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    with database.begin() as connection:
        connection.execute(
            insert(webhook_secrets),
            [{"tenant_id": "a", "version": number, "created_at": NOON + timedelta(hours=number)} for number in (0, 1)],
        )
        query = select(webhook_secrets.c.version).where(webhook_secrets.c.created_at <= NOON)
        assert connection.execute(query).scalars().all() == [0]
        if is_shared(database):
            query = select(webhook_secrets.c.version).where(webhook_secrets.c.created_at <= there)
            assert connection.execute(query).scalars().all() == [0]
            assert connection.execute(select(webhook_secrets.c.created_at)).scalars().first() == there


def test_clocks_are_compared_by_the_databases(database: Database) -> None:
    now = datetime.now(UTC)
    ahead_s = clock_difference_s(database, now + timedelta(minutes=5))
    assert ahead_s == (pytest.approx(300, abs=30) if is_shared(database) else 0)


def test_a_row_is_new_once(database: Database) -> None:
    row = {"tenant_id": "a", "version": 1, "created_at": NOON}
    with database.begin() as connection:
        assert insert_new(connection, webhook_secrets, row)
        assert not insert_new(connection, webhook_secrets, {**row, "created_at": NOON + timedelta(days=1)})
        assert insert_new(connection, webhook_secrets, {**row, "version": 2})
        assert connection.execute(select(func.count()).select_from(webhook_secrets)).scalar() == 2


def test_rows_take_the_place_of_those_with_their_keys(database: Database) -> None:
    rows = [{"tenant_id": "a", "name": bytes([number]), "turn_id": number} for number in range(3)]
    with database.begin() as connection:
        insert_or_replace(connection, turn_names, rows)
        insert_or_replace(connection, turn_names, [{**row, "turn_id": 2**40} for row in rows[:2]])
        found = connection.execute(select(turn_names.c.turn_id).order_by(turn_names.c.name)).scalars().all()
    assert found == [2**40, 2**40, 2]


def test_who_holds_a_name_is_alone_with_it(open_place: Opener) -> None:
    """Two readers of a count, each followed by a writer, lose nothing of what the other wrote."""
    databases = [open_place(), open_place()]
    with databases[0].begin() as connection:
        connection.execute(insert(webhook_secrets), {"tenant_id": "a", "version": 0, "created_at": NOON})
    count = webhook_secrets.c.version

    def count_up(database: Database) -> None:
        for _ in range(20):
            with database.begin() as connection:
                hold(connection, "counter")
                seen = connection.execute(select(count)).scalar_one()
                connection.execute(update(webhook_secrets).values(version=seen + 1))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(count_up, databases))
    with databases[0].connect() as connection:
        assert connection.execute(select(count)).scalar() == 40


@pytest.mark.parametrize(("value", "holds"), [("naïve 猫", True), ("", True), ("a\0b", False), ("\ud800", False)])
def test_texts_that_postgresql_cannot_hold_are_known(value: str, holds: bool, postgres_place: str) -> None:
    assert is_text(value) == holds
    database = open_database(postgres_place)
    try:
        with database.connect() as connection:
            query = select(webhook_secrets).where(webhook_secrets.c.tenant_id == value)
            if holds:
                assert connection.execute(query).all() == []
            else:
                with pytest.raises((*FAULTS, UnicodeEncodeError)):
                    connection.execute(query)
    finally:
        database.dispose()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mysql://a:geheim@host/name", "write postgresql://"),
        ("postgresql://a:ge@heim:geheim@host/name", "%40"),
        ("postgresql://a:geheim@host:port/name", "%3A"),
        ("postgresql://a:geheim%zz@host/name", "cannot be read"),
        ("postgresql://a:geheim@host/name?passwort=geheim", 'invalid URI query parameter: "passwort"'),
        ("postgresql://a:geheim@127.0.0.1:1/name", "refused"),
        ("postgres://a:geheim@127.0.0.1:1/name", "postgresql://a@127.0.0.1:1/name"),
        ("postgresql://a@127.0.0.1:1/name?password=geheim", "postgresql://a@127.0.0.1:1/name"),
        ("postgresql://a:geheim@/name?host=/nowhere", "No such file"),
    ],
)
def test_an_address_that_leads_nowhere_is_said_without_its_password(
    address: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        open_database(address)
    assert said in raised.value.message
    for text_of in (raised.value.message, str(raised.value.__cause__), caplog.text, show_address(address)):
        assert "heim" not in text_of


def test_a_wrong_password_is_not_shown_either(postgres_server: PostgresServer) -> None:
    with pytest.raises(ConfigurationError, match="password authentication failed") as raised:
        open_database(postgres_server.address("postgres", password="geheim"))
    assert "geheim" not in raised.value.message


def test_an_engine_shows_no_password(postgres_server: PostgresServer) -> None:
    engine = make_postgres_engine(postgres_server.address("postgres"), DatabaseLimits())
    assert postgres_server.password not in repr(engine) + str(engine.url.render_as_string(hide_password=False))
    engine.dispose()


def test_passwords_may_come_from_a_file_as_with_other_tools(
    postgres_server: PostgresServer, postgres_place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"*:*:*:*:{postgres_server.password}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    open_database(postgres_place.replace(f":{postgres_server.password}@", "@")).dispose()


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"deepserve\[postgres\]"):
        open_database("postgresql://host/name")


def test_a_server_that_fails_and_comes_back_is_found_again(
    postgres_server: PostgresServer, postgres_place: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database(postgres_place)

    def look() -> str:
        with database.connect() as connection:
            return str(version_of(connection))

    try:
        assert look() == HEAD
        postgres_server.stop(at_once=True)
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as raised:
                look()
            assert postgres_server.password not in f"{raised.getrepr()}{caplog.text}"
        postgres_server.start()
        while True:  # whoever comes within a second of a failed attempt is told of that one
            try:
                assert look() == HEAD
                break
            except StoreUnavailable:
                continue
    finally:
        postgres_server.stop()
        postgres_server.start()
        database.dispose()


def test_a_transaction_that_loses_its_server_says_so(postgres_server: PostgresServer, postgres_place: str) -> None:
    database = open_database(postgres_place)
    try:
        with database.connect() as connection:
            (number,) = connection.execute(text("SELECT pg_backend_pid()")).one()
            postgres_server.execute(f"SELECT pg_terminate_backend({number})")
            with pytest.raises(StoreUnavailable):
                connection.execute(text("SELECT 1"))
        with database.connect() as connection:
            assert version_of(connection) == HEAD
    finally:
        database.dispose()


def test_a_statement_that_takes_too_long_is_ended(postgres_place: str) -> None:
    database = open_database(postgres_place, DatabaseLimits(statement_s=0.02))
    try:
        with pytest.raises(StoreUnavailable), database.connect() as connection:
            connection.execute(text("SELECT pg_sleep(60)"))
    finally:
        database.dispose()


def test_who_finds_all_connections_busy_is_told_to_come_back(postgres_place: str) -> None:
    database = open_database(postgres_place, DatabaseLimits(connections=1, wait_s=0.01))
    try:
        with database.connect(), pytest.raises(StoreUnavailable, match="busy"):
            database.connect()
    finally:
        database.dispose()


def test_a_locked_file_may_be_free_later(tmp_path: Path) -> None:
    first, second = open_database(tmp_path), open_database(tmp_path)
    row = {"tenant_id": "a", "version": 1, "created_at": NOON}
    with first.begin() as writing, second.connect() as waiting:
        writing.execute(insert(webhook_secrets), row)
        waiting.exec_driver_sql("PRAGMA busy_timeout=0")
        with pytest.raises(StoreUnavailable):
            waiting.execute(insert(webhook_secrets), row)


def test_a_statement_that_cannot_succeed_is_no_matter_of_waiting(database: Database) -> None:
    with database.connect() as connection, pytest.raises(FAULTS) as raised:
        connection.execute(text("SELECT nothing FROM nowhere"))
    assert not isinstance(raised.value, StoreUnavailable)


def dialer(outcomes: list[Exception | None], now: list[float]) -> tuple[_Dialer, Callable[[], int]]:
    tried: list[None] = []

    def connect() -> Any:  # Any: stands for a connection
        tried.append(None)
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return "connection"

    return _Dialer(connect, lambda error: isinstance(error, psycopg.Error), lambda: now[0]), lambda: len(tried)


def test_while_the_server_is_away_one_caller_a_second_finds_out() -> None:
    now = [100.0]
    one, num_tried = dialer([psycopg.OperationalError("away"), psycopg.OperationalError("away"), None, None], now)
    with pytest.raises(psycopg.OperationalError):
        one.connect()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            one.connect()
    assert num_tried() == 1
    now[0] += 1.0
    with pytest.raises(psycopg.OperationalError):
        one.connect()
    with pytest.raises(StoreUnavailable):
        one.connect()
    now[0] += 1.0
    one.connect()
    one.connect()
    assert num_tried() == 4
