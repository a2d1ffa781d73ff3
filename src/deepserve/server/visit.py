"""What the server knows about one HTTP request once it has come through the door."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import msgspec
from starlette.types import Scope

from deepserve.core.request import Request
from deepserve.core.tenant import LOCAL_TENANT, Tenant
from deepserve.core.trace import Trace

_KEY = "deepserve.visit"
_FIELDS = "deepserve.fields"


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """id is new for each request; its hex form is the trace id, its dashed form the id of the answer.

    trace: what the client says that links the request to others.
    """

    id: UUID
    tenant: Tenant = LOCAL_TENANT
    is_strict: bool = False
    trace: Trace | None = None

    def linked(self, request: Request) -> Request:
        """The request, with what its client says that links it to others."""
        return request if self.trace is None else msgspec.structs.replace(request, trace=self.trace)


def fields_of(scope: Scope) -> Mapping[str, str]:
    """The header by the names of its fields, in lower case; of one that stands several times the first."""
    found: dict[str, str] | None = scope.get(_FIELDS)
    if found is None:
        found = scope[_FIELDS] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
    return found


def remember(scope: Scope, visit: Visit) -> None:
    scope[_KEY] = visit


def visit_of(scope: Scope) -> Visit:
    """Only behind the door."""
    visit = scope[_KEY]
    assert isinstance(visit, Visit)
    return visit
