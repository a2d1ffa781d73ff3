"""Short ways to decode a request body in tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from deepserve.catalog.models import load_models
from deepserve.config import Limits
from deepserve.core.errors import DeepserveError
from deepserve.core.request import RequestId
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.dialects.messages.request import MessagesRequest, decode_request

ARRIVED_AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DEFAULT_LIMITS = Limits()
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello!"}]  # Any: JSON

WEATHER = {
    "name": "get_weather",
    "description": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


def body(**fields: object) -> dict[str, Any]:
    return {"model": "deepseek-v4-flash", "max_tokens": 100, "messages": HELLO, **fields}


def decode(
    value: Mapping[str, object] | bytes, *, is_strict: bool = False, limits: Limits = DEFAULT_LIMITS
) -> MessagesRequest:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return decode_request(
        raw,
        names=load_models(),
        limits=limits,
        request_id=RequestId("0123456789abcdef0123456789abcdef"),
        arrived_at=ARRIVED_AT,
        tenant=LOCAL_TENANT,
        is_strict=is_strict,
    )


def refusal(
    value: Mapping[str, object] | bytes, *, is_strict: bool = False, limits: Limits = DEFAULT_LIMITS
) -> DeepserveError:
    """The error that the body is refused with."""
    try:
        decode(value, is_strict=is_strict, limits=limits)
    except DeepserveError as error:
        return error
    raise AssertionError("the body was accepted")
