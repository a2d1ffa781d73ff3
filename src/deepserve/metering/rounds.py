"""An answer in rounds, between which the server runs tools: each round is an attempt of its own on the bill."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import BlockDelta, Event, Failed, UsageReported
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from deepserve.metering.meter import Bill


class Rounds:
    """Hears what the client is told, and each round of the back end beneath it."""

    def __init__(self, bill: Bill, route: str | None) -> None:
        self._bill = bill
        self._route = route
        self._usage = Usage()
        self._told: Cost | None = None

    async def ask(self, answer: Callable[[Request], AsyncGenerator[Event]], request: Request) -> AsyncGenerator[Event]:
        """One round, as the back end answers it."""
        attempt = self._bill.attempt(request, self._route)
        error: DeepserveError | None = None
        try:
            async with aclosing(answer(request)) as events:
                async for event in events:
                    if isinstance(event, Failed):
                        error = event.error
                    yield attempt.hear(event)
        except DeepserveError as raised:
            error = raised
            raise
        finally:
            attempt.end(error)

    def hear_delta(self, event: BlockDelta) -> None:
        """Its round has."""

    def hear(self, event: Event) -> Event:
        """Consumption, which is of all rounds so far, with what these cost."""
        if not isinstance(event, UsageReported):
            return event
        self._usage, self._told = event.usage, self._bill.cost()
        return UsageReported(usage=event.usage, cost=self._told)

    def end(self, error: DeepserveError | None) -> UsageReported | None:  # noqa: ARG002 - the rounds know theirs
        """As `Attempt.end`."""
        self._bill.note_tool_calls(sum(count for _, count in self._usage.server_tool_calls))
        cost = self._bill.cost()
        if self._told is None or self._told == cost:
            return None
        self._told = cost
        return UsageReported(usage=self._usage, cost=Cost() if cost is None else cost)
