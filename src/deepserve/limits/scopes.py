"""What a key is for: the one place that says no. Everything is allowed where there is no grant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from deepserve.core.errors import PermissionDenied
from deepserve.core.provider import ServedModel
from deepserve.core.request import Dialect, Request
from deepserve.core.server_tool import ToolKind
from deepserve.core.tenant import Grant, Tenant

_REVOKED = "The key that sent this has been revoked."

Model = TypeVar("Model", bound=ServedModel)


def denial(request: Request) -> PermissionDenied | None:
    """Why a request may not be answered; None: it may.

    A tool that the request can do without is no reason: it is left out, as one that the server does not have.
    """
    grant = request.tenant.grant
    if grant is None:
        return None
    if grant.is_revoked:
        return PermissionDenied(_REVOKED)
    if grant.dialects is not None and request.dialect and request.dialect not in grant.dialects:
        return _not_for(grant.dialects, f"the API `{request.dialect}`", None)
    if grant.models is not None:
        for model in (request.model, *request.fallback_models):
            if model not in grant.models:
                return _not_for(grant.models, f"the model {model}", "model")
    if grant.tools is not None:
        for wanted in request.server_tools:
            if wanted.tool not in grant.tools and wanted.if_missing != "skip":
                return _not_for(grant.tools, f"the server's tool `{wanted.tool}`", "tools")
    return None


def check_tool(tenant: Tenant, dialect: Dialect, tool: ToolKind) -> None:
    """For tools that a client calls itself. Raises PermissionDenied."""
    grant = tenant.grant
    if grant is None:
        return
    if grant.dialects is not None and dialect not in grant.dialects:
        raise _not_for(grant.dialects, f"the API `{dialect}`", None)
    if grant.tools is not None and tool not in grant.tools:
        raise _not_for(grant.tools, f"the server's tool `{tool}`", None)


def check_admin(tenant: Tenant) -> None:
    """For what concerns everybody. Raises PermissionDenied."""
    if tenant.grant is not None and not tenant.grant.is_admin:
        raise PermissionDenied(
            "This address is for administrators. Use an administrator's key: `deepserve keys set KEY --admin`."
        )


def permitted(tenant: Tenant, served: Sequence[Model]) -> Sequence[Model]:
    """Those of the models that may be asked for, as lists show them."""
    grant = tenant.grant
    if grant is None or grant.models is None:
        return served
    return [model for model in served if model.id in grant.models]


def choosable(grant: Grant | None, served: Sequence[Model], preset: str) -> Sequence[Model]:
    """Those of the models that may answer where `preset` leaves the choice open.

    A grant of nothing but such names leaves the choice to them; one that names models too keeps to these.
    """
    if grant is None or grant.models is None:
        return served
    kept = [model for model in served if model.id in grant.models]
    return kept or (served if preset in grant.models else [])


def _not_for(allowed: Iterable[str], what: str, field: str | None) -> PermissionDenied:
    names = ", ".join(sorted(allowed)) or "nothing"
    return PermissionDenied(f"This key may not use {what}. It may use: {names}.", field=field)
