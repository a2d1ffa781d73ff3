"""How much a minute lets through: a bucket that is full after a minute of rest, and refills all the time.

All it has to remember is one instant: when it will be full again. A whole minute's worth may come at once. Times are
microseconds since 1970, by a wall clock that may jump.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from deepserve.core.allowance import Quota

PERIOD_US = 60_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_US = 2 * PERIOD_US
"""More than that nothing owes, so that a clock that was wrong locks nobody out for longer."""


class Rate(msgspec.Struct, frozen=True):
    """limit: things in a minute."""

    limit: int

    def cost_us(self, amount: int) -> int:
        """How much later it will be full again after this."""
        return amount * PERIOD_US // self.limit

    def wait_us(self, until_us: int, now_us: int, amount: int) -> int:
        """So long it takes until this may come; 0: it may now. An amount beyond a minute's can never."""
        return max(0, _owed(until_us, now_us) + self.cost_us(amount) - PERIOD_US)

    def after(self, until_us: int, now_us: int, amount: int) -> int:
        """The instant to remember once this has come."""
        return now_us + min(_owed(until_us, now_us) + self.cost_us(amount), _MOST_US)

    def quota(self, until_us: int, now_us: int) -> Quota:
        owed_us = _owed(until_us, now_us)
        # Rounded down, but what was taken in whole comes back in whole: cost_us has rounded down too.
        used = -(-owed_us * self.limit // PERIOD_US)
        return Quota(
            limit=self.limit,
            remaining=max(0, self.limit - used),
            reset_s=owed_us / 1_000_000,
            resets_at=_EPOCH + timedelta(microseconds=now_us + owed_us),
        )


def _owed(until_us: int, now_us: int) -> int:
    return min(max(0, until_us - now_us), _MOST_US)
