"""A fleet of members that do exactly what a test wants, with time in the test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.backends.fleet.member import Member
from deepserve.config import FleetSettings, UpstreamSettings
from deepserve.core.errors import DeepserveError, Overloaded
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    Started,
    TextBlock,
    UsageReported,
)
from deepserve.core.provider import ServedBy, ServedModel
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from tests.backends.upstream.setup import ARRIVED_AT, request

PRO, FLASH = "deepseek-v4-pro", "deepseek-v4-flash"

Step = Event | DeepserveError | asyncio.Event
"""Told, raised, or waited for."""


class Clock:
    """Monotonic seconds and the wall clock, which move when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return ARRIVED_AT + timedelta(seconds=self.seconds - 1000.0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


def started(**fields: Any) -> Started:  # Any: fields of Started
    return Started(served_by=ServedBy(provider="fake", model="m", fingerprint=""), **fields)


def says(text: str, *, reason: str = "stop", usage: Usage | None = None) -> list[Step]:
    """A whole answer."""
    return [
        started(),
        BlockOpened(index=0, block=TextBlock()),
        *(BlockDelta(index=0, text=piece) for piece in text.split("|") if piece),
        BlockClosed(index=0),
        UsageReported(usage=usage or Usage(miss_tokens=3, answer_tokens=2)),
        Finished(reason=reason),  # type: ignore[arg-type]  # one of the words
    ]


EMPTY: list[Step] = [started(), UsageReported(usage=Usage(miss_tokens=3)), Finished(reason="stop")]


def busy(*, after_s: float | None = None, may_repeat: bool = True) -> Overloaded:
    error = Overloaded("busy", retry_after_s=after_s or 1.0)
    error.may_repeat, error.repeat_after_s = may_repeat, after_s
    return error


class Fake:
    """Implements `backends.backend.Backend`. scripts: for one request after the other, the last one for ever."""

    def __init__(
        self,
        *scripts: Sequence[Step],
        models: Sequence[str] = (PRO, FLASH),
        context_tokens: int = 1000,
        fails_to_start: DeepserveError | None = None,
    ) -> None:
        self.scripts = list(scripts) or [says("hello")]
        self.requests: list[Request] = []
        self.num_running = 0
        self.num_cancelled = 0
        self.is_started = self.is_closed = False
        self._models = tuple(
            ServedModel(
                id=model,
                display_name=model,
                served_by=ServedBy(provider="fake", model=model, fingerprint=""),
                context_tokens=context_tokens,
                max_output_tokens=context_tokens,
            )
            for model in models
        )
        self._fails_to_start = fails_to_start

    def models(self) -> tuple[ServedModel, ...]:
        return self._models

    async def start(self) -> None:
        if self._fails_to_start is not None:
            raise self._fails_to_start
        self.is_started = True

    async def close(self) -> None:
        self.is_closed = True

    def is_ready(self) -> bool:
        return self.is_started

    def enforces(self) -> bool:
        return True

    def gauges(self) -> Mapping[str, float]:
        return {"fake_requests": float(len(self.requests))}

    async def count(self, request: Request) -> int:
        return 7 if request.model == FLASH else 8

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(request)
        self.num_running += 1
        try:
            for step in script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, DeepserveError):
                    raise step
                else:
                    yield step
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_running -= 1


def member(id_: str, backend: Fake, **fields: Any) -> Member:  # Any: fields of Member
    return Member(id_, backend, **{"kind": id_, "upstream": UpstreamSettings(id=id_, kind=id_), **fields})


def fleet(
    *members: Member,
    clock: Clock | None = None,
    chains: Mapping[str, Sequence[str]] | None = None,
    price_of: Callable[..., Any] | None = None,  # Any: as PriceOf
    **settings: Any,  # Any: fields of FleetSettings
) -> FleetBackend:
    clock = clock or Clock()
    prices: dict[str, Any] = {} if price_of is None else {"price_of": price_of}
    return FleetBackend(
        members,
        chains=chains,
        settings=FleetSettings(**settings),
        sleep=clock.sleep,
        jitter=lambda: 0.5,
        clock=clock,
        now=clock.now,
        **prices,
    )


def asked(**fields: Any) -> Request:  # Any: fields of Request
    return request(**{"model": FLASH, **fields})


async def events_of(backend: FleetBackend, **fields: Any) -> list[Event]:  # Any: fields of Request
    return [event async for event in backend.answer(asked(**fields))]


async def text_of(backend: FleetBackend, **fields: Any) -> str:  # Any: fields of Request
    return text(await events_of(backend, **fields))


def text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, BlockDelta))


def first(events: Sequence[Event]) -> Started:
    (found,) = [event for event in events if isinstance(event, Started)]
    assert events[0] is found
    return found


def failure(events: Sequence[Event]) -> DeepserveError:
    last = events[-1]
    assert isinstance(last, Failed), last
    return last.error


async def until(is_so: Callable[[], bool]) -> None:
    """Let everybody else do what can be done now, until something is so."""
    for _ in range(1000):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")
