"""Keys at rest: found, changed, exchanged, revoked, and never readable. On both databases."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, Table, insert, select

from deepserve.core.task import NewTask, TaskState
from deepserve.core.tenant import Budgets, Grant, KeyId, RateLimits, Tenant, TenantId
from deepserve.store.database import Database
from deepserve.store.keys import MOST_USD, KeyStore, key_digest
from deepserve.store.tables import metadata
from deepserve.store.tasks import TaskStore

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)

GRANT = Grant(
    models=frozenset(("deepseek-v4-flash", "deepseek-v4-pro")),
    dialects=frozenset(("messages",)),
    tools=frozenset(),
    is_admin=True,
    budgets=Budgets(usd_per_day=Decimal("0.000000000001"), usd_per_month=MOST_USD),
    limits=RateLimits(max_concurrent=1, requests_per_minute=2, tokens_per_minute=2_000_000_000),
)


class Clock:
    at = NOON

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(database: Database, clock: Clock) -> KeyStore:
    numbers = itertools.count(1)
    return KeyStore(database, random_hex=lambda size: f"{next(numbers):0{2 * size}x}", now=clock)


def test_a_key_comes_back_with_all_that_it_may_do(keys: KeyStore) -> None:
    made = keys.create(TenantId("alice"), name="ci", grant=GRANT)
    tenant = keys.find(made.secret)
    assert tenant is not None
    assert (tenant.id, tenant.key, tenant.grant) == ("alice", made.id, GRANT)
    assert made.secret.startswith("sk-ds-")
    [row] = keys.list()
    assert (row.id, row.name, row.grant, row.created_at, row.expires_at) == (made.id, "ci", GRANT, NOON, None)


def test_keys_are_found_until_they_are_revoked(keys: KeyStore) -> None:
    first, second = keys.create(TenantId("alice")), keys.create(TenantId("bob"))
    assert keys.find(first.secret + "x") is None
    keys.revoke(first.id)
    assert keys.find(first.secret) is None
    assert keys.find(second.secret) is not None
    assert [row.status(NOON) for row in keys.list()] == ["revoked", "valid"]


def test_keys_are_found_until_they_expire(keys: KeyStore, clock: Clock) -> None:
    made = keys.create(TenantId("alice"), expires_at=NOON + timedelta(hours=1))
    assert keys.has_any()
    assert keys.find(made.secret) is not None
    clock.at = NOON + timedelta(hours=1)
    assert keys.find(made.secret) is None
    assert keys.has_any()  # a server that starts again does not let everybody in
    assert [row.status(clock.at) for row in keys.list()] == ["expired"]
    keys.revoke(made.id)
    assert not keys.has_any()


def test_a_change_holds_from_the_next_look_on(keys: KeyStore) -> None:
    made = keys.create(TenantId("alice"), grant=GRANT)
    keys.change(made.id, name="new", grant=Grant(), expires_at=NOON + timedelta(days=1))
    tenant = keys.find(made.secret)
    assert tenant is not None
    assert tenant.grant == Grant()
    assert keys.list()[0].name == "new"


def test_a_new_secret_leaves_the_key_what_it_is_and_the_old_one_its_time(keys: KeyStore, clock: Clock) -> None:
    made = keys.create(TenantId("alice"), grant=GRANT)
    again = keys.rotate(made.id, old_until=NOON + timedelta(hours=1))
    assert again.id == made.id
    for secret in (made.secret, again.secret):
        tenant = keys.find(secret)
        assert tenant is not None
        assert tenant.key == made.id
    clock.at = NOON + timedelta(hours=1)
    assert keys.find(made.secret) is None
    assert keys.find(again.secret) is not None
    assert [row.shown for row in keys.list()] == [again.secret[:12]]


def test_a_second_exchange_does_not_prolong_the_first_secret(keys: KeyStore, clock: Clock) -> None:
    made = keys.create(TenantId("alice"))
    keys.rotate(made.id, old_until=NOON + timedelta(hours=1))
    keys.rotate(made.id, old_until=NOON + timedelta(days=9))
    clock.at = NOON + timedelta(hours=2)
    assert keys.find(made.secret) is None


def test_a_key_is_meant_by_its_id_its_name_its_secret_or_how_that_begins(database: Database) -> None:
    random: Iterator[str] = iter(("1" * 12, "a" * 64, "2" * 12, "ab" * 32))
    keys = KeyStore(database, random_hex=lambda _: next(random), now=lambda: NOON)
    first, second = keys.create(TenantId("alice"), name="ci"), keys.create(TenantId("bob"), name="home")

    def meant(text: str) -> list[KeyId]:
        return [row.id for row in keys.named(text)]

    assert meant("ci") == meant(first.id) == meant(first.secret) == meant("sk-ds-aa") == [first.id]
    assert meant("sk-ds-ab") == [second.id]
    assert meant("sk-ds-a") == [first.id, second.id]
    assert meant("sk-ds-%") == meant(first.secret + "x") == meant("nobody") == []
    keys.revoke(first.id)
    assert meant("sk-ds-a") == [second.id]
    assert meant("ci") == [first.id]


def test_no_column_of_any_table_holds_a_readable_secret(keys: KeyStore, database: Database) -> None:
    secret = keys.create(TenantId("alice"), grant=GRANT).secret
    with database.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)):
                assert secret not in str(tuple(row))
                assert secret.encode() not in b"".join(value for value in row if isinstance(value, bytes))


def test_a_secret_of_odd_characters_is_unknown_and_no_error(keys: KeyStore) -> None:
    assert keys.find("\udcff\x00") is None


def test_every_member_of_a_grant_is_kept(keys: KeyStore) -> None:
    """Fails when one is added and forgotten here: each is given a value of its own, and has to come back."""
    assert {name for name in Grant.__struct_fields__ if getattr(GRANT, name) == getattr(Grant(), name)} == {
        "is_revoked"  # which is not the grant's own: it is said by the time of revocation
    }
    for part, none in ((GRANT.budgets, Budgets()), (GRANT.limits, RateLimits())):
        assert all(getattr(part, name) != getattr(none, name) for name in part.__struct_fields__)
    made = keys.create(TenantId("alice"), grant=GRANT)
    keys.revoke(made.id)
    assert keys.list()[0].grant == msgspec.structs.replace(GRANT, is_revoked=True)


def test_keys_of_older_releases_keep_working_and_keep_all_rights(database: Database) -> None:
    """Also what is for administrators since: whoever watches a server must not lose sight of it by an update."""
    secret = "sk-ds-" + "7" * 64
    old = {"shown": secret[:12], "tenant_id": "alice", "created_at": NOON}
    with database.begin() as connection:
        _migrate(connection, command.downgrade, "0007")
        table = Table("api_keys", MetaData(), autoload_with=connection)
        connection.execute(insert(table), {**old, "digest": key_digest(secret), "is_revoked": False})
        connection.execute(insert(table), {**old, "digest": key_digest("other"), "is_revoked": True})
        _migrate(connection, command.upgrade, "head")
    keys = KeyStore(database, random_hex=lambda _: "0", now=lambda: NOON)
    tenant = keys.find(secret)
    assert tenant is not None
    assert (tenant.id, tenant.grant) == ("alice", Grant(is_admin=True))
    assert keys.find("other") is None
    assert len(keys.list()) == 2
    with database.begin() as connection:
        _migrate(connection, command.downgrade, "0007")
        digests = connection.execute(select(Table("api_keys", MetaData(), autoload_with=connection))).all()
        assert {(row.digest, row.is_revoked) for row in digests} == {
            (key_digest(secret), False),
            (key_digest("other"), True),
        }
        _migrate(connection, command.upgrade, "head")


def _migrate(connection: Connection, move: Callable[[Config, str], None], version: str) -> None:
    config = Config()
    config.set_main_option("script_location", "deepserve.store:migrations")
    config.attributes["connection"] = connection
    move(config, version)


def test_a_task_is_done_with_what_its_key_may_do_when_it_is_begun(keys: KeyStore, database: Database) -> None:
    """A key that was revoked meanwhile may do nothing: its tasks end, they are not carried out."""
    made = keys.create(TenantId("alice"), grant=GRANT)
    tasks = TaskStore(database)
    tenant = keys.find(made.secret)
    assert tenant is not None
    for name in ("one", "two"):
        task = NewTask(id=name, kind="k", tenant=tenant, body=b"", arrived_at=NOON, keep_s=1.0)
        tasks.insert(task, now=NOON, max_unfinished=9, max_bytes=9)
    keys.change(made.id, name="", grant=Grant(is_admin=True), expires_at=None)
    assert _grant_of(tasks.claim((tenant.id, "one"), owner="o", now=NOON, lease_s=1.0)) == Grant(is_admin=True)
    keys.revoke(made.id)
    grant = _grant_of(tasks.claim((tenant.id, "two"), owner="o", now=NOON, lease_s=1.0))
    assert grant == Grant(is_admin=True, is_revoked=True)


def test_a_task_of_a_key_that_is_not_known_may_do_nothing(database: Database) -> None:
    tasks, tenant = TaskStore(database), Tenant(id=TenantId("alice"), key=KeyId("key-nobody"))
    task = NewTask(id="one", kind="k", tenant=tenant, body=b"", arrived_at=NOON, keep_s=1.0)
    tasks.insert(task, now=NOON, max_unfinished=9, max_bytes=9)
    grant = _grant_of(tasks.claim((tenant.id, "one"), owner="o", now=NOON, lease_s=1.0))
    assert grant == Grant(is_revoked=True)


def _grant_of(state: TaskState | None) -> Grant | None:
    assert state is not None
    assert state.tenant.key is not None
    return state.tenant.grant
