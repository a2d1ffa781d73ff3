"""What follows from an attempt."""

from __future__ import annotations

import pytest

from deepserve.tasks.retries import RetrySchedule, Verdict, read_retry_after_s
from tests.tasks.setup import NOON

SCHEDULE = RetrySchedule()
EXACT = RetrySchedule(jitter_ratio=0.0)


def judge(number: int, status: int | None, retry_after_s: float | None = None, chance: float = 0.5) -> Verdict:
    return SCHEDULE.judge(number=number, status=status, retry_after_s=retry_after_s, chance=chance)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_success_is_delivered(status: int) -> None:
    assert judge(1, status).status == "delivered"


def test_failures_are_tried_again_ever_later_until_the_last_attempt() -> None:
    delays = [judge(number, 500).delay_s for number in range(1, 8)]
    assert delays == [5, 30, 300, 1800, 7200, 18_000, 36_000]
    assert judge(8, 500).status == "failed"
    assert judge(8, None).status == "failed"


@pytest.mark.parametrize("status", [None, 301, 302, 308, 408, 409, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_to_the_end(status: int | None) -> None:
    assert judge(7, status).status == "pending"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_a_refusal_is_believed_the_third_time(status: int) -> None:
    assert judge(2, status).status == "pending"
    assert judge(3, status).status == "failed"


def test_an_address_that_is_gone_is_given_up_at_once() -> None:
    assert judge(1, 410).status == "failed"


def test_delays_vary_by_a_fifth() -> None:
    assert judge(1, 500, chance=0.0).delay_s == 4
    assert judge(1, 500, chance=1.0).delay_s == 6


def test_a_receiver_may_ask_for_more_time_up_to_an_hour() -> None:
    assert judge(1, 429, retry_after_s=60).delay_s == 60
    assert judge(1, 503, retry_after_s=1e9).delay_s == 3600
    assert judge(4, 503, retry_after_s=60).delay_s == 1800, "never sooner than planned"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("120", 120.0), ("0", 0.0), (" 7 ", 7.0)),
        *(("", None), ("-1", None), ("soon", None), ("1.5", None), ("٣", None)),
        ("Sun, 01 Nov 2026 12:01:00 GMT", 60.0),
        ("Sun, 01 Nov 2026 11:00:00 GMT", 0.0),
        ("Sun, 01 Nov 2026 12:01:00", 60.0),
        ("9" * 50, 999_999_999.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert read_retry_after_s({"retry-after": text}, NOON) == seconds


def test_a_plan_never_lies_further_ahead_than_the_schedule_can_mean() -> None:
    assert SCHEDULE.longest_delay_s(0) == 0
    assert SCHEDULE.longest_delay_s(1) == 3600
    assert EXACT.longest_delay_s(7) == 36_000
    assert EXACT.longest_delay_s(99) == 36_000
