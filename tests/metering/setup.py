"""Back ends that say what a test wants, and a ledger that keeps rows in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.price_table import load_prices
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Finished,
    Started,
    TextBlock,
    UsageReported,
)
from deepserve.core.messages import Message, Text
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request, RequestId
from deepserve.core.usage import Usage
from deepserve.gateway import Gateway
from deepserve.metering.meter import Meter
from deepserve.store.ledger import Ledger, LedgerRow

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
"""A Sunday: no peak."""

FLASH, PRO = "deepseek-v4-flash", "deepseek-v4-pro"
USAGE = Usage(hit_tokens=100, miss_tokens=20, reasoning_tokens=3, answer_tokens=7)
COST_PICO = 100 * 3_000 + 20 * 150_000 + 10 * 600_000
"""Of that usage, Flash at noon."""


class KeptLedger(Ledger):
    """What has been settled, in order."""

    def __init__(self) -> None:
        self.kept: list[LedgerRow] = []
        self.num_settled = 0

    @override
    def check(self) -> None:
        """It always takes rows."""

    @override
    def settle(self, rows: Sequence[LedgerRow], *, release: str | None = None) -> asyncio.Future[None]:
        self.kept += rows
        self.num_settled += 1
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    @override
    def gauges(self) -> Mapping[str, float]:
        return {}


class Saying(ScriptedBackend):
    """Answers each request with the next list of events; an exception in it is raised."""

    def __init__(self, *answers: Sequence[Event | DeepserveError]) -> None:
        super().__init__()
        self._answers = list(answers)

    @override
    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        for event in self._answers.pop(0):
            if isinstance(event, DeepserveError):
                raise event
            yield event


def started(provider: str = "deepseek", **fields: Any) -> Started:  # Any: fields of Started
    return Started(served_by=ServedBy(provider=provider, model="m", fingerprint="f"), **fields)


def said(text: str = "hello", *, result: int = 0) -> list[Event]:
    return [
        BlockOpened(index=0, block=TextBlock(), result=result),
        BlockDelta(index=0, text=text, result=result),
        BlockClosed(index=0, result=result),
    ]


def whole(usage: Usage = USAGE, *, provider: str = "deepseek", cost: Cost | None = None, **fields: Any) -> list[Event]:
    """An answer as it should be. Any: fields of Started."""
    return [started(provider, **fields), *said(), UsageReported(usage=usage, cost=cost), Finished(reason="stop")]


def request(text: str = "hi", **fields: Any) -> Request:  # Any: fields of Request
    given = {"id": RequestId("r" * 32), "model": FLASH, "arrived_at": NOON, "dialect": "chat", **fields}
    return Request(messages=(Message(role="user", parts=(Text(text),)),), **given)


def metered(
    backend: ScriptedBackend, *, clock: Callable[[], float] = lambda: 0.0, **options: Any
) -> tuple[Gateway, KeptLedger]:
    """options: those of the gateway. Any: as it has them."""
    ledger = KeptLedger()
    return Gateway(backend, meter=Meter(load_prices(), ledger, clock=clock, prefix="t"), **options), ledger


def hear(gateway: Gateway, asked: Request, *, leave_after: int | None = None) -> list[Event]:
    """The events of an answer. leave_after: go away once so many have come. Raises what the gateway does."""

    async def run() -> list[Event]:
        heard: list[Event] = []
        answer = gateway.answer(asked)
        async for event in answer:
            heard.append(event)
            if len(heard) == leave_after:
                await answer.aclose()
        return heard

    return asyncio.run(run())


def told(events: Sequence[Event]) -> Cost | None:
    """The cost that a client is told."""
    return [event.cost for event in events if isinstance(event, UsageReported)][-1]
