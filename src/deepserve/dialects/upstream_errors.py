"""Errors of other services, whatever their dialect, read back; how our own are written is `vendor_errors`'s.

What our clients can mend, they are told in the service's words. What only the operator can (a key, an account, an
address), they are told in ours: whose key it is, and what it is called, is not for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from deepserve.core.errors import (
    BackendFailure,
    BodyTooLarge,
    ContextOverflow,
    DamagedToolCall,
    DeepserveError,
    InvalidField,
    Overloaded,
    RequestError,
    RequestTimedOut,
    TooManyRequests,
    UnfitAnswer,
)
from deepserve.core.messages import Json

_MAX_CHARACTERS = 500

_STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "billing_error": 402,
    "rate_limit_reached_error": 429,
    "rate_limit_error": 429,
    "service_unavailable_error": 503,
    "overloaded_error": 503,
    "timeout_error": 504,
    "server_error": 500,
    "api_error": 500,
}
"""For errors inside an answer, where the status has long been sent."""

_CLASS_OF_CODE: Mapping[str, type[DeepserveError]] = {
    "damaged_tool_call": DamagedToolCall,
    "unfit_answer": UnfitAnswer,
    "timeout": RequestTimedOut,
}
"""Another deepserve's."""

_OVERFLOW = re.compile(
    r"maximum context length is (\d+) tokens\. However, you requested \d+ tokens "
    r"\((\d+) in the messages, (\d+) in the completion\)"
)
"""The vendor's words, which most servers that speak Chat share."""

_LONG_PROMPT = re.compile(r"prompt is too long: (\d+) tokens > (\d+) maximum")
_LONG_ANSWER = re.compile(r"input length and `max_tokens` exceed context limit: (\d+) \+ (\d+) > (\d+)")
"""Anthropic's, and those of servers that speak Messages."""


def decode_error(status: int, body: bytes, *, title: str, retry_after_s: float | None = None) -> DeepserveError:
    """What a service named `title` meant by a refusal. A page of HTML is named, not quoted."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[: 4 * _MAX_CHARACTERS].decode("utf-8", "replace").strip()
        value = "a page instead of an answer" if text.startswith("<") else text
    if isinstance(value, dict):
        # `detail` and `message` are what web frameworks write on their own.
        value = next((value[name] for name in ("error", "detail", "message") if value.get(name)), value)
    return _built(status, value, title, retry_after_s)


def decode_error_value(value: Json, *, title: str) -> DeepserveError:
    """The member `error` of an answer whose status was 200."""
    return _built(None, value, title, None)


def _built(status: int | None, value: Json, title: str, retry_after_s: float | None) -> DeepserveError:
    members = value if isinstance(value, dict) else {}
    failed = "failed" if status is None else f"failed with status {status}"
    if status is None:
        code = members.get("code")
        status = _STATUS_OF_TYPE.get(str(members.get("type")), 500)
        if isinstance(code, int) and 400 <= code < 600:
            status = code
    said = members.get("message", value)
    words = _shown(said if isinstance(said, str) else msgspec.json.encode(said).decode())
    quoted = f": {words}" if words else "."
    known = _CLASS_OF_CODE.get(str(members.get("code")))
    if known is not None:
        return known(words)
    error: DeepserveError
    match status:
        case 400 | 422:
            overflow = _overflow(words)
            if overflow is not None:
                return overflow
            error = (InvalidField if members.get("param") else RequestError)(words or f"{title} refused the request.")
            error.field = members["param"] if isinstance(members.get("param"), str) else None
            return error
        case 401:
            return BackendFailure(f"{title} does not accept the key of this server. Its operator must look after it.")
        case 402:
            return BackendFailure(f"The account of this server at {title} is used up. Its operator must look after it.")
        case 403 if _is_moderation(members):
            return RequestError(words)
        case 403:
            return BackendFailure(f"{title} does not let this server in. Its operator must look after it.")
        case 404 | 405:
            return BackendFailure(f"{title} does not know the model or the address{quoted}")
        case 413:
            return BodyTooLarge(f"The request is too large for {title}{quoted}")
        case 429:
            return TooManyRequests(f"{title} takes no more requests now{quoted}", retry_after_s=retry_after_s or 1.0)
        case 503 | 529:
            return Overloaded(f"{title} is overloaded{quoted}", retry_after_s=retry_after_s or 1.0)
        case 408 | 504 | 524:
            return RequestTimedOut(f"{title} did not answer in time{quoted}")
        case _ if 400 <= status < 500:
            return RequestError(words or f"{title} refused the request with status {status}.")
        case _:
            return BackendFailure(f"{title} {failed}{quoted}")


def _overflow(words: str) -> ContextOverflow | None:
    if (found := _OVERFLOW.search(words)) is not None:
        limit, prompt, requested = (int(number) for number in found.groups())
    elif (found := _LONG_PROMPT.search(words)) is not None:
        prompt, limit = (int(number) for number in found.groups())
        requested = 0
    elif (found := _LONG_ANSWER.search(words)) is not None:
        prompt, requested, limit = (int(number) for number in found.groups())
    else:
        return None
    return ContextOverflow(limit_tokens=limit, prompt_tokens=prompt, requested_tokens=requested)


def _is_moderation(members: Mapping[str, Json]) -> bool:
    """OpenRouter refuses so what a provider's moderation refused: openrouter.ai/docs, "Errors"."""
    metadata = members.get("metadata")
    return isinstance(metadata, dict) and "reasons" in metadata


def _shown(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= _MAX_CHARACTERS else printable[:_MAX_CHARACTERS] + "…"
