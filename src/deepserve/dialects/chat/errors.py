"""Errors of another server of this dialect, read back; how they are written is `vendor_errors`'s."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.core import errors
from deepserve.core.errors import DeepserveError
from deepserve.dialects.vendor_errors import WireError, WireErrorBody

_BY_STATUS: Mapping[int, type[DeepserveError]] = {
    400: errors.RequestError,
    401: errors.AuthenticationFailed,
    402: errors.InsufficientBalance,
    403: errors.AccessError,
    404: errors.RouteNotFound,
    405: errors.MethodNotAllowed,
    408: errors.BodyTooSlow,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMedia,
    422: errors.InvalidField,
    429: errors.TooManyRequests,
    503: errors.Overloaded,
    504: errors.RequestTimedOut,
}

_BY_TYPE: Mapping[str, type[DeepserveError]] = {
    "invalid_request_error": errors.RequestError,
    "authentication_error": errors.AuthenticationFailed,
    "permission_error": errors.AccessError,
    "rate_limit_reached_error": errors.TooManyRequests,
    "service_unavailable_error": errors.Overloaded,
    "server_error": errors.EngineFailure,
}


def decode_error(status: int, body: bytes) -> DeepserveError:
    """What another server of this dialect meant. An unreadable body is quoted, up to 500 characters."""
    cls = _BY_STATUS.get(status, errors.RequestError if 400 <= status < 500 else errors.BackendFailure)
    try:
        wire = msgspec.json.decode(body, type=WireErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _built(cls, body[:500].decode("utf-8", "replace") or f"status {status} without a body", None)
    return _built(cls, wire.message, wire.param)


def decode_wire_error(wire: WireError) -> DeepserveError:
    """An error inside a stream, where the status has long been sent: the class follows from `type`."""
    return _built(_BY_TYPE.get(wire.type or "", errors.BackendFailure), wire.message, wire.param)


def _built(cls: type[DeepserveError], message: str, field: str | None) -> DeepserveError:
    error = cls(message)
    error.field = field
    return error
