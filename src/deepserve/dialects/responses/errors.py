"""Failures in this dialect: the vendor's statuses and types, with the codes of OpenAI's service.

Codex and others switch on those codes; strict mode writes the vendor's.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from typing_extensions import override

from deepserve.core import errors
from deepserve.core.errors import DeepserveError, InvalidField
from deepserve.dialects import vendor_errors
from deepserve.dialects.exchange import NOBODY, Caller, ErrorCodec
from deepserve.dialects.vendor_errors import WireError, WireErrorBody, form_of

_SERVER = "server_error"
_OVERLOADED = "server_is_overloaded"

CODES: Mapping[type[DeepserveError], str] = {
    errors.DeepserveError: _SERVER,
    errors.RequestError: "invalid_request_error",
    errors.MalformedBody: "invalid_json",
    errors.InvalidField: "invalid_value",
    errors.MissingField: "missing_required_parameter",
    errors.UnsupportedFeature: "unsupported_parameter",
    errors.UnknownModel: "model_not_found",
    errors.ContextOverflow: "context_length_exceeded",
    errors.BodyTooLarge: "request_too_large",
    errors.BodyTooSlow: "request_timeout",
    errors.UnsupportedMedia: "unsupported_media_type",
    errors.RouteNotFound: "not_found",
    errors.MethodNotAllowed: "method_not_allowed",
    errors.AccessError: "permission_denied",
    errors.AuthenticationFailed: "invalid_api_key",
    errors.OriginRefused: "permission_denied",
    errors.PermissionDenied: "permission_denied",
    errors.BudgetExhausted: "insufficient_quota",
    errors.CapacityError: _OVERLOADED,
    errors.TooManyRequests: "rate_limit_exceeded",
    errors.RateLimited: "rate_limit_exceeded",
    errors.Overloaded: _OVERLOADED,
    errors.StoreUnavailable: _OVERLOADED,
    errors.ServingError: _SERVER,
    errors.EngineFailure: _SERVER,
    errors.BackendFailure: _SERVER,
    errors.DamagedToolCall: _SERVER,
    errors.UnfitAnswer: _SERVER,
    errors.RequestTimedOut: _SERVER,
    errors.Cancelled: _SERVER,
    errors.SetupError: _SERVER,
    errors.ConfigurationError: _SERVER,
    errors.CheckpointError: _SERVER,
}


def previous_not_found(response_id: str) -> InvalidField:
    """What to say about a `previous_response_id` that leads nowhere, in the words clients match on."""
    return InvalidField(f"Previous response with id '{response_id[:100]}' not found.", field="previous_response_id")


def wire_error(error: DeepserveError, *, is_strict: bool = False) -> WireError:
    wire = msgspec.json.decode(vendor_errors.encode_error(error, is_strict=is_strict), type=WireErrorBody).error
    if is_strict:
        return wire
    if type(error) is InvalidField and error.field == "previous_response_id":
        wire.code = "previous_response_not_found"
    else:
        wire.code = next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)
    return wire


def encode_error(error: DeepserveError, *, is_strict: bool = False) -> bytes:
    return msgspec.json.encode(WireErrorBody(error=wire_error(error, is_strict=is_strict)))


class ResponsesErrors(ErrorCodec):
    """OpenAI's form."""

    @override
    def status(self, error: DeepserveError) -> int:
        return form_of(error).status

    @override
    def encode(
        self, error: DeepserveError, *, request_id: str, is_strict: bool = False, caller: Caller = NOBODY
    ) -> bytes:
        return encode_error(error, is_strict=is_strict)
