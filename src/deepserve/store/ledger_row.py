"""One attempt at an answer, as the ledger has it. Never the content."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from deepserve.core.cost import Cost, usd_of
from deepserve.core.usage import Usage

Dimension = Literal[
    "tenant", "key", "model", "dialect", "provider", "month", "day", "pattern", "rule", "route", "outcome", "price"
]
"""What sums may be kept apart by. pattern, rule: the parts of a route that are the same for many requests."""


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of the table, in its order; a test holds both equal.

    attempt_id      no two attempts share one; rises with time
    number          counts the attempts at one request from 1
    model           that was asked for; answered_model: what answered; served_by: what really ran
    ended_at        arrived_at and the time that has really passed: the clock may have jumped. None: unknown, from old
                    releases
    is_estimated    the provider said nothing about its usage, or nothing sensible
    price           id of the price that was applied; None: there was none, or nothing was charged
    …_pico_usd      millionths of a millionth of a dollar; stated: what the provider says it charges
    outcome         a finish reason, `client_left`, or the code of the error that ended it
    checked         what was found and done about its form, as in `x-deepserve-validated`; None: nothing was checked
    route           which rule chose the model, as in `x-deepserve-route`; None: the client did
    """

    attempt_id: str
    request_id: str
    number: int
    tenant_id: str
    key_id: str | None
    dialect: str
    provider: str
    model: str
    answered_model: str
    served_by: str
    fingerprint: str
    arrived_at: datetime
    ended_at: datetime | None
    first_token_ms: int | None
    hit_tokens: int
    miss_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    cache_write_tokens: int
    num_tool_calls: int
    num_results: int
    is_estimated: bool
    price: str | None
    hit_pico_usd: int
    miss_pico_usd: int
    output_pico_usd: int
    tools_pico_usd: int
    stated_pico_usd: int | None
    outcome: str
    checked: str | None
    route: str | None

    @property
    def usage(self) -> Usage:
        return Usage(
            hit_tokens=self.hit_tokens,
            miss_tokens=self.miss_tokens,
            reasoning_tokens=self.reasoning_tokens,
            answer_tokens=self.answer_tokens,
            cache_write_tokens=self.cache_write_tokens,
            is_estimated=self.is_estimated,
        )

    @property
    def total_pico_usd(self) -> int:
        return self.hit_pico_usd + self.miss_pico_usd + self.output_pico_usd + self.tools_pico_usd

    @property
    def cost(self) -> Cost:
        return Cost(
            hit_usd=usd_of(self.hit_pico_usd),
            miss_usd=usd_of(self.miss_pico_usd),
            output_usd=usd_of(self.output_pico_usd),
            tools_usd=usd_of(self.tools_pico_usd),
            source="list" if self.stated_pico_usd is None or self.price is not None else "provider",
            price=self.price,
            stated_usd=None if self.stated_pico_usd is None else usd_of(self.stated_pico_usd),
        )


def read_row(values: Sequence[Any]) -> LedgerRow:  # Any: what the columns hold
    """A row of the table, all columns in their order. SQLite forgets the zone; all instants are in UTC."""
    row = LedgerRow(**dict(zip(_FIELDS, values, strict=True)))
    ended_at = None if row.ended_at is None else in_utc(row.ended_at)
    return msgspec.structs.replace(row, arrived_at=in_utc(row.arrived_at), ended_at=ended_at)


def in_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


_FIELDS = LedgerRow.__struct_fields__
