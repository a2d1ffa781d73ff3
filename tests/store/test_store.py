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
from sqlalchemy import text

from deepserve.core.errors import ConfigurationError
from deepserve.core.tenant import TenantId
from deepserve.store.database import HEAD, open_database
from deepserve.store.keys import KeyStore
from deepserve.store.tables import metadata

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
    made = key_store(tmp_path).create(TenantId("alice"))
    assert key_store(tmp_path).find(made.secret) is not None


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
