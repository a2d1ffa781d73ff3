"""When a call that failed is made again, and after how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from deepserve.backends.upstream.limits import UpstreamLimits

REPEATABLE_STATUSES = frozenset((429, 502, 503, 504, 529))
"""The request was not answered, and the same one may be a moment later."""

_FIRST_WAIT_S = 0.5


def read_retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Seconds, out of a number or a date; None where there is neither."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        seconds = (at - now).total_seconds()
    return min(max(seconds, 0.0), 86_400.0) if seconds == seconds else None


def pause_s(
    attempt: int, retry_after_s: float | None, limits: UpstreamLimits, *, jitter: Callable[[], float]
) -> float | None:
    """How long to wait after the attempt-th try, counted from 0; None: not at all, it is over. jitter: in [0, 1)."""
    if attempt >= limits.num_retries:
        return None
    if retry_after_s is not None:
        return retry_after_s if retry_after_s <= limits.max_wait_s else None
    doubled: float = _FIRST_WAIT_S * 2**attempt
    return min(doubled * (0.5 + jitter()), limits.max_wait_s)
