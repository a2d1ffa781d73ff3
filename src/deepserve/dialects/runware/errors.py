"""Refusals and failures in this dialect's form, and every error of the core in one table."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core import errors
from deepserve.core.errors import DeepserveError, InvalidField, MissingField
from deepserve.dialects.exchange import NOBODY, Caller
from deepserve.dialects.runware.wire import WireError, WireErrorBody, encode


class TaskRefused(Exception):
    """One task of a request cannot be taken; the others are not touched.

    code       of the dialect; its SDKs classify by prefixes such as `invalid` and `missing`
    parameter  dotted path of the member at fault
    """

    def __init__(self, code: str, message: str, *, parameter: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.parameter = parameter
        self.status = status


class ErrorForm(msgspec.Struct, frozen=True):
    """How a class of errors looks. is_hidden: the message may name parts of the server; the log has it."""

    status: int
    code: str
    is_hidden: bool = False


_HIDDEN_FORM = ErrorForm(500, "internalServerError", is_hidden=True)

FORMS: Mapping[type[DeepserveError], ErrorForm] = {
    errors.DeepserveError: _HIDDEN_FORM,
    errors.RequestError: ErrorForm(400, "invalidRequest"),
    errors.MalformedBody: ErrorForm(400, "invalidJSON"),
    errors.InvalidField: ErrorForm(400, "invalidRequest"),
    errors.MissingField: ErrorForm(400, "missingParameter"),
    errors.UnsupportedFeature: ErrorForm(400, "unsupportedParameter"),
    errors.UnknownModel: ErrorForm(404, "modelNotFound"),
    errors.ContextOverflow: ErrorForm(400, "maxContextLengthExceeded"),
    errors.BodyTooLarge: ErrorForm(413, "maxRequestSizeExceeded"),
    errors.BodyTooSlow: ErrorForm(408, "requestTimeout"),
    errors.UnsupportedMedia: ErrorForm(415, "unsupportedMediaType"),
    errors.RouteNotFound: ErrorForm(404, "routeNotFound"),
    errors.MethodNotAllowed: ErrorForm(405, "unsupportedMethod"),
    errors.AccessError: ErrorForm(403, "insufficientPermissions"),
    errors.AuthenticationFailed: ErrorForm(401, "invalidApiKey"),
    errors.OriginRefused: ErrorForm(403, "insufficientPermissions"),
    errors.PermissionDenied: ErrorForm(403, "insufficientPermissions"),
    errors.BudgetExhausted: ErrorForm(402, "insufficientCredits"),
    errors.CapacityError: ErrorForm(503, "noAvailableServer"),
    errors.TooManyRequests: ErrorForm(429, "rateLimitExceeded"),
    errors.RateLimited: ErrorForm(429, "rateLimitExceeded"),
    errors.Overloaded: ErrorForm(503, "noAvailableServer"),
    errors.StoreUnavailable: ErrorForm(503, "noAvailableServer"),
    errors.ServingError: ErrorForm(500, "internalServerError"),
    errors.EngineFailure: ErrorForm(500, "internalServerError"),
    errors.BackendFailure: ErrorForm(502, "providerError"),
    errors.DamagedToolCall: ErrorForm(502, "providerError"),
    errors.UnfitAnswer: ErrorForm(502, "providerError"),
    errors.RequestTimedOut: ErrorForm(504, "requestTimeout"),
    errors.Cancelled: ErrorForm(499, "taskCancelled"),
    errors.SetupError: _HIDDEN_FORM,
    errors.ConfigurationError: _HIDDEN_FORM,
    errors.CheckpointError: _HIDDEN_FORM,
}
"""Codes whose class the SDKs know: `...Timeout`, `...NotFound`, `max...`, `provider...` and so on."""

_HIDDEN = "The server met an internal fault. It has been logged."

_PARAMETERS: Mapping[str, str] = {
    "max_tokens": "settings.maxTokens",
    "stop": "settings.stopSequences",
    "thinking": "settings.thinkingLevel",
    "tool_choice": "toolChoice",
    "response_format": "outputFormat",
    "webhook_url": "webhookURL",
    "id": "taskUUID",
}
"""What this dialect calls the fields that back ends complain about. Those with a hyphen are headers."""


def form_of(error: DeepserveError) -> ErrorForm:
    """The row of the error's class, or of the nearest class above it."""
    for cls in type(error).__mro__:
        if cls in FORMS:
            return FORMS[cls]
    raise AssertionError("DeepserveError has a row")


def status_of(error: DeepserveError | TaskRefused) -> int:
    return error.status if isinstance(error, TaskRefused) else form_of(error).status


def wire_error(
    error: DeepserveError | TaskRefused, *, task_type: str | None = None, task_uuid: str | None = None
) -> WireError:
    """task_uuid: always given where there is a task, for clients wait for the error of that task."""
    if isinstance(error, TaskRefused):
        found = WireError(code=error.code, message=error.message, parameter=error.parameter)
    else:
        form = form_of(error)
        parameter = None if error.field is None else _PARAMETERS.get(error.field, error.field)
        code = form.code
        if type(error) in (InvalidField, MissingField) and parameter is not None and "-" not in parameter:
            name = parameter.rpartition(".")[2]
            verb = "missing" if isinstance(error, MissingField) else "invalid"
            code = f"{verb}{name[:1].upper()}{name[1:]}"
        if isinstance(error, errors.AuthenticationFailed):
            parameter, task_type = "apiKey", task_type or "authentication"
        found = WireError(code=code, message=_HIDDEN if form.is_hidden else error.message, parameter=parameter)
    return msgspec.structs.replace(found, task_type=task_type, task_uuid=task_uuid)


def error_body(error: WireError) -> bytes:
    """A body, frame or event of nothing but an error. Some SDKs read only `errors`, others only `error`."""
    return encode(WireErrorBody(errors=[error], error=error))


class RunwareErrors:
    """Failures before any task was looked at; see `dialects.exchange.ErrorCodec`."""

    def status(self, error: DeepserveError) -> int:
        return form_of(error).status

    def encode(
        self,
        error: DeepserveError,
        *,
        request_id: str,  # noqa: ARG002 - the protocol's
        is_strict: bool = False,  # noqa: ARG002
        caller: Caller = NOBODY,  # noqa: ARG002
    ) -> bytes:
        return error_body(wire_error(error))
