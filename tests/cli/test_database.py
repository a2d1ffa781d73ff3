"""`deepserve database`, and the option that commands find a database by."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from deepserve.cli import main
from deepserve.core.tenant import TenantId
from deepserve.store.agreements import FINGERPRINT, agree
from deepserve.store.database import open_database
from deepserve.store.secret import derive_key
from deepserve.tasks.signing import WebhookSecrets, show_secret
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


def test_webhook_secrets_come_from_what_all_servers_have(postgres_place: str, tmp_path: Path) -> None:
    """Made on one machine, they sign what any server calls."""
    (tmp_path / "secret").write_bytes(bytes(range(32)))
    made = [
        run(
            *("webhooks", "secret", "alice", "--database", postgres_place),
            *("--secret-file", str(tmp_path / "secret"), "--state-dir", str(tmp_path / name)),
        )
        for name in ("one", "other")
    ]
    assert [code for code, _ in made] == [0, 0]
    key = derive_key(bytes(range(32)), "webhooks")
    expected = [show_secret(WebhookSecrets(None, key)._derive(TenantId("alice"), version)) for version in (1, 2)]  # type: ignore[arg-type]  # nothing is read
    assert [output.strip() for _, output in made] == expected
    (tmp_path / "secret").write_bytes(bytes(32))
    code, output = run("webhooks", "secret", "--database", postgres_place, "--secret-file", str(tmp_path / "secret"))
    assert (code, "not that of the other servers" in output) == (1, True)


@pytest.mark.parametrize("tenant", ["t" * 65, "", "a\0b"])
def test_a_tenant_that_no_column_holds_is_refused_in_words(tenant: str, postgres_place: str) -> None:
    """SQLite took any length; PostgreSQL raised, and the command showed where."""
    code, output = run("keys", "create", tenant, "--database", postgres_place)
    assert (code, "from 1 to 64 printable characters" in output) == (2, True)
    assert run("keys", "create", "t" * 64, "--database", postgres_place)[0] == 0
