"""Replace the record of answers by the ledger: one row for each attempt, with what it cost.

Rows of the record come along, priced as they were shown until now: at the vendor's list price when they arrived. The
prices stand here once more, because a migration has to give the same tomorrow as today; a test compares them with the
catalog. An operator's own prices are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ROWS_AT_ONCE = 1_000

_PAID = frozenset(("stop", "stop_string", "length", "tool_calls", "content_filter", "aborted", "client_left"))
"""Outcomes that were charged; any other was an error."""


class ListPrice(NamedTuple):
    """Since when, in the form of a price's id; then pico-dollars for a token of hit, miss and output; then in peak."""

    since: str
    usual: tuple[int, int, int]
    peak: tuple[int, int, int] | None = None


LIST_PRICES: Mapping[str, tuple[ListPrice, ...]] = {
    "deepseek-v4-flash": (
        ListPrice("2026-04-24T00:00Z", (28_000, 140_000, 280_000)),
        ListPrice("2026-04-26T12:15Z", (2_800, 140_000, 280_000)),
        ListPrice("2026-08-16T16:00Z", (7_000, 220_000, 660_000), (14_000, 440_000, 1_320_000)),
        ListPrice("2026-09-10T04:00Z", (3_000, 150_000, 600_000), (6_000, 300_000, 1_200_000)),
    ),
    "deepseek-v4-pro": (
        ListPrice("2026-04-24T00:00Z", (145_000, 1_740_000, 3_480_000)),
        ListPrice("2026-04-25T16:57Z", (36_250, 435_000, 870_000)),
        ListPrice("2026-04-26T12:15Z", (3_625, 435_000, 870_000)),
        ListPrice("2026-08-16T16:00Z", (22_000, 660_000, 1_980_000), (44_000, 1_320_000, 3_960_000)),
    ),
}

_PEAK_HOURS = frozenset((1, 2, 3, 6, 7, 8, 9))
_ON_WEEKDAYS_SINCE = datetime(2026, 8, 22, 16, tzinfo=UTC)
_HOLIDAYS = frozenset(((9, 25), (10, 1), (10, 2), (10, 5), (10, 6), (10, 7)))
"""Of 2026, without peak."""


def list_price(model: str, at: datetime) -> tuple[str, tuple[int, int, int]] | None:
    """The id and amounts of the price in force; None where there was none."""
    found = [price for price in LIST_PRICES.get(model, ()) if datetime.fromisoformat(price.since) <= at]
    if not found:
        return None
    price = found[-1]
    if price.peak is not None and _is_peak(at):
        return f"deepseek/{model}@{price.since}/deepseek-peak", price.peak
    return f"deepseek/{model}@{price.since}", price.usual


def _is_peak(at: datetime) -> bool:
    if at.hour not in _PEAK_HOURS:
        return False
    if at < _ON_WEEKDAYS_SINCE:
        return True
    return at.weekday() < 5 and not (at.year == 2026 and (at.month, at.day) in _HOLIDAYS)


def upgrade() -> None:
    ledger = op.create_table(
        "ledger",
        sa.Column("attempt_id", sa.String(64), primary_key=True),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=True),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("answered_model", sa.String(128), nullable=False),
        sa.Column("served_by", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_token_ms", sa.Integer(), nullable=True),
        sa.Column("hit_tokens", sa.BigInteger(), nullable=False),
        sa.Column("miss_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("answer_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("num_tool_calls", sa.Integer(), nullable=False),
        sa.Column("num_results", sa.Integer(), nullable=False),
        sa.Column("is_estimated", sa.Boolean(), nullable=False),
        sa.Column("price", sa.Text(), nullable=True),
        sa.Column("hit_pico_usd", sa.BigInteger(), nullable=False),
        sa.Column("miss_pico_usd", sa.BigInteger(), nullable=False),
        sa.Column("output_pico_usd", sa.BigInteger(), nullable=False),
        sa.Column("tools_pico_usd", sa.BigInteger(), nullable=False),
        sa.Column("stated_pico_usd", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("checked", sa.String(64), nullable=True),
        sa.Column("route", sa.Text(), nullable=True),
    )
    op.create_index("ledger_by_request", "ledger", ["request_id"])
    op.create_index("ledger_by_tenant_and_time", "ledger", ["tenant_id", "arrived_at"])
    connection = op.get_bind()
    answers = sa.Table("answers", sa.MetaData(), autoload_with=connection)
    # Fetched in parts from one position to the next: a driver may not read and write through one connection at once.
    last = ""
    while True:
        page = sa.select(answers).where(answers.c.request_id > last).order_by(answers.c.request_id).limit(_ROWS_AT_ONCE)
        rows = connection.execute(page).mappings().all()
        if not rows:
            break
        last = rows[-1]["request_id"]
        connection.execute(sa.insert(ledger), list(_carried_over(rows)))
    op.drop_table("answers")


def _carried_over(rows: Sequence[sa.RowMapping]) -> Iterable[dict[str, Any]]:  # Any: a row is what its table holds
    for row in rows:
        arrived_at = row["arrived_at"]
        if arrived_at.tzinfo is None:  # SQLite forgets the zone
            arrived_at = arrived_at.replace(tzinfo=UTC)
        price = list_price(row["model"], arrived_at.astimezone(UTC)) if row["outcome"] in _PAID else None
        hit, miss, output = (0, 0, 0) if price is None else price[1]
        yield {
            **{name: row[name] for name in _KEPT},
            "attempt_id": row["request_id"],
            "number": 1,
            "key_id": None,
            "dialect": "",
            "provider": row["served_by"].partition("/")[0],
            "answered_model": row["model"],
            "arrived_at": arrived_at,
            "ended_at": None,
            "first_token_ms": None,
            "cache_write_tokens": 0,
            "num_tool_calls": 0,
            "is_estimated": False,
            "price": None if price is None else price[0],
            "hit_pico_usd": row["hit_tokens"] * hit,
            "miss_pico_usd": row["miss_tokens"] * miss,
            "output_pico_usd": (row["reasoning_tokens"] + row["answer_tokens"]) * output,
            "tools_pico_usd": 0,
            "stated_pico_usd": None,
        }


_KEPT = (
    *("request_id", "tenant_id", "model", "served_by", "fingerprint", "num_results", "outcome", "checked", "route"),
    *("hit_tokens", "miss_tokens", "reasoning_tokens", "answer_tokens"),
)


def downgrade() -> None:
    """The first attempt of each request; costs and later attempts are lost."""
    op.create_table(
        "answers",
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("served_by", sa.String(256), nullable=False),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("hit_tokens", sa.BigInteger(), nullable=False),
        sa.Column("miss_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("answer_tokens", sa.BigInteger(), nullable=False),
        sa.Column("num_results", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("checked", sa.String(64), nullable=True),
        sa.Column("route", sa.Text(), nullable=True),
    )
    op.create_index("answers_by_tenant_and_time", "answers", ["tenant_id", "arrived_at"])
    names = ", ".join((*_KEPT, "arrived_at"))
    op.execute(
        f"INSERT INTO answers ({names}) SELECT {names} FROM ledger AS one WHERE attempt_id = "  # noqa: S608 - our names
        "(SELECT MIN(attempt_id) FROM ledger AS other WHERE other.request_id = one.request_id)"
    )
    op.drop_table("ledger")
