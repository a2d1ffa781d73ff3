"""Every error of the core as a status and a body of this dialect, in one table.

The body serves clients of both vendors: Anthropic's outer `type` and `request_id`, DeepSeek's `code` and `param`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET

from deepserve.core import errors
from deepserve.core.errors import ContextOverflow, DeepserveError, UnsupportedFeature
from deepserve.dialects.messages.fields import DETAILS
from deepserve.dialects.messages.wire import WireError, WireErrorBody


class ErrorForm(msgspec.Struct, frozen=True):
    """How a class of errors looks: HTTP status, Anthropic's `type`, DeepSeek's `code`.

    is_hidden: the message may name parts of the server, so the client gets a general one; the log has it.
    """

    status: int
    type: str
    code: str = "invalid_request_error"
    is_hidden: bool = False


_REQUEST = "invalid_request_error"
_INTERNAL = ErrorForm(500, "api_error", "internal_error")
_HIDDEN_FORM = ErrorForm(500, "api_error", "internal_error", is_hidden=True)

FORMS: Mapping[type[DeepserveError], ErrorForm] = {
    errors.DeepserveError: _HIDDEN_FORM,
    errors.RequestError: ErrorForm(400, _REQUEST),
    errors.MalformedBody: ErrorForm(400, _REQUEST),
    errors.InvalidField: ErrorForm(400, _REQUEST),
    errors.MissingField: ErrorForm(400, _REQUEST),
    errors.UnsupportedFeature: ErrorForm(400, _REQUEST),
    errors.UnknownModel: ErrorForm(400, _REQUEST),
    errors.ContextOverflow: ErrorForm(400, _REQUEST),
    errors.BodyTooLarge: ErrorForm(413, "request_too_large"),
    errors.BodyTooSlow: ErrorForm(408, _REQUEST),
    errors.UnsupportedMedia: ErrorForm(415, _REQUEST),
    errors.RouteNotFound: ErrorForm(404, "not_found_error"),
    errors.MethodNotAllowed: ErrorForm(405, _REQUEST),
    errors.AccessError: ErrorForm(403, "permission_error"),
    errors.AuthenticationFailed: ErrorForm(401, "authentication_error"),
    errors.OriginRefused: ErrorForm(403, "permission_error"),
    errors.PermissionDenied: ErrorForm(403, "permission_error"),
    errors.BudgetExhausted: ErrorForm(402, "billing_error"),
    errors.CapacityError: ErrorForm(503, "overloaded_error", "overloaded"),
    errors.TooManyRequests: ErrorForm(429, "rate_limit_error", "rate_limit_reached"),
    errors.RateLimited: ErrorForm(429, "rate_limit_error", "rate_limit_reached"),
    errors.Overloaded: ErrorForm(503, "overloaded_error", "overloaded"),
    errors.StoreUnavailable: ErrorForm(503, "overloaded_error", "overloaded"),
    errors.ServingError: _INTERNAL,
    errors.EngineFailure: _INTERNAL,
    errors.BackendFailure: ErrorForm(502, "api_error", "upstream_error"),
    errors.DamagedToolCall: ErrorForm(502, "api_error", "damaged_tool_call"),
    errors.UnfitAnswer: ErrorForm(502, "api_error", "unfit_answer"),
    errors.RequestTimedOut: ErrorForm(504, "timeout_error", "timeout"),
    errors.Cancelled: ErrorForm(499, "api_error", "cancelled"),
    errors.SetupError: _HIDDEN_FORM,
    errors.ConfigurationError: _HIDDEN_FORM,
    errors.CheckpointError: _HIDDEN_FORM,
}
"""Statuses are DeepSeek's (503 where Anthropic has 529), types Anthropic's (platform.claude.com/docs, "Errors")."""

_HIDDEN = "The server met an internal fault. It has been logged."


def form_of(error: DeepserveError) -> ErrorForm:
    """The row of the error's class, or of the nearest class above it."""
    for cls in type(error).__mro__:
        if cls in FORMS:
            return FORMS[cls]
    raise AssertionError("DeepserveError has a row")


def encode_error(error: DeepserveError, *, request_id: str, is_strict: bool = False) -> bytes:
    """The body. Strict keeps `param` null, as the vendor does; otherwise it names the field at fault."""
    form = form_of(error)
    return msgspec.json.encode(
        WireErrorBody(
            error=WireError(
                type=form.type,
                message=_HIDDEN if form.is_hidden else _message(error, is_strict=is_strict),
                code=form.code,
                param=None if is_strict else error.field,
                details=DETAILS.get(error.field or "", UNSET) if isinstance(error, UnsupportedFeature) else UNSET,
            ),
            request_id=request_id,
        )
    )


def _message(error: DeepserveError, *, is_strict: bool) -> str:
    """Anthropic's words where its clients act on them: Claude Code then asks for less output, or compacts."""
    if not isinstance(error, ContextOverflow) or is_strict:
        return error.message
    limit, prompt, requested = error.limit_tokens, error.prompt_tokens, error.requested_tokens
    if prompt >= limit:
        return f"prompt is too long: {prompt} tokens > {limit} maximum"
    return (
        f"input length and `max_tokens` exceed context limit: {prompt} + {requested} > {limit}, "
        "decrease input length or `max_tokens` and try again"
    )
