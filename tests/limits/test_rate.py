"""A bucket that refills, remembered as one instant."""

import random

import pytest

from deepserve.limits.rate import PERIOD_US, Rate

NOW = 1_800_000_000_000_000


@pytest.mark.parametrize("limit", [1, 7, 60, 1_000, 90_000_000])
def test_a_whole_minutes_worth_may_come_at_once_and_not_one_more(limit: int) -> None:
    rate = Rate(limit)
    until = rate.after(0, NOW, limit)
    assert rate.wait_us(0, NOW, limit) == 0
    assert rate.wait_us(until, NOW, max(1, limit // 60)) > 0
    assert rate.quota(until, NOW).remaining == 0


@pytest.mark.parametrize("limit", [1, 7, 60, 1_000])
def test_single_requests_are_counted_to_the_last(limit: int) -> None:
    rate, until = Rate(limit), 0
    for number in range(limit):
        assert rate.wait_us(until, NOW, 1) == 0
        until = rate.after(until, NOW, 1)
        assert rate.quota(until, NOW).remaining == limit - number - 1
    assert rate.wait_us(until, NOW, 1) > 0


def test_whoever_waits_as_long_as_it_was_told_may_come() -> None:
    rate = Rate(60)
    until = rate.after(0, NOW, 60)
    wait_us = rate.wait_us(until, NOW, 3)
    assert wait_us == 3_000_000
    assert rate.wait_us(until, NOW + wait_us - 1, 3) > 0
    assert rate.wait_us(until, NOW + wait_us, 3) == 0


def test_no_minute_lets_through_more_than_a_full_bucket_and_what_refills() -> None:
    """Requests at random instants and of random size, for an hour."""
    draw, rate = random.Random(1), Rate(1_000)
    until, at, admitted = 0, NOW, []
    while at < NOW + 60 * PERIOD_US:
        at += draw.randrange(2_000_000)
        amount = draw.randrange(1, 200)
        if rate.wait_us(until, at, amount) == 0:
            until = rate.after(until, at, amount)
            admitted.append((at, amount))
    for number, (begin, _) in enumerate(admitted):
        in_minute = sum(amount for at, amount in admitted[number:] if at < begin + PERIOD_US)
        assert in_minute <= 2_000
    assert sum(amount for _, amount in admitted) <= 61 * 1_000
    assert sum(amount for _, amount in admitted) > 55 * 1_000


def test_a_clock_that_jumps_back_locks_nobody_out_for_longer_than_two_minutes() -> None:
    rate = Rate(10)
    until = rate.after(0, NOW, 10)
    long_ago = NOW - 365 * 86_400_000_000
    assert rate.wait_us(until, long_ago, 1) <= 2 * PERIOD_US
    until = rate.after(until, long_ago, 1)
    assert until <= long_ago + 2 * PERIOD_US


def test_a_clock_that_jumps_ahead_only_fills_the_bucket() -> None:
    rate = Rate(10)
    until = rate.after(0, NOW, 10)
    later = NOW + 365 * 86_400_000_000
    assert rate.quota(until, later).remaining == 10
    assert rate.wait_us(until, later, 11) > 0
