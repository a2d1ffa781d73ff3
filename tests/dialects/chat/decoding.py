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
from deepserve.dialects.chat.flavour import DEEPSEEK
from deepserve.dialects.chat.request import ChatRequest, decode_request

ARRIVED_AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DEFAULT_LIMITS = Limits()
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello, json!"}]  # Any: JSON

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def body(**fields: object) -> dict[str, Any]:
    return {"model": "deepseek-v4-flash", "messages": HELLO, **fields}


def decode(
    value: Mapping[str, object] | bytes,
    *,
    is_strict: bool = False,
    is_beta: bool = False,
    arrived_at: datetime = ARRIVED_AT,
    limits: Limits = DEFAULT_LIMITS,
) -> ChatRequest:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return decode_request(
        raw,
        flavour=DEEPSEEK,
        names=load_models(),
        limits=limits,
        request_id=RequestId("0123456789abcdef0123456789abcdef"),
        arrived_at=arrived_at,
        tenant=LOCAL_TENANT,
        is_strict=is_strict,
        is_beta=is_beta,
    )


def refusal(
    value: Mapping[str, object] | bytes,
    *,
    is_strict: bool = False,
    is_beta: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> DeepserveError:
    """The error that the body is refused with."""
    try:
        decode(value, is_strict=is_strict, is_beta=is_beta, limits=limits)
    except DeepserveError as error:
        return error
    raise AssertionError("the body was accepted")
