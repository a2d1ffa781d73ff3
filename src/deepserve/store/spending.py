"""What keys have spent, by day: sums that are written in the transaction that writes the ledger's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import Connection, Date, DateTime, Engine, bindparam, case, select, text, update

from deepserve.core.cost import usd_of
from deepserve.core.tenant import Budgets, KeyId
from deepserve.store.journal import Unwritten
from deepserve.store.sqlite_driver import driver_of, spell_instant
from deepserve.store.tables import key_spending, reservations


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt has cost a key.

    at           when the request arrived: its day in UTC is whose budget pays
    reservation  from which it is taken; None: nothing was reserved
    """

    key: KeyId
    at: datetime
    cost_pico: int
    tokens: int
    reservation: str | None = None

    @property
    def day(self) -> date:
        return self.at.astimezone(UTC).date()


def book(connection: Connection, rows: Sequence[Unwritten]) -> None:
    """What rows of the ledger mean for the keys that they are about, in the transaction that writes these rows."""
    write_spending(
        connection,
        [
            Settlement(
                key=KeyId(one.row.key_id),
                at=one.row.arrived_at,
                cost_pico=one.row.total_pico_usd,
                tokens=one.row.usage.total_tokens,
                reservation=one.release,
            )
            for one in rows
            if one.row.key_id is not None
        ],
    )


def write_spending(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Add to the sums and take from the reservations, in the caller's transaction."""
    sums: dict[tuple[KeyId, date], dict[str, Any]] = {}
    for one in settlements:
        row = sums.setdefault((one.key, one.day), _nothing(one))
        row["spent_pico"] += one.cost_pico
        row["num_attempts"] += 1
        row["tokens"] += one.tokens
        row["last_used_at"] = max(row["last_used_at"], one.at)
    if sums:
        # In one order everywhere: two gateways that write the same rows must not wait for each other.
        _add(connection, [row for _, row in sorted(sums.items(), key=lambda item: item[0])])
    taken: dict[str, int] = {}
    for one in settlements:
        if one.reservation is not None:
            taken[one.reservation] = taken.get(one.reservation, 0) + one.cost_pico
    left = reservations.c.amount_pico
    for reservation, cost_pico in sorted(taken.items()):
        connection.execute(
            update(reservations)
            .where(reservations.c.id == reservation)
            .values(amount_pico=case((left > cost_pico, left - cost_pico), else_=0))
        )


def _add(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:  # Any: what the columns hold
    driver = driver_of(connection)
    if driver is None:
        connection.execute(_ADD, rows)
        return
    spelled = [
        {**row, "day": row["day"].isoformat(), "last_used_at": spell_instant(row["last_used_at"])} for row in rows
    ]
    driver.executemany(_ADDITION, spelled)


def _nothing(one: Settlement) -> dict[str, Any]:  # Any: what the columns hold
    zero = dict.fromkeys(("spent_pico", "num_attempts", "tokens"), 0)
    return {"key_id": one.key, "day": one.day, "last_used_at": one.at, **zero}


_ADDITION = """
    INSERT INTO key_spending (key_id, day, spent_pico, num_attempts, tokens, last_used_at)
    VALUES (:key_id, :day, :spent_pico, :num_attempts, :tokens, :last_used_at)
    ON CONFLICT (key_id, day) DO UPDATE SET
        spent_pico = key_spending.spent_pico + excluded.spent_pico,
        num_attempts = key_spending.num_attempts + excluded.num_attempts,
        tokens = key_spending.tokens + excluded.tokens,
        last_used_at = CASE
            WHEN excluded.last_used_at > key_spending.last_used_at THEN excluded.last_used_at
            ELSE key_spending.last_used_at
        END
"""
"""As text, which both databases read alike: it belongs to every commit of the ledger, and is put together once."""

_ADD = text(_ADDITION).bindparams(
    bindparam("day", type_=Date), bindparam("last_used_at", type_=DateTime(timezone=True))
)


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars of a key. since_monday: weeks begin then, as everything else in UTC."""

    today_usd: Decimal = Decimal(0)
    since_monday_usd: Decimal = Decimal(0)
    month_usd: Decimal = Decimal(0)
    total_usd: Decimal = Decimal(0)
    reserved_today_usd: Decimal = Decimal(0)
    reserved_month_usd: Decimal = Decimal(0)
    num_attempts: int = 0
    tokens: int = 0
    last_used_at: datetime | None = None

    def left_usd(self, budgets: Budgets) -> Decimal:
        """What may still be spent now, beyond what answers that run have reserved; below zero where it is too much.

        Of the tighter budget; there must be one.
        """
        left = []
        if budgets.usd_per_day is not None:
            left.append(budgets.usd_per_day - self.today_usd - self.reserved_today_usd)
        if budgets.usd_per_month is not None:
            left.append(budgets.usd_per_month - self.month_usd - self.reserved_month_usd)
        return min(left)


def read_spending(engine: Engine, keys: Sequence[KeyId], *, now: datetime) -> Mapping[KeyId, Spending]:
    """Of each of these keys. Blocks for a database's time."""
    with engine.connect() as connection:
        reserved = connection.execute(
            select(reservations.c.key_id, reservations.c.day, reservations.c.amount_pico).where(
                reservations.c.key_id.in_(keys), reservations.c.expires_at >= now
            )
        ).all()
        spent = connection.execute(select(key_spending).where(key_spending.c.key_id.in_(keys))).all()
    today = now.astimezone(UTC).date()
    monday = date.fromordinal(today.toordinal() - today.weekday())
    first = today.replace(day=1)
    found: dict[KeyId, Spending] = {}
    for key in keys:
        mine = [row for row in spent if row.key_id == key]
        held = [row for row in reserved if row.key_id == key]
        found[key] = Spending(
            today_usd=usd_of(sum(row.spent_pico for row in mine if row.day == today)),
            since_monday_usd=usd_of(sum(row.spent_pico for row in mine if monday <= row.day <= today)),
            month_usd=usd_of(sum(row.spent_pico for row in mine if first <= row.day <= today)),
            total_usd=usd_of(sum(row.spent_pico for row in mine)),
            reserved_today_usd=usd_of(sum(row.amount_pico for row in held if row.day == today)),
            reserved_month_usd=usd_of(sum(row.amount_pico for row in held if first <= row.day <= today)),
            num_attempts=sum(row.num_attempts for row in mine),
            tokens=sum(row.tokens for row in mine),
            last_used_at=max((_in_utc(row.last_used_at) for row in mine), default=None),
        )
    return found


def _in_utc(at: datetime) -> datetime:
    """SQLite forgets the zone; all instants here are in UTC."""
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
