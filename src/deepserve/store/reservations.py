"""What keys with limits use at this moment: answers that run, what they may still cost, and how fast they came.

One for all gateways on a database. Two decisions about a key never cross, in whatever process: each holds the key from
before it reads until after it has written. What is decided is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import islice
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update

from deepserve.core.tenant import KeyId
from deepserve.store.database import hold, insert_new
from deepserve.store.ledger_row import in_utc
from deepserve.store.tables import key_rates, key_spending, reservations

Decision = TypeVar("Decision")

_AT_ONCE = 500
"""Databases bound how many values a statement may have."""

_UNUSED = {"requests_until_us": 0, "tokens_until_us": 0}

# Made once: to put them together each time took as long as to execute them.
_RUNNING = select(reservations.c.id, reservations.c.day, reservations.c.amount_pico, reservations.c.expires_at).where(
    reservations.c.key_id == bindparam("key")
)
_SPENT = select(key_spending.c.day, key_spending.c.spent_pico).where(
    key_spending.c.key_id == bindparam("key"),
    key_spending.c.day >= bindparam("first"),
    key_spending.c.day < bindparam("after"),
)
_RATES = select(key_rates.c.requests_until_us, key_rates.c.tokens_until_us).where(
    key_rates.c.key_id == bindparam("key")
)
_SET_RATES = (
    update(key_rates)
    .where(key_rates.c.key_id == bindparam("key"))
    .values(requests_until_us=bindparam("requests"), tokens_until_us=bindparam("tokens"))
)
_MOVE_TOKENS = (
    update(key_rates)
    .where(key_rates.c.key_id == bindparam("key"))
    .values(tokens_until_us=key_rates.c.tokens_until_us + bindparam("moved"))
)
_INSERT = insert(reservations)
_SET_AMOUNT = (
    update(reservations).where(reservations.c.id == bindparam("wanted")).values(amount_pico=bindparam("amount"))
)
_DELETE = delete(reservations).where(reservations.c.id == bindparam("wanted"))


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """One answer that runs. day: whose budget it uses; amount_pico: beyond what the ledger says of it already."""

    id: str
    key: KeyId
    day: date
    amount_pico: int


class KeyState(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision is about. Amounts are pico-dollars of the day in question and of its month.

    reserved_…         by other answers than the one in question
    num_running        those others
    …_until_us         when nothing would be used of a rate any more: microseconds since 1970
    """

    spent_day_pico: int
    spent_month_pico: int
    reserved_day_pico: int
    reserved_month_pico: int
    num_running: int
    requests_until_us: int
    tokens_until_us: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision leads to. amount_pico: of the answer's reservation, which is made where there is none."""

    amount_pico: int
    requests_until_us: int
    tokens_until_us: int


class ReservationStore:
    """Methods block for a database's time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def decide(
        self,
        wanted: Reservation,
        decide: Callable[[KeyState], tuple[Decision, Change | None]],
        *,
        alive: Collection[str],
        now: datetime,
        lease_s: float,
    ) -> Decision:
        """Let `decide` look at the key, and do what it says, in one transaction. None changes nothing.

        alive: reservations of this process, which are not over whatever the clock says
        """
        with self._engine.begin() as connection:
            hold(connection, _name(wanted.key))
            # What is reserved is read before what is spent: an answer that is written into the ledger in between
            # counts twice then. The other way round it would not count at all.
            running = _running(connection, wanted.key, alive, now)
            state = _state(connection, wanted, [one for one in running if one.id != wanted.id])
            decision, change = decide(state)
            if change is None:
                return decision
            rates = change.requests_until_us, change.tokens_until_us
            if rates != (state.requests_until_us, state.tokens_until_us):
                connection.execute(_SET_RATES, {"key": wanted.key, "requests": rates[0], "tokens": rates[1]})
            if any(one.id == wanted.id for one in running):
                connection.execute(_SET_AMOUNT, {"wanted": wanted.id, "amount": change.amount_pico})
            else:
                _insert(connection, wanted, change.amount_pico, now + timedelta(seconds=lease_s))
            return decision

    def end(self, reservation: Reservation, *, tokens_us: int) -> None:
        """The answer is over. tokens_us: so much later than it was said, or earlier, its tokens are used up."""
        with self._engine.begin() as connection:
            hold(connection, _name(reservation.key))
            connection.execute(_DELETE, {"wanted": reservation.id})
            if tokens_us:
                connection.execute(_MOVE_TOKENS, {"key": reservation.key, "moved": tokens_us})

    def renew(self, live: Sequence[Reservation], *, now: datetime, lease_s: float) -> None:
        """Say that these answers still run. One that was taken for dead, as after a clock's jump, is there again."""
        expires_at, by_id = now + timedelta(seconds=lease_s), {one.id: one for one in live}
        with self._engine.begin() as connection:
            for ids in _batched(by_id, _AT_ONCE):
                mine = reservations.c.id.in_(ids)
                connection.execute(update(reservations).where(mine).values(expires_at=expires_at))
                known = set(connection.execute(select(reservations.c.id).where(mine)).scalars())
                for one_id in ids:
                    if one_id not in known:
                        _insert(connection, by_id[one_id], by_id[one_id].amount_pico, expires_at)


def _name(key: KeyId) -> str:
    """Of what is held."""
    return f"limits of {key}"


def _insert(connection: Connection, one: Reservation, amount_pico: int, expires_at: datetime) -> None:
    row = {"id": one.id, "key_id": one.key, "day": one.day, "amount_pico": amount_pico, "expires_at": expires_at}
    connection.execute(_INSERT, row)


def _running(connection: Connection, key: KeyId, alive: Collection[str], now: datetime) -> list[Reservation]:
    """The key's answers, without those of processes that have not said for long that they live."""
    rows = connection.execute(_RUNNING, {"key": key}).all()
    dead = {row.id for row in rows if in_utc(row.expires_at) < now} - set(alive)
    for ids in _batched(dead, _AT_ONCE):
        connection.execute(delete(reservations).where(reservations.c.id.in_(ids)))
    return [
        Reservation(id=row.id, key=key, day=row.day, amount_pico=row.amount_pico) for row in rows if row.id not in dead
    ]


def _state(connection: Connection, wanted: Reservation, reserved: Sequence[Reservation]) -> KeyState:
    first, after = _month(wanted.day)
    spent = connection.execute(_SPENT, {"key": wanted.key, "first": first, "after": after}).all()
    found = connection.execute(_RATES, {"key": wanted.key}).one_or_none()
    if found is None:
        insert_new(connection, key_rates, {"key_id": wanted.key, **_UNUSED})
    requests_until_us, tokens_until_us = (0, 0) if found is None else found
    return KeyState(
        spent_day_pico=sum(row.spent_pico for row in spent if row.day == wanted.day),
        spent_month_pico=sum(row.spent_pico for row in spent),
        reserved_day_pico=sum(row.amount_pico for row in reserved if row.day == wanted.day),
        reserved_month_pico=sum(row.amount_pico for row in reserved if first <= row.day < after),
        num_running=len(reserved),
        requests_until_us=requests_until_us,
        tokens_until_us=tokens_until_us,
    )


def _month(day: date) -> tuple[date, date]:
    """Its first day, and the first day after it."""
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def _batched(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    """So many at a time."""
    left = iter(ids)
    while batch := list(islice(left, size)):
        yield batch
