"""Whom an upstream takes our users for."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from deepserve.core.request import Request
from deepserve.core.tenant import LOCAL_TENANT


def upstream_user(request: Request) -> str | None:
    """Whose request it is, for the upstream's own isolation: different for each of our tenants, and naming nobody."""
    if request.tenant.id == LOCAL_TENANT.id:
        return request.user_id
    return _pseudonym(request.tenant.id, request.user_id or "")


@lru_cache(maxsize=4096)
def _pseudonym(tenant_id: str, user_id: str) -> str:
    return hashlib.sha256(f"{tenant_id}\0{user_id}".encode()).hexdigest()[:32]
