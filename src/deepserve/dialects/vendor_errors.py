"""Failures as `api.deepseek.com` writes them: every error of the core as a status and a body, in one table.

Shared by the dialects that answer with the vendor's own error object.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core import errors
from deepserve.core.errors import DeepserveError


class WireError(msgspec.Struct):
    """param is always null at the vendor; ours names the field where one is at fault."""

    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class WireErrorBody(msgspec.Struct):
    error: WireError


class ErrorForm(msgspec.Struct, frozen=True):
    """How a class of errors looks: HTTP status, and the `type` and `code` that clients switch on.

    is_hidden: the message may name parts of the server, so the client gets a general one; the log has it.
    """

    status: int
    type: str
    code: str = "invalid_request_error"
    is_hidden: bool = False


_REQUEST = "invalid_request_error"

# `code` stays `invalid_request_error` for 401 and 402 too: that is what api.deepseek.com sends.
FORMS: Mapping[type[DeepserveError], ErrorForm] = {
    errors.DeepserveError: ErrorForm(500, "server_error", "internal_error", is_hidden=True),
    errors.RequestError: ErrorForm(400, _REQUEST),
    errors.MalformedBody: ErrorForm(400, _REQUEST),
    errors.InvalidField: ErrorForm(400, _REQUEST),
    errors.MissingField: ErrorForm(400, _REQUEST),
    errors.UnsupportedFeature: ErrorForm(400, _REQUEST),
    errors.UnknownModel: ErrorForm(400, _REQUEST),
    errors.ContextOverflow: ErrorForm(400, _REQUEST),
    errors.BodyTooLarge: ErrorForm(413, _REQUEST),
    errors.BodyTooSlow: ErrorForm(408, _REQUEST),
    errors.UnsupportedMedia: ErrorForm(415, _REQUEST),
    errors.RouteNotFound: ErrorForm(404, _REQUEST),
    errors.MethodNotAllowed: ErrorForm(405, _REQUEST),
    errors.AccessError: ErrorForm(403, "permission_error"),
    errors.AuthenticationFailed: ErrorForm(401, "authentication_error"),
    errors.OriginRefused: ErrorForm(403, "permission_error"),
    errors.PermissionDenied: ErrorForm(403, "permission_error"),
    errors.BudgetExhausted: ErrorForm(402, "unknown_error"),
    errors.CapacityError: ErrorForm(503, "service_unavailable_error", "overloaded"),
    errors.TooManyRequests: ErrorForm(429, "rate_limit_reached_error", "rate_limit_reached"),
    errors.RateLimited: ErrorForm(429, "rate_limit_reached_error", "rate_limit_reached"),
    errors.Overloaded: ErrorForm(503, "service_unavailable_error", "overloaded"),
    errors.StoreUnavailable: ErrorForm(503, "service_unavailable_error", "overloaded"),
    errors.ServingError: ErrorForm(500, "server_error", "internal_error"),
    errors.EngineFailure: ErrorForm(500, "server_error", "internal_error"),
    errors.BackendFailure: ErrorForm(502, "server_error", "upstream_error"),
    errors.DamagedToolCall: ErrorForm(502, "server_error", "damaged_tool_call"),
    errors.UnfitAnswer: ErrorForm(502, "server_error", "unfit_answer"),
    errors.RequestTimedOut: ErrorForm(504, "server_error", "timeout"),
    errors.Cancelled: ErrorForm(499, "server_error", "cancelled"),
    errors.SetupError: ErrorForm(500, "server_error", "internal_error", is_hidden=True),
    errors.ConfigurationError: ErrorForm(500, "server_error", "internal_error", is_hidden=True),
    errors.CheckpointError: ErrorForm(500, "server_error", "internal_error", is_hidden=True),
}
"""Type and code are the vendor's where they were seen publicly; those of 403, 429 and 5xx are ours."""

_HIDDEN = "The server met an internal fault. It has been logged."
_NO_BALANCE = "Insufficient Balance"
"""The vendor's words, which it says no more about: api-docs.deepseek.com, "Error Codes"."""


def form_of(error: DeepserveError) -> ErrorForm:
    """The row of the error's class, or of the nearest class above it."""
    for cls in type(error).__mro__:
        if cls in FORMS:
            return FORMS[cls]
    raise AssertionError("DeepserveError has a row")


def encode_error(error: DeepserveError, *, is_strict: bool = False) -> bytes:
    """The body. Strict keeps `param` null, as the vendor does; otherwise it names the field at fault."""
    form = form_of(error)
    return msgspec.json.encode(
        WireErrorBody(
            error=WireError(
                message=_message(error, form, is_strict=is_strict),
                type=form.type,
                param=None if is_strict else error.field,
                code=form.code,
            )
        )
    )


def _message(error: DeepserveError, form: ErrorForm, *, is_strict: bool) -> str:
    if is_strict and isinstance(error, errors.BudgetExhausted):
        return _NO_BALANCE
    return _HIDDEN if form.is_hidden else error.message
