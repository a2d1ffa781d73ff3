"""What follows from an attempt to deliver: done, given up, or tried again after a while."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from deepserve.core.task import DeliveryStatus

_WORTH_RETRYING = frozenset((408, 409, 425, 429))
"""Refusals that another attempt may turn: slow, in conflict, too early, too often."""

_GONE = 410


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """delay_s: until the next attempt, while the status is pending."""

    status: DeliveryStatus
    delay_s: float = 0.0


class RetrySchedule(msgspec.Struct, frozen=True, kw_only=True):
    """delays_s           before each attempt, counted from the one before; as many attempts are made
    jitter_ratio       each delay is this much longer or shorter by chance
    max_retry_after_s  so long a receiver may ask us to wait
    max_refusals       attempts after which a receiver that refuses the call as wrong is believed
    max_age_s          a delivery older than this is given up, however many attempts are left
    """

    delays_s: tuple[float, ...] = (0.0, 5.0, 30.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
    jitter_ratio: float = 0.2
    max_retry_after_s: float = 3600.0
    max_refusals: int = 3
    max_age_s: float = 3 * 86_400.0

    def longest_delay_s(self, num_attempts: int) -> float:
        """The latest that the attempt after so many can lie ahead, by this schedule."""
        planned = self.delays_s[min(num_attempts, len(self.delays_s) - 1)]
        return max(planned * (1 + self.jitter_ratio), self.max_retry_after_s if num_attempts else 0.0)

    def judge(self, *, number: int, status: int | None, retry_after_s: float | None, chance: float) -> Verdict:
        """What follows from attempt `number`, counted from 1.

        status  of the response; None when there was none
        chance  random, from 0 to 1
        """
        if status is not None and 200 <= status < 300:
            return Verdict(status="delivered")
        is_refusal = status is not None and 400 <= status < 500 and status not in _WORTH_RETRYING
        is_over = status == _GONE or number >= len(self.delays_s) or (is_refusal and number >= self.max_refusals)
        if is_over:
            return Verdict(status="failed")
        delay_s = self.delays_s[number] * (1 + self.jitter_ratio * (2 * chance - 1))
        return Verdict(status="pending", delay_s=max(delay_s, min(retry_after_s or 0.0, self.max_retry_after_s)))


def read_retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """What a `Retry-After` header asks for, as seconds or as a date; None where it says nothing."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        time = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, ((time if time.tzinfo else time.replace(tzinfo=UTC)) - now).total_seconds())
