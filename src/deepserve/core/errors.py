"""Everything that can go wrong, as one tree. Dialects map classes to a status and a body; nobody else does.

DeepserveError
├── RequestError                the client can fix it; repeating the same request cannot help
│   ├── MalformedBody           not JSON, or not the shape it must have
│   ├── InvalidField            a field's value is wrong
│   │   ├── MissingField
│   │   └── UnsupportedFeature  understood, but this server cannot honour it
│   ├── UnknownModel
│   ├── ContextOverflow
│   ├── BodyTooLarge
│   ├── BodyTooSlow             the request did not arrive in time
│   ├── UnsupportedMedia        a content encoding this server does not read
│   ├── RouteNotFound
│   └── MethodNotAllowed
├── AccessError                 who asks, or from where
│   ├── AuthenticationFailed
│   ├── OriginRefused
│   ├── PermissionDenied        the key is known, but not for this
│   └── BudgetExhausted         what the key may spend is spent
├── CapacityError               later may work; carries retry_after_s
│   ├── TooManyRequests
│   │   └── RateLimited         by the key's own limits
│   ├── Overloaded
│   └── StoreUnavailable        the database cannot be reached, or is too slow, locked or full
├── ServingError                our side failed while answering
│   ├── EngineFailure
│   ├── BackendFailure
│   ├── DamagedToolCall         the model wrote a tool call that nobody can read
│   ├── UnfitAnswer             the answer does not have the form that was asked for
│   ├── RequestTimedOut
│   └── Cancelled               the client left; never shown to anybody
└── SetupError                  the operator's: raised at start, before anything listens
    ├── ConfigurationError
    └── CheckpointError
"""

from __future__ import annotations

from typing import ClassVar

from deepserve.core.allowance import Allowance
from deepserve.core.attempt import FailedAttempt


class DeepserveError(Exception):
    """Base of the tree.

    code     stable, machine-readable, one for each class
    message  for a person: what was wrong, where, what to do
    field    path of the field at fault as the client spelled it (`messages[2].content`), or None
    earlier  the attempts at an answer that were made, the one that ended with this error last; empty where nobody was
             asked
    may_repeat  the same request can be made again where this came from: nobody can have been charged for it
    repeat_after_s  from then on, where that was said
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.earlier: tuple[FailedAttempt, ...] = ()
        self.may_repeat = False
        self.repeat_after_s: float | None = None


class RequestError(DeepserveError):
    code = "invalid_request"


class MalformedBody(RequestError):
    code = "malformed_body"


class InvalidField(RequestError):
    code = "invalid_field"


class MissingField(InvalidField):
    code = "missing_field"


class UnsupportedFeature(InvalidField):
    code = "unsupported_feature"


class UnknownModel(RequestError):
    code = "unknown_model"


class ContextOverflow(RequestError):
    """Prompt plus requested output exceed the context.

    All counts are tokens; requested_tokens is the explicit output limit, 0 when the client set none.
    """

    code = "context_overflow"

    def __init__(self, *, limit_tokens: int, prompt_tokens: int, requested_tokens: int) -> None:
        self.limit_tokens = limit_tokens
        self.prompt_tokens = prompt_tokens
        self.requested_tokens = requested_tokens
        total = prompt_tokens + requested_tokens
        super().__init__(
            f"This model's maximum context length is {limit_tokens} tokens. However, you requested {total} tokens "
            f"({prompt_tokens} in the messages, {requested_tokens} in the completion). "
            "Please reduce the length of the messages or completion.",
            field="messages",
        )


class BodyTooLarge(RequestError):
    code = "body_too_large"


class BodyTooSlow(RequestError):
    code = "body_too_slow"


class UnsupportedMedia(RequestError):
    code = "unsupported_media"


class RouteNotFound(RequestError):
    code = "route_not_found"


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"

    def __init__(self, message: str, *, field: str | None = None, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message, field=field)
        self.allowed = allowed


class AccessError(DeepserveError):
    code = "access"


class AuthenticationFailed(AccessError):
    code = "authentication_failed"


class OriginRefused(AccessError):
    code = "origin_refused"


class PermissionDenied(AccessError):
    code = "permission_denied"


class BudgetExhausted(AccessError):
    code = "budget_exhausted"


class CapacityError(DeepserveError):
    code = "capacity"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequests(CapacityError):
    code = "too_many_requests"


class RateLimited(TooManyRequests):
    """allowance: what the key has left, for the headers that tell it; None where nothing was counted."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, allowance: Allowance | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.allowance = allowance


class Overloaded(CapacityError):
    code = "overloaded"


class StoreUnavailable(CapacityError):
    code = "store_unavailable"


class ServingError(DeepserveError):
    code = "serving"


class EngineFailure(ServingError):
    code = "engine_failure"


class BackendFailure(ServingError):
    code = "backend_failure"


class DamagedToolCall(ServingError):
    code = "damaged_tool_call"


class UnfitAnswer(ServingError):
    code = "unfit_answer"


class RequestTimedOut(ServingError):
    code = "request_timed_out"


class Cancelled(ServingError):
    code = "cancelled"


class SetupError(DeepserveError):
    code = "setup"


class ConfigurationError(SetupError):
    code = "configuration"


class CheckpointError(SetupError):
    code = "checkpoint"


def error_classes() -> list[type[DeepserveError]]:
    """Every class of the tree, for the tables and tests that must not forget one."""
    found: list[type[DeepserveError]] = []
    pending: list[type[DeepserveError]] = [DeepserveError]
    while pending:
        cls = pending.pop(0)
        found.append(cls)
        pending.extend(cls.__subclasses__())
    return found
