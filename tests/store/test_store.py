"""The database: schema, migrations and keys."""

from __future__ import annotations

import itertools
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from deepserve.core.errors import ConfigurationError
from deepserve.core.tenant import TenantId
from deepserve.store.database import HEAD, open_database
from deepserve.store.keys import KeyStore
from deepserve.store.tables import api_keys, metadata

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def key_store(tmp_path: Path) -> KeyStore:
    numbers = itertools.count(1)
    return KeyStore(open_database(tmp_path), random_hex=lambda size: f"{next(numbers):0{2 * size}x}", now=lambda: NOON)


def test_migrations_lead_to_the_tables_of_the_code(tmp_path: Path) -> None:
    with open_database(tmp_path).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_head_named_in_the_code_is_the_newest_script() -> None:
    config = Config()
    config.set_main_option("script_location", "deepserve.store:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_opening_twice_keeps_what_is_there(tmp_path: Path) -> None:
    key = key_store(tmp_path).create(TenantId("alice"))
    assert key_store(tmp_path).find(key) is not None


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    with open_database(tmp_path).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="another release"):
        open_database(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="owner-only modes exist on POSIX only")
def test_the_state_directory_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o755)
    open_database(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_state_directory_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("")
    with pytest.raises(ConfigurationError, match="--state-dir"):
        open_database(path)


def test_a_damaged_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "deepserve.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"deepserve\.db"):
        open_database(tmp_path)


def test_keys_are_found_until_they_are_revoked(tmp_path: Path) -> None:
    keys = key_store(tmp_path)
    first, second = keys.create(TenantId("alice")), keys.create(TenantId("bob"))
    tenant = keys.find(first)
    assert tenant is not None
    assert tenant.id == "alice"
    assert keys.find(first + "x") is None
    assert keys.revoke(first) == 1
    assert keys.find(first) is None
    assert [row.is_revoked for row in keys.list() if row.tenant == "alice"] == [True]
    assert second.startswith("sk-ds-")


def test_a_key_is_revoked_by_its_beginning_only_if_that_is_clear(tmp_path: Path) -> None:
    random = iter(("a" * 64, "ab" * 32))
    keys = KeyStore(open_database(tmp_path), random_hex=lambda size: next(random), now=lambda: NOON)
    first, second = keys.create(TenantId("alice")), keys.create(TenantId("bob"))
    assert keys.revoke("sk-ds-a") == 2
    assert keys.find(first) is not None
    assert keys.revoke("sk-ds-ab") == 1
    assert keys.find(second) is None
    assert keys.revoke("sk-ds-%") == 0
    assert keys.revoke("sk-ds-a") == 1


def test_no_column_holds_a_readable_key(tmp_path: Path) -> None:
    key = key_store(tmp_path).create(TenantId("alice"))
    with open_database(tmp_path).connect() as connection:
        row = connection.execute(select(api_keys)).one()
    assert key.encode() not in row.digest
    assert not any(isinstance(value, str) and key in value for value in row)
