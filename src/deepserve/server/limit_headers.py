"""What the limits of a key leave, in the headers that each dialect's clients know.

OpenAI's: platform.openai.com/docs/guides/rate-limits, "Rate limits in headers". Anthropic's:
platform.claude.com/docs/en/api/rate-limits, "Response headers". OpenRouter tells them with a refusal only:
openrouter.ai/docs/api-reference/limits.
"""

from __future__ import annotations

import math
from datetime import UTC
from typing import Literal

from deepserve.core.allowance import Allowance, Quota
from deepserve.dialects.exchange import ErrorCodec
from deepserve.dialects.messages.exchange import MessagesErrors
from deepserve.dialects.openrouter.errors import OpenRouterErrors

HeaderList = list[tuple[bytes, bytes]]

Style = Literal["openai", "anthropic", "openrouter"]


def style_of_dialect(dialect: str) -> Style:
    match dialect:
        case "messages":
            return "anthropic"
        case "openrouter":
            return "openrouter"
        case _:
            return "openai"


def style_of_errors(codec: ErrorCodec) -> Style:
    match codec:
        case MessagesErrors():
            return "anthropic"
        case OpenRouterErrors():
            return "openrouter"
        case _:
            return "openai"


def limit_headers(style: Style, allowance: Allowance | None, *, is_refusal: bool = False) -> HeaderList:
    """None where nothing is limited, so that no header says what is not so."""
    if allowance is None:
        return []
    quotas = [
        (name, quota) for name, quota in (("requests", allowance.requests), ("tokens", allowance.tokens)) if quota
    ]
    headers: HeaderList = []
    match style:
        case "openai":
            for name, quota in quotas:
                headers += _three("x-ratelimit-{}-" + name, quota, shown_duration(quota.reset_s))
        case "anthropic":
            for name, quota in quotas:
                headers += _three(f"anthropic-ratelimit-{name}-" + "{}", quota, _instant(quota))
        case "openrouter":
            if is_refusal and quotas:
                _, tightest = min(quotas, key=lambda named: named[1].remaining / named[1].limit)
                reset_ms = math.ceil(tightest.resets_at.timestamp() * 1_000)
                headers += _three("x-ratelimit-{}", tightest, str(reset_ms))
    return headers


def shown_duration(seconds: float) -> str:
    """`0s`, `20ms`, `1.5s`, `6m0s`, `1h0m2s`: rounded up, so that nobody comes too early."""
    milliseconds = math.ceil(seconds * 1_000)
    if 0 < milliseconds < 1_000:
        return f"{milliseconds}ms"
    whole, rest = divmod(milliseconds, 1_000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    last = f"{whole}.{rest:03}".rstrip("0").rstrip(".") if rest else str(whole)
    if hours:
        return f"{hours}h{minutes}m{last}s"
    return f"{minutes}m{last}s" if minutes else f"{last}s"


def _three(pattern: str, quota: Quota, reset: str) -> HeaderList:
    values = (("limit", str(quota.limit)), ("remaining", str(quota.remaining)), ("reset", reset))
    return [(pattern.format(name).encode(), value.encode()) for name, value in values]


def _instant(quota: Quota) -> str:
    """RFC 3339, in whole seconds, rounded up."""
    at = quota.resets_at.astimezone(UTC)
    whole = math.ceil(at.timestamp())
    return at.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
