"""Requests of keys with limits, and time that passes only when somebody waits."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from deepserve.config import WaitLimits
from deepserve.core.request import Request, RequestId
from deepserve.core.tenant import Budgets, Grant, KeyId, RateLimits, Tenant, TenantId
from deepserve.limits.tariff import Tariff
from deepserve.limits.turnstile import Turnstile
from deepserve.store.database import Database

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = KeyId("key-1")

TARIFF = Tariff(hit_pico=10**4, miss_pico=10**6, output_pico=10**6)
"""A dollar for a million tokens, whichever."""


class Time:
    """Passes while somebody sleeps, and not otherwise; or never. `jump` moves the wall clock alone."""

    def __init__(self, *, stands_still: bool = False) -> None:
        self._stands_still = stands_still
        self.passed_s = 0.0
        self.jumped_s = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.passed_s + self.jumped_s)

    def clock(self) -> float:
        return self.passed_s

    def jump(self, seconds: float) -> None:
        self.jumped_s += seconds

    async def sleep(self, seconds: float) -> None:
        if seconds == 10.0:  # leases are renewed in between, which nothing here waits for
            await asyncio.Event().wait()
        # A few turns first: what ends meanwhile ends before.
        for _ in range(20):
            await asyncio.sleep(0)
        if not self._stands_still:
            self.passed_s += seconds


def turnstile(
    database: Database,
    time: Time | None = None,
    *,
    tariff: Tariff = TARIFF,
    wait_s: float = 5.0,
    places: int = 1000,
    name: str = "a",
) -> Turnstile:
    time = time or Time()
    numbers = itertools.count()
    return Turnstile(
        database,
        tariff_of=lambda _request, _tokens: tariff,
        limits=WaitLimits(wait_s=wait_s, places=places),
        now=time.now,
        clock=time.clock,
        new_hex=lambda _: f"{name}{next(numbers)}",
        sleep=time.sleep,
    )


def request(
    grant: Grant,
    *,
    key: KeyId = KEY,
    tenant: str = "alice",
    at: datetime = NOON,
    max_output_tokens: int | None = None,
) -> Request:
    return Request(
        id=RequestId("r"),
        model="deepseek-v4-flash",
        arrived_at=at,
        max_output_tokens=max_output_tokens,
        tenant=Tenant(id=TenantId(tenant), key=key, grant=grant),
    )


def budget(per_day: str | None = None, per_month: str | None = None) -> Grant:
    return Grant(
        budgets=Budgets(
            usd_per_day=None if per_day is None else Decimal(per_day),
            usd_per_month=None if per_month is None else Decimal(per_month),
        )
    )


def limited(*, concurrent: int | None = None, requests: int | None = None, tokens: int | None = None) -> Grant:
    return Grant(limits=RateLimits(max_concurrent=concurrent, requests_per_minute=requests, tokens_per_minute=tokens))


async def thousand(_: Request) -> int:
    """Every prompt has so many tokens."""
    return 1_000
