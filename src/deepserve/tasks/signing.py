"""Signatures that let a receiver know who calls.

The signed text, the headers and the form of secrets are those of Standard Webhooks 1.0,
https://github.com/standard-webhooks/standard-webhooks. A tenant's secrets are derived from one key of the state
directory, so none is stored; the database only counts how often a tenant asked for a new one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

from deepserve.core.task import DeliveryState
from deepserve.core.tenant import TenantId
from deepserve.store.deliveries import DeliveryStore

OVERLAP_S = 86_400.0
"""So long after a rotation the secret before it signs too."""


class WebhookSecrets:
    """key: random bytes of the state directory; None: nothing can be signed, for nothing would survive a restart."""

    def __init__(self, store: DeliveryStore, key: bytes | None) -> None:
        self._store = store
        self._key = key

    def create(self, tenant: TenantId, *, now: datetime) -> str | None:
        """A new secret, as receivers take it; calls are signed with it from now on."""
        return None if self._key is None else show_secret(self._derive(tenant, self._store.add_secret(tenant, now=now)))

    def headers(self, delivery: DeliveryState, *, now: datetime) -> Mapping[str, str]:
        """The headers of one attempt made now. Blocks for a database's time."""
        timestamp = int(now.timestamp())
        headers = {"webhook-id": delivery.id, "webhook-timestamp": str(timestamp)}
        if self._key is not None:
            versions = self._store.secrets(delivery.tenant.id, now=now, overlap_s=OVERLAP_S)
            secrets = [self._derive(delivery.tenant.id, version) for version in versions]
            if secrets:
                headers["webhook-signature"] = " ".join(
                    sign(secret, delivery.id, timestamp, delivery.body) for secret in secrets
                )
        return headers

    def _derive(self, tenant: TenantId, version: int) -> bytes:
        assert self._key is not None
        return hmac.digest(self._key, f"webhook secret {version} of {tenant}".encode(), hashlib.sha256)


def show_secret(secret: bytes) -> str:
    return "whsec_" + base64.b64encode(secret).decode()


def sign(secret: bytes, delivery_id: str, timestamp: int, body: bytes) -> str:
    """One entry of the `webhook-signature` header."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
