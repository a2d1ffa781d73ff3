"""API keys at rest: what each may do, and its secrets, which are random, shown once and stored as digests."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, insert, or_, select, update

from deepserve.core.cost import pico_usd, usd_of
from deepserve.core.tenant import Budgets, Grant, KeyId, RateLimits, Tenant, TenantId
from deepserve.store.tables import key_secrets, keys

MOST_USD: Final = Decimal(9_000_000)
"""Of a budget: more pico-dollars do not fit into 64 bits."""

_PREFIX = "sk-ds-"
_SHOWN_CHARACTERS = 12

KeyStatus = Literal["valid", "expired", "revoked"]


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A key. shown: how its newest secret begins."""

    id: KeyId
    name: str
    tenant: TenantId
    shown: str
    grant: Grant
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def status(self, now: datetime) -> KeyStatus:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """secret: the only time it can be read."""

    id: KeyId
    secret: str


def key_digest(key: str) -> bytes:
    """SHA-256; keys hold 256 random bits, so a slow hash would protect nothing more."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class KeyStore:
    """Creates, finds, changes and revokes keys. random_hex(n) gives n random bytes as hex digits.

    Methods block for a database's time.
    """

    def __init__(self, engine: Engine, *, random_hex: Callable[[int], str], now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._random_hex = random_hex
        self._now = now

    def create(
        self,
        tenant: TenantId,
        *,
        name: str = "",
        grant: Grant = Grant(),  # noqa: B008 - frozen
        expires_at: datetime | None = None,
    ) -> NewKey:
        key = KeyId(f"key-{self._random_hex(6)}")
        row = {
            "id": key,
            "name": name,
            "tenant_id": tenant,
            "created_at": self._now(),
            "expires_at": expires_at,
            **_columns(grant),
        }
        with self._engine.begin() as connection:
            connection.execute(insert(keys), row)
            return NewKey(id=key, secret=self._new_secret(connection, key))

    def find(self, key: str) -> Tenant | None:
        """The tenant of a valid key with what the key may do; None for an unknown, expired or revoked one."""
        now = self._now()
        query = _found().where(
            key_secrets.c.digest == key_digest(key),
            keys.c.revoked_at.is_(None),
            _holds(keys.c.expires_at, now),
            _holds(key_secrets.c.expires_at, now),
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return Tenant(id=TenantId(row.tenant_id), name=row.tenant_id, key=KeyId(row.id), grant=_grant(row))

    def has_any(self) -> bool:
        """Whether not everybody may come. A key that has expired still says so: time alone opens no server."""
        with self._engine.connect() as connection:
            query = select(keys.c.id).where(keys.c.revoked_at.is_(None))
            return connection.execute(query.limit(1)).first() is not None

    def list(self) -> Sequence[KeyRow]:
        """All that ever were, the oldest first."""
        with self._engine.connect() as connection:
            return _rows(connection)

    def named(self, text: str) -> builtins.list[KeyRow]:
        """The keys that a person may mean: by id, by name, by a secret or how it begins. Valid ones, if any of them is.

        A whole secret, an id and a name mean one key; a beginning may be that of several.
        """
        with self._engine.connect() as connection:
            rows = _rows(connection, or_(keys.c.id == text, keys.c.name == text) if text else None)
            if not rows and len(text) > _SHOWN_CHARACTERS:
                rows = _rows(connection, key_secrets.c.digest == key_digest(text))
            elif not rows:
                rows = _rows(connection, key_secrets.c.shown.startswith(text, autoescape=True))
        now = self._now()
        return [row for row in rows if row.status(now) == "valid"] or rows

    def change(self, key: KeyId, *, name: str, grant: Grant, expires_at: datetime | None) -> None:
        """What a key may do from now on; gateways that run follow within a second or two."""
        values = {"name": name, "expires_at": expires_at, **_columns(grant)}
        with self._engine.begin() as connection:
            connection.execute(update(keys).where(keys.c.id == key).values(**values))

    def revoke(self, key: KeyId) -> None:
        """For good. It stays in the list, and in what it has spent."""
        with self._engine.begin() as connection:
            unrevoked = and_(keys.c.id == key, keys.c.revoked_at.is_(None))
            connection.execute(update(keys).where(unrevoked).values(revoked_at=self._now()))

    def rotate(self, key: KeyId, *, old_until: datetime) -> NewKey:
        """A new secret for the same key, budgets and limits. old_until: so long those before it are still taken."""
        older = and_(key_secrets.c.key_id == key, or_(_holds(key_secrets.c.expires_at, old_until)))
        with self._engine.begin() as connection:
            connection.execute(update(key_secrets).where(older).values(expires_at=old_until))
            return NewKey(id=key, secret=self._new_secret(connection, key))

    def _new_secret(self, connection: Connection, key: KeyId) -> str:
        secret = _PREFIX + self._random_hex(32)
        row = {
            "digest": key_digest(secret),
            "key_id": key,
            "shown": secret[:_SHOWN_CHARACTERS],
            "created_at": self._now(),
        }
        connection.execute(insert(key_secrets), row)
        return secret


def rows_of_tenant(connection: Connection, tenant: TenantId) -> Sequence[KeyRow]:
    """The oldest first."""
    return _rows(connection, keys.c.tenant_id == tenant)


def tenant_of_key(connection: Connection, tenant: Tenant) -> Tenant:
    """A tenant of whom only the key is known, as in a task, with what that key may do now."""
    if tenant.key is None:
        return tenant
    row = connection.execute(select(keys).where(keys.c.id == tenant.key)).one_or_none()
    # A key that nobody knows any more, as from a database that was put together by hand, may do nothing.
    return msgspec.structs.replace(tenant, grant=Grant(is_revoked=True) if row is None else _grant(row))


def _found() -> Any:  # Any: the columns of a row have no common printable type
    return select(keys, key_secrets.c.shown).join_from(keys, key_secrets, keys.c.id == key_secrets.c.key_id)


def _rows(connection: Connection, which: ColumnElement[bool] | None = None) -> list[KeyRow]:
    """One for each key, with its newest secret."""
    query = _found() if which is None else _found().where(which)
    order = keys.c.created_at, keys.c.id, key_secrets.c.created_at
    by_key = {row.id: row for row in connection.execute(query.order_by(*order))}
    return [
        KeyRow(
            id=KeyId(row.id),
            name=row.name,
            tenant=TenantId(row.tenant_id),
            shown=row.shown,
            grant=_grant(row),
            created_at=_in_utc(row.created_at),
            expires_at=None if row.expires_at is None else _in_utc(row.expires_at),
            revoked_at=None if row.revoked_at is None else _in_utc(row.revoked_at),
        )
        for row in by_key.values()
    ]


def _holds(expires_at: ColumnElement[Any], now: datetime) -> ColumnElement[bool]:
    return or_(expires_at.is_(None), expires_at > now)


def _grant(row: Row[Any]) -> Grant:
    return Grant(
        models=_names(row.models),
        dialects=_names(row.dialects),
        tools=_names(row.tools),
        is_admin=row.is_admin,
        budgets=Budgets(
            usd_per_day=None if row.day_budget_pico is None else usd_of(row.day_budget_pico),
            usd_per_month=None if row.month_budget_pico is None else usd_of(row.month_budget_pico),
        ),
        limits=RateLimits(
            max_concurrent=row.max_concurrent,
            requests_per_minute=row.requests_per_minute,
            tokens_per_minute=row.tokens_per_minute,
        ),
        is_revoked=row.revoked_at is not None,
    )


def _columns(grant: Grant) -> Mapping[str, Any]:  # Any: what the columns hold
    budgets, limits = grant.budgets, grant.limits
    return {
        "models": _text(grant.models),
        "dialects": _text(grant.dialects),
        "tools": _text(grant.tools),
        "is_admin": grant.is_admin,
        "day_budget_pico": None if budgets.usd_per_day is None else pico_usd(budgets.usd_per_day),
        "month_budget_pico": None if budgets.usd_per_month is None else pico_usd(budgets.usd_per_month),
        "max_concurrent": limits.max_concurrent,
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
    }


def _names(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(msgspec.json.decode(text, type=list[str]))


def _text(names: frozenset[str] | None) -> str | None:
    return None if names is None else msgspec.json.encode(sorted(names)).decode()


def _in_utc(at: datetime) -> datetime:
    """SQLite forgets the zone; all instants here are in UTC."""
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
