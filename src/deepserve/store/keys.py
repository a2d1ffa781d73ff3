"""API keys at rest: random, shown once, stored as digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Engine, insert, select, update

from deepserve.core.tenant import Tenant, TenantId
from deepserve.store.tables import api_keys

_PREFIX = "sk-ds-"
_SHOWN_CHARACTERS = 12


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    shown: str
    tenant: TenantId
    created_at: datetime
    is_revoked: bool


def key_digest(key: str) -> bytes:
    """SHA-256; keys hold 256 random bits, so a slow hash would protect nothing more."""
    return hashlib.sha256(key.encode()).digest()


class KeyStore:
    """Creates, finds, lists and revokes keys. random_hex(n) gives n random bytes as hex digits."""

    def __init__(self, engine: Engine, *, random_hex: Callable[[int], str], now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._random_hex = random_hex
        self._now = now

    def create(self, tenant: TenantId) -> str:
        """Return a new key; this is the only time it can be read."""
        key = _PREFIX + self._random_hex(32)
        row = {
            "digest": key_digest(key),
            "shown": key[:_SHOWN_CHARACTERS],
            "tenant_id": tenant,
            "created_at": self._now(),
            "is_revoked": False,
        }
        with self._engine.begin() as connection:
            connection.execute(insert(api_keys), row)
        return key

    def find(self, key: str) -> Tenant | None:
        """The tenant of a valid key, None for an unknown or revoked one."""
        query = select(api_keys.c.tenant_id).where(
            api_keys.c.digest == key_digest(key), api_keys.c.is_revoked.is_(False)
        )
        with self._engine.connect() as connection:
            tenant = connection.execute(query).scalar()
        return None if tenant is None else Tenant(id=TenantId(tenant), name=tenant)

    def has_any(self) -> bool:
        """Whether a usable key exists."""
        with self._engine.connect() as connection:
            query = select(api_keys.c.shown).where(api_keys.c.is_revoked.is_(False)).limit(1)
            return connection.execute(query).first() is not None

    def list(self) -> Sequence[KeyRow]:
        query = select(api_keys.c.shown, api_keys.c.tenant_id, api_keys.c.created_at, api_keys.c.is_revoked).order_by(
            api_keys.c.created_at
        )
        with self._engine.connect() as connection:
            return [
                KeyRow(shown=shown, tenant=TenantId(tenant), created_at=created_at, is_revoked=is_revoked)
                for shown, tenant, created_at, is_revoked in connection.execute(query)
            ]

    def revoke(self, key: str) -> int:
        """Revoke the valid key that is `key`, or begins with it; return how many fit. Only a single one is revoked."""
        valid = select(api_keys.c.digest).where(api_keys.c.is_revoked.is_(False))
        if len(key) > _SHOWN_CHARACTERS:
            fitting = valid.where(api_keys.c.digest == key_digest(key))
        else:
            fitting = valid.where(api_keys.c.shown.startswith(key, autoescape=True))
        with self._engine.begin() as connection:
            digests = connection.execute(fitting).scalars().all()
            if len(digests) == 1:
                connection.execute(update(api_keys).where(api_keys.c.digest == digests[0]).values(is_revoked=True))
        return len(digests)
