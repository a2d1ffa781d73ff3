"""`deepserve database`, and the option that commands find a database by."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.cli import main
from deepserve.store.agreements import FINGERPRINT, agree
from deepserve.store.database import open_database
from tests.databases import PostgresServer


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_a_file_is_described(tmp_path: Path) -> None:
    code, output = run("database", "status", "--state-dir", str(tmp_path))
    assert code == 0
    assert f"{tmp_path}/deepserve.db" in output
    assert "SQLite" in output
    assert "0 rows" in output
    assert "secret" not in output.split("webhook secrets")[-1]


def test_a_server_is_described_without_its_password(postgres_server: PostgresServer, postgres_place: str) -> None:
    code, output = run("database", "status", "--database", postgres_place)
    assert code == 0
    assert postgres_server.password not in output
    assert f"@127.0.0.1:{postgres_server.port}/" in output
    assert "the next server that starts brings it" in output


def test_a_secret_is_forgotten_once(postgres_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(postgres_place)
    agree(database, FINGERPRINT, "x")
    database.dispose()
    monkeypatch.setenv("DEEPSERVE_DATABASE", postgres_place)
    assert "agreed on" in run("database", "status")[1]
    assert run("database", "forget-secret") == (0, "Forgotten.\n")
    assert run("database", "forget-secret")[0] == 1


def test_tasks_and_webhooks_are_looked_up_there(postgres_place: str) -> None:
    assert run("tasks", "list", "--database", postgres_place) == (0, "There are no tasks.\n")
    assert run("webhooks", "list", "--database", postgres_place) == (0, "There are no webhook calls.\n")


def test_a_database_that_is_down_is_said_without_its_password() -> None:
    code, output = run("tasks", "list", "--database", "postgresql://a:geheim@127.0.0.1:1/name")
    assert code == 1
    assert "refused" in output
    assert "geheim" not in output
