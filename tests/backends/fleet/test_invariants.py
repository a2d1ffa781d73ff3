"""Whatever members and clients do: each request has one end, every attempt is on record, and no place is lost."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest

from deepserve.core.errors import (
    BackendFailure,
    ContextOverflow,
    DeepserveError,
    InvalidField,
    RequestTimedOut,
    TooManyRequests,
    UnsupportedFeature,
)
from deepserve.core.events import BlockDelta, BlockOpened, Event, Failed, Finished, Started, TextBlock, UsageReported
from tests.backends.fleet.setup import EMPTY, FLASH, PRO, Clock, Fake, Step, asked, busy, fleet, member, says, started

_NUM_REQUESTS = 60


def _script(draw: random.Random) -> list[Step]:
    begun: list[Step] = [started(), BlockOpened(index=0, block=TextBlock()), BlockDelta(index=0, text="Hel")]
    scripts: list[list[Step]] = [
        says("well"),
        says("one|two|three"),
        EMPTY,
        [busy(after_s=draw.choice((None, 0.5, 60)))],
        [TooManyRequests("slow down")],
        [BackendFailure("down")],
        [started(), RequestTimedOut("slow")],
        [InvalidField("no", field="n")],
        [UnsupportedFeature("cannot", field="n")],
        [ContextOverflow(limit_tokens=1000, prompt_tokens=2000, requested_tokens=0)],
        [*begun, BackendFailure("fell")],
        [*begun, Failed(error=BackendFailure("fell"))],
    ]
    return draw.choice(scripts)


@pytest.mark.parametrize("hedge_s", [None, 0.0001])
@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_and_nothing_told_twice(seed: int, hedge_s: float | None) -> None:
    draw = random.Random(seed)

    async def run() -> None:
        clock = Clock()
        fakes = [Fake(*(_script(draw) for _ in range(40)), context_tokens=1000 * (number + 1)) for number in range(3)]
        backend = fleet(
            *(member(f"m{number}", one, max_concurrent=draw.randint(1, 4)) for number, one in enumerate(fakes)),
            clock=clock,
            wait_s=5.0,
            hedge_s=hedge_s,
        )
        told = await asyncio.gather(*(_client(backend.answer, draw, clock) for _ in range(_NUM_REQUESTS)))
        assert backend.gauges()["upstream_running"] == backend.gauges()["upstream_waiting"] == 0
        assert all(one.num_running == 0 for one in fakes)
        statuses = backend.upstreams()
        assert sum(one.attempts for one in statuses) == sum(len(one.requests) for one in fakes)
        complete = [events for events, left in told if not left]
        assert len(complete) > _NUM_REQUESTS / 2
        for events in complete:
            _check(events)

    asyncio.run(run())


async def _client(answer: object, draw: random.Random, clock: Clock) -> tuple[list[Event | DeepserveError], bool]:
    """What a client hears, and whether it left before the end."""
    patience = draw.choice((None, None, None, 1, 2))
    model = draw.choice((FLASH, PRO))
    request = asked(model=model, fallback_models=(FLASH,) if draw.random() < 0.3 else ())
    heard: list[Event | DeepserveError] = []
    clock.seconds += draw.random()
    try:
        async with aclosing(answer(request)) as events:  # type: ignore[operator]  # the fleet's
            async for event in events:
                heard.append(event)
                await asyncio.sleep(0)
                if patience is not None and len(heard) >= patience:
                    return heard, True
    except DeepserveError as error:
        heard.append(error)
    return heard, False


def _check(heard: list[Event | DeepserveError]) -> None:
    if isinstance(heard[-1], DeepserveError):
        assert len(heard) == 1, "what was begun ends with an event"
        return
    assert sum(isinstance(one, Started) for one in heard) == 1
    assert isinstance(heard[0], Started)
    assert sum(isinstance(one, Finished | Failed) for one in heard) == 1
    assert isinstance(heard[-1], Finished | Failed)
    if isinstance(heard[-1], Finished):
        assert any(isinstance(one, UsageReported) for one in heard)
    texts = "".join(one.text for one in heard if isinstance(one, BlockDelta))
    assert texts in ("", "well", "onetwothree", "Hel")
