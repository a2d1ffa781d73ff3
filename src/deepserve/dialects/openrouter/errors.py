"""Failures as this service writes them: every error of the core as a status and a typed error."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType
from typing_extensions import override

from deepserve.core import errors
from deepserve.core.errors import DeepserveError
from deepserve.dialects.exchange import NOBODY, Caller, ErrorCodec
from deepserve.dialects.openrouter.metadata import WireRouting, failed_routing, user_id, wants_metadata
from deepserve.dialects.openrouter.provider import EXCLUDED_BY
from deepserve.dialects.vendor_errors import form_of

_DOCS = "https://openrouter.ai/docs/api-reference/errors"
_HIDDEN = "Internal Server Error"

_INVALID, _SERVER = "invalid_request", "server"

TYPES: Mapping[type[DeepserveError], str] = {
    errors.DeepserveError: _SERVER,
    errors.RequestError: _INVALID,
    errors.MalformedBody: _INVALID,
    errors.InvalidField: _INVALID,
    errors.MissingField: _INVALID,
    errors.UnsupportedFeature: _INVALID,
    errors.UnknownModel: _INVALID,
    errors.ContextOverflow: "context_length_exceeded",
    errors.BodyTooLarge: "payload_too_large",
    errors.BodyTooSlow: "timeout",
    errors.UnsupportedMedia: _INVALID,
    errors.RouteNotFound: "not_found",
    errors.MethodNotAllowed: _INVALID,
    errors.AccessError: "permission_denied",
    errors.AuthenticationFailed: "authentication",
    errors.OriginRefused: "permission_denied",
    errors.PermissionDenied: "permission_denied",
    errors.BudgetExhausted: "payment_required",
    errors.CapacityError: "provider_overloaded",
    errors.TooManyRequests: "rate_limit_exceeded",
    errors.RateLimited: "rate_limit_exceeded",
    errors.Overloaded: "provider_overloaded",
    errors.StoreUnavailable: "provider_overloaded",
    errors.ServingError: _SERVER,
    errors.EngineFailure: _SERVER,
    errors.BackendFailure: "provider_unavailable",
    errors.DamagedToolCall: _SERVER,
    errors.UnfitAnswer: _SERVER,
    errors.RequestTimedOut: "timeout",
    errors.Cancelled: _SERVER,
    errors.SetupError: _SERVER,
    errors.ConfigurationError: _SERVER,
    errors.CheckpointError: _SERVER,
}
"""`metadata.error_type`, which clients switch on (openrouter.ai/docs/api-reference/errors)."""


class WireAvailability(msgspec.Struct, omit_defaults=True):
    """Why no endpoint answered, and whether another try may help."""

    code: str
    retryable: bool | UnsetType = UNSET
    requested_models: list[str] | UnsetType = UNSET
    excluded_by: list[str] = []
    retry_after: float | None = None
    docs_url: str = ""


class WireMetadata(msgspec.Struct, omit_defaults=True):
    """field is ours: the path of what is at fault."""

    error_type: str
    field: str | None = None


class WireError(msgspec.Struct):
    """code is the status, also in a stream, where clients refuse anything but a number."""

    message: str
    code: int
    metadata: WireMetadata
    availability: WireAvailability | UnsetType = UNSET


class WireErrorBody(msgspec.Struct):
    """user_id: once a key has said whose request it is. openrouter_metadata: for clients that ask for it."""

    error: WireError
    user_id: str | UnsetType = UNSET
    openrouter_metadata: WireRouting | UnsetType = UNSET


def status_of(error: DeepserveError) -> int:
    """The vendor's, except that wishes about providers which cannot be met find no endpoint."""
    return 404 if _excluded_by(error) is not None else form_of(error).status


def wire_error(error: DeepserveError) -> WireError:
    excluded_by = _excluded_by(error)
    return WireError(
        message=_HIDDEN if form_of(error).is_hidden else error.message,
        code=status_of(error),
        metadata=WireMetadata(
            error_type="not_found" if excluded_by is not None else _type_of(error), field=error.field
        ),
        availability=_availability(error, excluded_by),
    )


def encode_error(error: DeepserveError, caller: Caller = NOBODY) -> bytes:
    routing = failed_routing(error.earlier) if wants_metadata(caller.headers) else None
    return msgspec.json.encode(
        WireErrorBody(
            error=wire_error(error),
            user_id=user_id(caller.tenant) or UNSET,
            openrouter_metadata=routing or UNSET,
        )
    )


def _type_of(error: DeepserveError) -> str:
    return next(TYPES[cls] for cls in type(error).__mro__ if cls in TYPES)


def _excluded_by(error: DeepserveError) -> str | None:
    return EXCLUDED_BY.get(error.field or "") if isinstance(error, errors.UnsupportedFeature) else None


def _availability(error: DeepserveError, excluded_by: str | None) -> WireAvailability | UnsetType:
    if excluded_by is not None:
        return WireAvailability(
            code="constraint_filtered",
            retryable=False,
            requested_models=[],
            excluded_by=[excluded_by],
            docs_url=_DOCS,
        )
    match error:
        case errors.UnknownModel():
            requested = error.message.removesuffix(" is not a valid model ID")
            return WireAvailability(
                code="model_not_found", retryable=False, requested_models=[requested], docs_url=_DOCS
            )
        case errors.CapacityError():
            code = "capacity_exhausted" if isinstance(error, errors.TooManyRequests) else "temporarily_unavailable"
            return WireAvailability(
                code=code,
                retryable=True,
                requested_models=[],
                retry_after=error.retry_after_s,
                docs_url=_DOCS,
            )
        case _:
            return UNSET


class OpenRouterErrors(ErrorCodec):
    """The service's form."""

    @override
    def status(self, error: DeepserveError) -> int:
        return status_of(error)

    @override
    def encode(
        self, error: DeepserveError, *, request_id: str, is_strict: bool = False, caller: Caller = NOBODY
    ) -> bytes:
        return encode_error(error, caller)
