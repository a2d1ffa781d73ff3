"""The database: schema, migrations, keys and the record of answers."""

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

from deepserve.core.errors import ConfigurationError, EngineFailure, UnfitAnswer
from deepserve.core.events import Checked, Failed, Finished, Started, UsageReported
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request, RequestId
from deepserve.core.tenant import TenantId
from deepserve.core.usage import Usage
from deepserve.store.answers import AnswerLog, AnswerRecord, read_totals
from deepserve.store.database import HEAD, open_database
from deepserve.store.keys import KeyStore
from deepserve.store.tables import answers, api_keys, metadata
from deepserve.store.writer import Writer

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def request(name: str) -> Request:
    return Request(id=RequestId(name), model="deepseek-v4-flash", arrived_at=NOON)


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


def test_each_answer_leaves_one_row_and_no_content(tmp_path: Path) -> None:
    engine = open_database(tmp_path)
    writer = Writer(engine)
    log = AnswerLog(writer)
    served_by = ServedBy(provider="deepserve", model="mini-flash", fingerprint="f")
    usage = Usage(hit_tokens=128, miss_tokens=7, reasoning_tokens=3, answer_tokens=5)
    for name, error in (("good", None), ("bad", EngineFailure("broken"))):
        log.on_accepted(request(name))
        log.on_event(request(name), Started(served_by=served_by))
        log.on_event(request(name), UsageReported(usage=usage))
        log.on_event(request(name), Finished(reason="stop"))
        log.on_ended(request(name), error)
    log.on_accepted(request("refused"))
    log.on_ended(request("refused"), None)
    writer.close()
    with engine.connect() as connection:
        rows = {row.request_id: row for row in connection.execute(select(answers))}
    assert set(rows) == {"good", "bad"}
    assert rows["good"].outcome == "stop"
    assert rows["bad"].outcome == "engine_failure"
    (totals,) = read_totals(engine)
    assert totals.num_answers == 2
    assert totals.usage == usage.plus(usage)
    assert totals.served_by == "deepserve/mini-flash"


def test_what_was_done_about_the_form_of_an_answer_is_recorded(tmp_path: Path) -> None:
    engine = open_database(tmp_path)
    writer = Writer(engine)
    log = AnswerLog(writer)
    served_by = ServedBy(provider="deepserve", model="mini-flash", fingerprint="f")
    repaired, wrong = Checked(verdict="repaired", repairs=("fences",), num_retries=1), Checked(verdict="invalid")
    for name, started, end in (
        ("free", None, Finished(reason="stop")),
        ("held", repaired, Finished(reason="stop", checked=repaired)),
        ("streamed", None, Finished(reason="stop", checked=Checked(verdict="valid"))),
        ("failed", wrong, Failed(error=UnfitAnswer("no"))),
    ):
        log.on_accepted(request(name))
        log.on_event(request(name), Started(served_by=served_by, checked=started))
        log.on_event(request(name), end)
        log.on_ended(request(name), end.error if isinstance(end, Failed) else None)
    writer.close()
    record = AnswerRecord(engine)
    rows = {
        row.request_id: (row.outcome, row.checked) for row in record.page(request("free").tenant.id, first=0, size=9)
    }
    assert rows == {
        "free": ("stop", None),
        "held": ("stop", "checked=repaired, retried=1"),
        "streamed": ("stop", "checked=valid"),
        "failed": ("unfit_answer", "checked=invalid"),
    }


def test_a_client_that_leaves_is_recorded_as_such(tmp_path: Path) -> None:
    engine = open_database(tmp_path)
    writer = Writer(engine)
    log = AnswerLog(writer)
    log.on_accepted(request("left"))
    log.on_event(
        request("left"),
        Started(
            served_by=ServedBy(provider="deepserve", model="mini-flash", fingerprint="f"),
            prompt_usage=Usage(miss_tokens=9),
        ),
    )
    log.on_ended(request("left"), None)
    writer.close()
    with engine.connect() as connection:
        row = connection.execute(select(answers)).one()
    assert (row.outcome, row.miss_tokens, row.answer_tokens) == ("client_left", 9, 0)


def test_close_writes_every_waiting_row(tmp_path: Path) -> None:
    engine = open_database(tmp_path)
    writer = Writer(engine)
    log = AnswerLog(writer)
    served_by = ServedBy(provider="deepserve", model="mini-flash", fingerprint="f")
    for number in range(2500):
        log.on_accepted(request(str(number)))
        log.on_event(request(str(number)), Started(served_by=served_by))
        log.on_ended(request(str(number)), None)
    writer.close()
    assert sum(totals.num_answers for totals in read_totals(engine)) == 2500
