"""One line in the log for each request: who asked what of whom, what it took and how it ended. Never its content, and
never a key.

Lines are of the level `info`, by the logger `deepserve.requests`, once the request has ended. A request that is
answered in two lanes has one for each. Those that reach no model have a line only where they are refused.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import BlockDelta, Event, Failed, Finished, Started, UsageReported
from deepserve.core.request import Request
from deepserve.core.tenant import TenantId
from deepserve.core.trace import Trace
from deepserve.core.usage import Usage

REQUESTS = logging.getLogger("deepserve.requests")

_REMEMBERED = 1024
"""Ids of requests that failed, so that the door does not tell of them again."""

Fields = Mapping[str, str | int | float | bool | None]


class _Running(msgspec.Struct):
    """accepted_at, first_at: seconds of the monotonic clock."""

    accepted_at: float
    first_at: float | None = None
    started: Started | None = None
    usage: Usage = Usage()
    cost: Cost | None = None
    outcome: str = "client_left"


class RequestLog:
    """Hears the gateway as an `Observer`, and the door. clock: monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running: dict[int, _Running] = {}
        self._failed: deque[str] = deque(maxlen=_REMEMBERED)

    def on_accepted(self, request: Request) -> None:
        if REQUESTS.isEnabledFor(logging.INFO):
            self._running[id(request)] = _Running(accepted_at=self._clock())

    def on_event(self, request: Request, event: Event) -> None:
        running = self._running.get(id(request))
        if running is None:
            return
        if type(event) is BlockDelta:
            if running.first_at is None:
                running.first_at = self._clock()
        elif isinstance(event, Started):
            running.started = event
            running.usage = event.prompt_usage or running.usage
        elif isinstance(event, UsageReported):
            running.usage, running.cost = event.usage, event.cost
        elif isinstance(event, Finished):
            running.outcome = event.reason
        elif isinstance(event, Failed):
            running.outcome = event.error.code

    def on_ended(self, request: Request, error: DeepserveError | None) -> None:
        running = self._running.pop(id(request), None)
        if running is None:
            return
        if error is not None:
            self._failed.append(request.id)
        started, usage = running.started, running.usage
        trace = request.trace or Trace()
        first_ms = None if running.first_at is None else _milliseconds(running.first_at - running.accepted_at)
        tell(
            "answered" if error is None else "failed",
            {
                "request_id": request.id,
                "client_request_id": trace.given_id,
                "trace_id": trace.trace_id or None,
                "tenant": request.tenant.id,
                "dialect": request.dialect or None,
                "model": request.model,
                "answered_model": None if started is None else started.model,
                "served_by": None if started is None else started.served_by.label,
                "route": None if started is None else started.route,
                "num_attempts": None if started is None else len(started.earlier) + 1,
                "hit_tokens": usage.hit_tokens,
                "miss_tokens": usage.miss_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "answer_tokens": usage.answer_tokens,
                "cost_usd": None if running.cost is None else spelled(running.cost.total_usd),
                "first_token_ms": first_ms,
                "duration_ms": _milliseconds(self._clock() - running.accepted_at),
                "outcome": running.outcome if error is None else error.code,
            },
        )

    def on_refused(
        self, request_id: str, trace: Trace | None, tenant: TenantId, path: str, error: DeepserveError
    ) -> None:
        """At the door. path: nothing that a client has made up."""
        if request_id in self._failed or not REQUESTS.isEnabledFor(logging.INFO):
            return
        trace = trace or Trace()
        fields: Fields = {
            "request_id": request_id,
            "client_request_id": trace.given_id,
            "trace_id": trace.trace_id or None,
            "tenant": tenant,
            "path": path,
            "outcome": error.code,
        }
        tell("refused", fields)


def tell(what: str, fields: Fields) -> None:
    """A line; fields that say nothing are left out."""
    REQUESTS.info(
        "request %s", what, extra={"fields": {name: value for name, value in fields.items() if value is not None}}
    )


def spelled(usd: Decimal) -> str:
    """All of its digits, without an exponent."""
    return f"{usd:f}"


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
