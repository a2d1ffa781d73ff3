"""Reading the ledger: single answers, pages of them, and sums. Money is summed exactly, whatever its amount."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, Select, String, cast, func, literal, or_, select

from deepserve.core.request import RequestId
from deepserve.core.tenant import TenantId
from deepserve.core.usage import Usage
from deepserve.store.ledger_row import Dimension, LedgerRow, in_utc, read_row
from deepserve.store.tables import ledger

_ROWS_AT_ONCE: Final = 1_000
_TIGHT: Final = 100
_PART: Final = 1_000_000
"""Amounts are summed in two parts, so that a sum in SQL overflows at 9 million million dollars, not at 9 million."""


class RecordedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One request and what its answer took: all attempts at it together, told by the last."""

    request_id: RequestId
    model: str
    served_by: str
    fingerprint: str
    arrived_at: datetime
    usage: Usage
    outcome: str
    cost_pico_usd: int
    num_attempts: int
    checked: str | None = None
    route: str | None = None


class LedgerSum(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts together.

    group            their values of the dimensions that were asked for; empty where there is none
    num_requests     each counts where its first attempt does
    num_estimated    whose usage nobody reported
    stated_pico_usd  what providers said they charge, and compared_pico_usd: what our price makes of the same attempts
    """

    group: tuple[str, ...]
    num_requests: int
    num_attempts: int
    num_failed: int
    num_estimated: int
    usage: Usage
    cost_pico_usd: int
    stated_pico_usd: int
    compared_pico_usd: int
    num_stated: int

    def plus(self, other: LedgerSum) -> LedgerSum:
        """Both together, under this one's group."""
        counts = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__struct_fields__
            if name not in ("group", "usage")
        }
        return LedgerSum(group=self.group, usage=self.usage.plus(other.usage), **counts)


class LedgerRecord:
    """Methods block; without a database there is nothing to find.

    catch_up  called before anything is looked for: brings in what this process has written down elsewhere
    """

    def __init__(self, engine: Engine | None, *, catch_up: Callable[[], None] | None = None) -> None:
        self._engine = engine
        self._catch_up = catch_up

    # Each tenant's own.

    def find(self, tenant: TenantId, request_id: RequestId) -> RecordedAnswer | None:
        query = _rows().where(ledger.c.tenant_id == tenant, ledger.c.request_id == request_id)
        found = self._read(query.order_by(ledger.c.number, ledger.c.attempt_id))
        return _together(found) if found else None

    def attempts(self, request_id: str, *, tenant: str | None = None) -> Sequence[LedgerRow]:
        """All at one request, in their order. tenant: only if it is that one's; None: whoever's it is."""
        spellings = {request_id, request_id.replace("-", "").lower()}  # as given, and a UUID as we write it
        query = _rows().where(ledger.c.request_id.in_(spellings))
        if tenant is not None:
            query = query.where(ledger.c.tenant_id == tenant)
        return self._read(query.order_by(ledger.c.number, ledger.c.attempt_id))

    def page(self, tenant: TenantId, *, first: int, size: int) -> Sequence[RecordedAnswer]:
        """The newest come first."""
        if self._engine is None:
            return []
        query = select(ledger.c.request_id).where(ledger.c.tenant_id == tenant, ledger.c.number == 1)
        order = ledger.c.arrived_at.desc(), ledger.c.request_id
        with self._connect(self._engine) as connection:
            wanted = list(connection.execute(query.order_by(*order).offset(first).limit(size)).scalars())
        found: dict[str, RecordedAnswer] = {}
        for start in range(0, len(wanted), _ROWS_AT_ONCE):
            part = wanted[start : start + _ROWS_AT_ONCE]
            rows = self._read(
                _rows()
                .where(ledger.c.tenant_id == tenant, ledger.c.request_id.in_(part))
                .order_by(ledger.c.request_id, ledger.c.number, ledger.c.attempt_id)
            )
            for request_id, attempts in groupby(rows, key=lambda row: row.request_id):
                found[request_id] = _together(list(attempts))
        return [found[request_id] for request_id in dict.fromkeys(wanted) if request_id in found]

    def count(self, tenant: TenantId) -> int:
        """Requests that were answered, or failed."""
        if self._engine is None:
            return 0
        with self._connect(self._engine) as connection:
            where = ledger.c.tenant_id == tenant, ledger.c.number == 1
            return connection.execute(select(func.count()).select_from(ledger).where(*where)).scalar_one()

    def spent_pico_usd(self, tenant: TenantId, since: datetime | None = None) -> int:
        """What a tenant's requests have cost that arrived since."""
        if self._engine is None:
            return 0
        query = select(*_exact_sum(_TOTAL)).where(ledger.c.tenant_id == tenant)
        if since is not None:
            query = query.where(ledger.c.arrived_at >= since)
        with self._connect(self._engine) as connection:
            return _exact(*connection.execute(query).one())

    # Everything, for the operator.

    def sums(
        self,
        by: Sequence[Dimension] = (),
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        tenant: str | None = None,
    ) -> Sequence[LedgerSum]:
        """Attempts of requests that arrived from `since` on and before `until`, kept apart by some dimensions."""
        if self._engine is None:
            return []
        groups = [_dimension(name) for name in by]
        failed = or_(ledger.c.outcome.in_(_GOOD), ledger.c.outcome == "client_left")
        stated = ledger.c.stated_pico_usd
        columns: list[ColumnElement[Any]] = [
            func.sum(_one_if(ledger.c.number == 1)),
            func.count(),
            func.sum(_one_if(~failed)),
            func.sum(_one_if(ledger.c.is_estimated.is_(True))),
            func.sum(_one_if(stated.is_not(None))),
            *(func.sum(ledger.c[name]) for name in _COUNTS),
            *_exact_sum(_TOTAL),
            *_exact_sum(func.coalesce(stated, 0)),
            *_exact_sum(_TOTAL * _one_if(stated.is_not(None))),
        ]
        query = select(*groups, *columns)
        if since is not None:
            query = query.where(ledger.c.arrived_at >= since)
        if until is not None:
            query = query.where(ledger.c.arrived_at < until)
        if tenant is not None:
            query = query.where(ledger.c.tenant_id == tenant)
        if groups:
            query = query.group_by(*groups).order_by(*groups)
        with self._connect(self._engine) as connection:
            found = [_sum(row, by) for row in connection.execute(query) if row[len(groups) + 1]]
        together: dict[tuple[str, ...], LedgerSum] = {}
        for one in found:
            known = together.get(one.group)
            together[one.group] = one if known is None else known.plus(one)
        return [together[group] for group in sorted(together)]

    def rows(self, *, since: datetime | None = None, until: datetime | None = None) -> Iterator[LedgerRow]:
        """Every attempt, the oldest first."""
        if self._engine is None:
            return
        last = ""
        while True:
            query = _rows().where(ledger.c.attempt_id > last).order_by(ledger.c.attempt_id).limit(_ROWS_AT_ONCE)
            if since is not None:
                query = query.where(ledger.c.arrived_at >= since)
            if until is not None:
                query = query.where(ledger.c.arrived_at < until)
            found = self._read(query)
            if not found:
                return
            yield from found
            last = found[-1].attempt_id

    def _connect(self, engine: Engine) -> Connection:
        if self._catch_up is not None:
            self._catch_up()
        return engine.connect()

    def _read(self, query: Select[Any]) -> list[LedgerRow]:
        if self._engine is None:
            return []
        with self._connect(self._engine) as connection:
            return [read_row(row) for row in connection.execute(query)]


_GOOD: Final = ("stop", "stop_string", "length", "tool_calls", "content_filter", "aborted")
_COUNTS: Final = ("hit_tokens", "miss_tokens", "reasoning_tokens", "answer_tokens", "cache_write_tokens")
_TOTAL: Final = ledger.c.hit_pico_usd + ledger.c.miss_pico_usd + ledger.c.output_pico_usd + ledger.c.tools_pico_usd


def _rows() -> Select[Any]:  # Any: the columns of a row have no common printable type
    return select(*ledger.columns)


def _dimension(name: Dimension) -> ColumnElement[str]:
    match name:
        case "tenant":
            return ledger.c.tenant_id
        case "key":
            return func.coalesce(ledger.c.key_id, "")
        case "model":
            return ledger.c.answered_model
        case "day" | "month":
            return func.substr(cast(ledger.c.arrived_at, String), 1, 10 if name == "day" else 7)
        case "route" | "pattern" | "rule":
            return func.coalesce(ledger.c.route, "")
        case "price":
            return func.coalesce(ledger.c.price, "")
        case "dialect" | "provider" | "outcome":
            return ledger.c[name]


def _part_of(value: str, name: Dimension) -> str:
    """`auto:coding-agent` of a route `model=…; rule=hard; preset=auto:coding-agent; why=…`."""
    wanted = {"pattern": "preset=", "rule": "rule="}.get(name)
    if wanted is None:
        return value
    return next((part.removeprefix(wanted) for part in value.split("; ") if part.startswith(wanted)), "")


def _one_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    from sqlalchemy import case

    return case((condition, literal(1)), else_=literal(0))


def _exact_sum(amount: ColumnElement[int]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Whole parts and rests apart; `_exact` puts them together."""
    # SQLAlchemy's own // and / are other divisions on other databases. They bind tighter than the sum in `amount`.
    return func.sum(amount.op("/", precedence=_TIGHT)(_PART)), func.sum(amount.op("%", precedence=_TIGHT)(_PART))


def _exact(whole: Any, rest: Any) -> int:  # Any: None without rows, and PostgreSQL's sums are Decimals
    return int(whole or 0) * _PART + int(rest or 0)


def _sum(row: Sequence[Any], by: Sequence[Dimension]) -> LedgerSum:  # Any: as above
    num_groups = len(by)
    num_requests, num_attempts, num_failed, num_estimated, num_stated, *rest = row[num_groups:]
    hit, miss, reasoning, answer, written = (int(value or 0) for value in rest[: len(_COUNTS)])
    money = rest[len(_COUNTS) :]
    return LedgerSum(
        group=tuple(_part_of(str(value), name) for value, name in zip(row, by, strict=False)),
        num_requests=int(num_requests or 0),
        num_attempts=num_attempts,
        num_failed=int(num_failed or 0),
        num_estimated=int(num_estimated or 0),
        num_stated=int(num_stated or 0),
        usage=Usage(
            hit_tokens=hit,
            miss_tokens=miss,
            reasoning_tokens=reasoning,
            answer_tokens=answer,
            cache_write_tokens=written,
            is_estimated=bool(num_estimated),
        ),
        cost_pico_usd=_exact(*money[0:2]),
        stated_pico_usd=_exact(*money[2:4]),
        compared_pico_usd=_exact(*money[4:6]),
    )


def _together(attempts: Sequence[LedgerRow]) -> RecordedAnswer:
    usage, last = Usage(), attempts[-1]
    for row in attempts:
        usage = usage.plus(row.usage)
    return RecordedAnswer(
        request_id=RequestId(last.request_id),
        model=last.model,
        served_by=last.served_by,
        fingerprint=last.fingerprint,
        arrived_at=in_utc(last.arrived_at),
        usage=usage,
        outcome=last.outcome,
        cost_pico_usd=sum(row.total_pico_usd for row in attempts),
        num_attempts=len(attempts),
        checked=last.checked,
        route=last.route,
    )
