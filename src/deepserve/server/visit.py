"""What the server knows about one HTTP request once it has come through the door."""

from __future__ import annotations

from uuid import UUID

import msgspec
from starlette.types import Scope

from deepserve.core.tenant import LOCAL_TENANT, Tenant

_KEY = "deepserve.visit"


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """id is new for each request; its hex form is the trace id, its dashed form the id of the answer."""

    id: UUID
    tenant: Tenant = LOCAL_TENANT
    is_strict: bool = False


def remember(scope: Scope, visit: Visit) -> None:
    scope[_KEY] = visit


def visit_of(scope: Scope) -> Visit:
    """Only behind the door."""
    visit = scope[_KEY]
    assert isinstance(visit, Visit)
    return visit
