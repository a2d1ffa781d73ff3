"""What the limits of a key leave, as each dialect's clients read it."""

from datetime import UTC, datetime

import pytest

from deepserve.core.allowance import Allowance, Quota
from deepserve.server.limit_headers import Style, limit_headers, shown_duration

_AT = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)

ALLOWANCE = Allowance(
    requests=Quota(limit=60, remaining=59, reset_s=1.0, resets_at=_AT),
    tokens=Quota(limit=150_000, remaining=3, reset_s=59.9988, resets_at=_AT),
)


def _told(style: Style, allowance: Allowance | None, *, is_refusal: bool = False) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in limit_headers(style, allowance, is_refusal=is_refusal)}


def test_openais_clients_read_durations() -> None:
    assert _told("openai", ALLOWANCE) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "3",
        "x-ratelimit-reset-tokens": "59.999s",
    }


def test_anthropics_clients_read_instants() -> None:
    assert _told("anthropic", ALLOWANCE) == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:01Z",
        "anthropic-ratelimit-tokens-limit": "150000",
        "anthropic-ratelimit-tokens-remaining": "3",
        "anthropic-ratelimit-tokens-reset": "2026-11-21T12:00:01Z",
    }


def test_openrouters_clients_read_the_tightest_limit_and_only_where_they_are_refused() -> None:
    assert _told("openrouter", ALLOWANCE) == {}
    assert _told("openrouter", ALLOWANCE, is_refusal=True) == {
        "x-ratelimit-limit": "150000",
        "x-ratelimit-remaining": "3",
        "x-ratelimit-reset": "1795262400250",
    }


@pytest.mark.parametrize("style", ["openai", "anthropic", "openrouter"])
def test_nothing_is_said_of_limits_that_are_not_there(style: Style) -> None:
    assert _told(style, None) == {}
    assert _told(style, Allowance(), is_refusal=True) == {}


def test_a_key_with_one_limit_is_told_of_that_alone() -> None:
    told = _told("openai", Allowance(requests=ALLOWANCE.requests))
    assert sorted(told) == [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (7.66, "7.66s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3_602.5, "1h0m2.5s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, shown: str) -> None:
    assert shown_duration(seconds) == shown
