"""Whom an upstream takes our users for."""

from __future__ import annotations

import hashlib

from deepserve.core.request import Request
from deepserve.core.tenant import LOCAL_TENANT


def upstream_user(request: Request) -> str | None:
    """Whose request it is, for the upstream's own isolation: different for each of our tenants, and naming nobody."""
    if request.tenant.id == LOCAL_TENANT.id:
        return request.user_id
    return hashlib.sha256(f"{request.tenant.id}\0{request.user_id or ''}".encode()).hexdigest()[:32]
