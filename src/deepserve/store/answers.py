"""The record of what was answered: who, when, by what, how many tokens. Never the content."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Engine, Select, func, select

from deepserve.core.errors import DeepserveError
from deepserve.core.events import Checked, Event, Finished, Started, UsageReported, worst_check
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request, RequestId
from deepserve.core.tenant import TenantId
from deepserve.core.usage import Usage
from deepserve.store.tables import answers
from deepserve.store.writer import Writer


class AnswerTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over one model's answers."""

    model: str
    served_by: str
    num_answers: int
    usage: Usage


class AnswerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One answer.

    outcome  a finish reason, `client_left`, or the code of the error that ended it
    checked  what was found and done about its form, as in `x-deepserve-validated`; None: nothing was checked
    route    which rule chose the model, as in `x-deepserve-route`; None: the client did
    """

    request_id: RequestId
    model: str
    served_by: str
    fingerprint: str
    arrived_at: datetime
    usage: Usage
    outcome: str
    checked: str | None = None
    route: str | None = None


class AnswerSum(msgspec.Struct, frozen=True, kw_only=True):
    """What equal answers of one minute consumed together."""

    model: str
    outcome: str
    minute: datetime
    usage: Usage


class _Running(msgspec.Struct):
    served_by: ServedBy | None = None
    usage: Usage = Usage()
    outcome: str = "client_left"
    checked: Checked | None = None
    route: str | None = None


class AnswerLog:
    """Hears the gateway and writes one row for each request that a back end accepted."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._running: dict[RequestId, _Running] = {}

    def on_accepted(self, request: Request) -> None:
        self._running[request.id] = _Running()

    def on_event(self, request: Request, event: Event) -> None:
        running = self._running.get(request.id)
        if running is None:
            return
        if isinstance(event, Started):
            running.served_by = event.served_by
            running.usage = event.prompt_usage or running.usage
            running.checked = event.checked
            running.route = event.route
        elif isinstance(event, UsageReported):
            running.usage = event.usage
        elif isinstance(event, Finished):
            running.outcome = event.reason
            running.checked = worst_check((running.checked, event.checked))

    def on_ended(self, request: Request, error: DeepserveError | None) -> None:
        running = self._running.pop(request.id, None)
        if running is None or running.served_by is None:
            return
        usage = running.usage
        self._writer.insert(
            answers,
            {
                "request_id": request.id,
                "tenant_id": request.tenant.id,
                "model": request.model,
                "served_by": running.served_by.label,
                "fingerprint": running.served_by.fingerprint,
                "arrived_at": request.arrived_at,
                "hit_tokens": usage.hit_tokens,
                "miss_tokens": usage.miss_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "answer_tokens": usage.answer_tokens,
                "num_results": request.num_results,
                "outcome": running.outcome if error is None else error.code,
                "checked": None if running.checked is None else running.checked.label,
                "route": running.route,
            },
        )


class AnswerRecord:
    """Answers that were written, each tenant's for itself. Methods block; without a database there are none."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine

    def find(self, tenant: TenantId, request_id: RequestId) -> AnswerRow | None:
        found = self._read(_rows().where(answers.c.tenant_id == tenant, answers.c.request_id == request_id))
        return found[0] if found else None

    def page(self, tenant: TenantId, *, first: int, size: int) -> Sequence[AnswerRow]:
        """The newest come first."""
        query = _rows().where(answers.c.tenant_id == tenant)
        order = answers.c.arrived_at.desc(), answers.c.request_id
        return self._read(query.order_by(*order).offset(first).limit(size))

    def count(self, tenant: TenantId) -> int:
        if self._engine is None:
            return 0
        with self._engine.connect() as connection:
            query = select(func.count()).select_from(answers).where(answers.c.tenant_id == tenant)
            return connection.execute(query).scalar_one()

    def sums(self, tenant: TenantId) -> Sequence[AnswerSum]:
        """Everything a tenant was answered, by model, outcome and minute: as fine as prices change."""
        if self._engine is None:
            return []
        sums: dict[tuple[str, str, datetime], Usage] = {}
        names = ("model", "outcome", "arrived_at", *_COUNTS)
        query = select(*(answers.c[name] for name in names)).where(answers.c.tenant_id == tenant)
        with self._engine.connect() as connection:
            for model, outcome, arrived_at, *counts in connection.execute(query.execution_options(yield_per=10_000)):
                key = model, outcome, _in_utc(arrived_at).replace(second=0, microsecond=0)
                sums[key] = sums.get(key, Usage()).plus(_usage(counts))
        return [
            AnswerSum(model=model, outcome=outcome, minute=minute, usage=usage)
            for (model, outcome, minute), usage in sums.items()
        ]

    def _read(self, query: Select[Any]) -> list[AnswerRow]:
        if self._engine is None:
            return []
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return [
                AnswerRow(
                    request_id=RequestId(request_id),
                    model=model,
                    served_by=served_by,
                    fingerprint=fingerprint,
                    arrived_at=_in_utc(arrived_at),
                    outcome=outcome,
                    checked=checked,
                    route=route,
                    usage=_usage(counts),
                )
                for request_id, model, served_by, fingerprint, arrived_at, outcome, checked, route, *counts in rows
            ]


_COUNTS = ("hit_tokens", "miss_tokens", "reasoning_tokens", "answer_tokens")
"""In the order of `_usage`."""


def _usage(counts: Sequence[int]) -> Usage:
    hit, miss, reasoning, answer = counts
    return Usage(hit_tokens=hit, miss_tokens=miss, reasoning_tokens=reasoning, answer_tokens=answer)


def _in_utc(at: datetime) -> datetime:
    """SQLite forgets the zone; all instants here are in UTC."""
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _rows() -> Select[Any]:  # Any: the columns of a row have no common printable type
    names = ("request_id", "model", "served_by", "fingerprint", "arrived_at", "outcome", "checked", "route")
    return select(*(answers.c[name] for name in (*names, *_COUNTS)))


def read_totals(engine: Engine) -> Sequence[AnswerTotals]:
    """What each model has answered since the database was created, by model and origin."""
    columns: list[Any] = [  # Any: SQLAlchemy's column expressions have no common printable type
        func.count(),
        *(func.sum(answers.c[name]) for name in ("hit_tokens", "miss_tokens", "reasoning_tokens", "answer_tokens")),
    ]
    query = (
        select(answers.c.model, answers.c.served_by, *columns)
        .group_by(answers.c.model, answers.c.served_by)
        .order_by(answers.c.model, answers.c.served_by)
    )
    with engine.connect() as connection:
        return [
            AnswerTotals(
                model=model,
                served_by=served_by,
                num_answers=count,
                usage=Usage(hit_tokens=hit, miss_tokens=miss, reasoning_tokens=reasoning, answer_tokens=answer),
            )
            for model, served_by, count, hit, miss, reasoning, answer in connection.execute(query)
        ]
