"""Failures as this service writes them: a short shape for the model and the messages, a long one for everything else.

Its long shape has no `message`, which leaves the OpenAI SDK with an empty text; ours has one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType
from typing_extensions import override

from deepserve.core import errors
from deepserve.core.errors import DeepserveError, InvalidField, MissingField, UnknownModel
from deepserve.dialects.exchange import NOBODY, Caller, ErrorCodec
from deepserve.dialects.vendor_errors import form_of

_UNKNOWN, _PARAMS, _NOT_FOUND = "unknown_error", "invalid_params", "resource_not_found"

TYPES: Mapping[type[DeepserveError], str] = {
    errors.DeepserveError: _UNKNOWN,
    errors.RequestError: _PARAMS,
    errors.MalformedBody: _PARAMS,
    errors.InvalidField: _PARAMS,
    errors.MissingField: _PARAMS,
    errors.UnsupportedFeature: _PARAMS,
    errors.UnknownModel: _NOT_FOUND,
    errors.ContextOverflow: _PARAMS,
    errors.BodyTooLarge: _PARAMS,
    errors.BodyTooSlow: _PARAMS,
    errors.UnsupportedMedia: "unsupported_media_type",
    errors.RouteNotFound: _NOT_FOUND,
    errors.MethodNotAllowed: _PARAMS,
    errors.AccessError: "unauthorized",
    errors.AuthenticationFailed: "unauthenticated",
    errors.OriginRefused: "unauthorized",
    errors.PermissionDenied: "unauthorized",
    errors.BudgetExhausted: "insufficient_credits",
    errors.CapacityError: "rate_limited",
    errors.TooManyRequests: "rate_limited",
    errors.RateLimited: "rate_limited",
    errors.Overloaded: "rate_limited",
    errors.StoreUnavailable: "rate_limited",
    errors.ServingError: _UNKNOWN,
    errors.EngineFailure: _UNKNOWN,
    errors.BackendFailure: _UNKNOWN,
    errors.DamagedToolCall: _UNKNOWN,
    errors.UnfitAnswer: _UNKNOWN,
    errors.RequestTimedOut: _UNKNOWN,
    errors.Cancelled: _UNKNOWN,
    errors.SetupError: _UNKNOWN,
    errors.ConfigurationError: _UNKNOWN,
    errors.CheckpointError: _UNKNOWN,
}
"""The service documents unauthenticated, invalid_params, resource_not_found and unknown_error; its own clients know
insufficient_credits and rate_limited too (docs.oxen.ai, github.com/gschoeni/Oxen-Harness)."""

TITLES: Mapping[str, str] = {
    _PARAMS: "The request is invalid.",
    _NOT_FOUND: "The requested resource could not be found",
    _UNKNOWN: "The server met a fault.",
    "insufficient_credits": "You have run out of credits.",
    "rate_limited": "Too many requests. Please retry later.",
    "unauthenticated": "A valid API key is needed.",
    "unauthorized": "This request is not allowed.",
    "unsupported_media_type": "Unsupported media type",
}

NO_MODEL = "You must specify a model to call"
NO_MESSAGES = "Messages array cannot be empty"
_HIDDEN = "The server met an internal fault. It has been logged."


class WireError(msgspec.Struct, kw_only=True):
    """The short shape has a message only. field is ours: the path of what is at fault."""

    type: str | UnsetType = UNSET
    title: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    message: str
    field: str | UnsetType = UNSET


class WireErrorBody(msgspec.Struct, kw_only=True):
    error: WireError
    status: str | UnsetType = UNSET
    status_message: str | UnsetType = UNSET
    status_description: str | UnsetType = UNSET


def no_model() -> MissingField:
    return MissingField(NO_MODEL, field="model")


def no_messages() -> InvalidField:
    return InvalidField(NO_MESSAGES, field="messages")


def status_of(error: DeepserveError) -> int:
    return 404 if isinstance(error, UnknownModel) else form_of(error).status


def encode_error(error: DeepserveError) -> bytes:
    message = _HIDDEN if form_of(error).is_hidden else error.message
    if isinstance(error, UnknownModel) or message in (NO_MODEL, NO_MESSAGES):
        return msgspec.json.encode(WireErrorBody(error=WireError(message=message)))
    type_ = next(TYPES[cls] for cls in type(error).__mro__ if cls in TYPES)
    return msgspec.json.encode(
        WireErrorBody(
            error=WireError(
                type=type_,
                title=TITLES[type_],
                detail=message,
                message=message,
                field=UNSET if error.field is None else error.field,
            ),
            status="error",
            status_message=type_,
            status_description=message,
        )
    )


class OxenErrors(ErrorCodec):
    """The service's forms."""

    @override
    def status(self, error: DeepserveError) -> int:
        return status_of(error)

    @override
    def encode(
        self, error: DeepserveError, *, request_id: str, is_strict: bool = False, caller: Caller = NOBODY
    ) -> bytes:
        return encode_error(error)
