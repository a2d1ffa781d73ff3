"""The secret that all servers of one database have."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepserve.core.errors import ConfigurationError
from deepserve.core.tenant import TenantId
from deepserve.store.agreements import agree, forget
from deepserve.store.database import Database, open_database
from deepserve.store.sealing import open_sealer
from deepserve.store.secret import derive_key, open_shared_secret
from tests.databases import Opener

TENANT = TenantId("a")


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"0123456789abcdef" * 2 + b"\n")
    return path


def test_the_first_says_it_and_the_others_compare(open_place: Opener) -> None:
    one, other = open_place(), open_place()
    assert agree(one, "secret", "x")
    assert agree(other, "secret", "x")
    assert not agree(other, "secret", "y")
    assert agree(other, "something else", "y")
    assert forget(one, "secret")
    assert not forget(one, "secret")
    assert agree(other, "secret", "y")


def test_servers_with_the_same_file_open_each_others_seals(
    postgres_place: str, secret_file: Path, tmp_path: Path
) -> None:
    sealers = []
    for name in ("one", "other"):
        database = open_database(postgres_place)
        secret = open_shared_secret(database, tmp_path / name, secret_file)
        database.dispose()
        sealers.append(open_sealer(tmp_path / name, secret))
    assert sealers[1].unseal(TENANT, sealers[0].seal(TENANT, "trace")) == "trace"
    assert not (tmp_path / "one").exists(), "nothing is made where nothing is needed"


def test_a_server_with_another_secret_is_refused_until_the_first_is_forgotten(
    postgres_place: str, secret_file: Path, tmp_path: Path
) -> None:
    database = open_database(postgres_place)
    try:
        first = open_shared_secret(database, tmp_path / "one", None)
        assert open_shared_secret(database, tmp_path / "one", None) == first
        with pytest.raises(ConfigurationError, match=r"shared\.key.*--secret-file.*forget-secret"):
            open_shared_secret(database, tmp_path / "other", None)
        with pytest.raises(ConfigurationError, match="not that of the other servers"):
            open_shared_secret(database, tmp_path / "one", secret_file)
        # What the first one keeps in its state directory can be given to the others as it is.
        assert open_shared_secret(database, None, tmp_path / "one" / "shared.key") == first
        assert forget(database, "secret")
        assert open_shared_secret(database, tmp_path / "one", secret_file) is not None
        assert first is not None
        (fingerprint,) = postgres_fingerprints(database)
        assert first.hex()[:8] not in fingerprint
    finally:
        database.dispose()


def postgres_fingerprints(database: Database) -> list[str]:
    with database.connect() as connection:
        return [str(row[0]) for row in connection.exec_driver_sql("SELECT value FROM agreements")]


def test_a_file_of_one_machine_needs_no_agreement(tmp_path: Path, secret_file: Path) -> None:
    database = open_database(tmp_path)
    assert open_shared_secret(database, tmp_path, None) is None
    assert open_shared_secret(database, tmp_path, secret_file) == secret_file.read_bytes()
    assert open_shared_secret(None, None, None) is None


def test_without_a_place_for_a_secret_one_must_be_named(postgres_place: str) -> None:
    database = open_database(postgres_place)
    with pytest.raises(ConfigurationError, match="--secret-file"):
        open_shared_secret(database, None, None)
    database.dispose()


@pytest.mark.parametrize("content", [b"", b"too short", None])
def test_what_is_no_secret_is_said_by_name(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "weak"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="weak"):
        open_shared_secret(None, None, path)


def test_keys_of_different_purposes_tell_nothing_of_each_other() -> None:
    keys = {derive_key(secret, purpose) for secret in (b"a" * 32, b"b" * 32) for purpose in ("sealing", "webhooks")}
    assert len(keys) == 4
    assert all(len(key) == 32 for key in keys)
