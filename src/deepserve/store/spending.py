"""What keys have spent, by day: sums that are written in the transaction that writes the ledger's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
from sqlalchemy import Connection, Engine, case, select, update

from deepserve.core.cost import usd_of
from deepserve.core.tenant import KeyId
from deepserve.store.database import insert_new
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


def write_spending(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Add to the sums and take from the reservations, in the caller's transaction."""
    sums: dict[tuple[KeyId, date], list[Settlement]] = {}
    for one in settlements:
        sums.setdefault((one.key, one.day), []).append(one)
    # In one order everywhere: two gateways that write the same rows must not wait for each other.
    for (key, day), ones in sorted(sums.items()):
        _add(connection, key, day, ones)
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


def _add(connection: Connection, key: KeyId, day: date, ones: Sequence[Settlement]) -> None:
    table, last_used_at = key_spending, max(one.at for one in ones)
    none = {"spent_pico": 0, "num_attempts": 0, "tokens": 0, "last_used_at": last_used_at}
    insert_new(connection, table, {"key_id": key, "day": day, **none})
    connection.execute(
        update(table)
        .where(table.c.key_id == key, table.c.day == day)
        .values(
            spent_pico=table.c.spent_pico + sum(one.cost_pico for one in ones),
            num_attempts=table.c.num_attempts + len(ones),
            tokens=table.c.tokens + sum(one.tokens for one in ones),
            last_used_at=case((table.c.last_used_at < last_used_at, last_used_at), else_=table.c.last_used_at),
        )
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
