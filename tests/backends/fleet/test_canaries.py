"""A small question, asked now and then, finds upstreams whose answers are no good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from deepserve.backends.fleet.canaries import Canaries
from deepserve.backends.fleet.canary_question import CANARY_TENANT
from deepserve.backends.fleet.lane import DEGRADED
from deepserve.core.errors import BackendFailure
from deepserve.core.events import Event
from deepserve.core.request import Request
from tests.backends.fleet.setup import FLASH, PRO, Clock, Fake, events_of, fleet, member, says, text_of


def test_every_upstream_is_asked_for_each_of_its_models_on_a_tenant_of_its_own() -> None:
    async def ask() -> None:
        one, own = Fake(says("42")), Fake()
        backend = fleet(member("One", one), member("two", Fake(says("42"))), member("own", own, upstream=None))
        await Canaries(backend, backend.answer, new_id=lambda: "0" * 32).ask_all()
        assert sorted(request.model for request in one.requests) == [FLASH, PRO]
        assert {request.tenant for request in one.requests} == {CANARY_TENANT}
        assert own.requests == []
        assert {(status.attempts, status.bad_answers) for status in backend.upstreams()[:4]} == {(1, 0)}

    asyncio.run(ask())


def test_wrong_answers_take_an_upstream_out_of_rotation_and_right_ones_bring_it_back() -> None:
    async def ask() -> None:
        clock = Clock()
        bad = Fake(says("17"), models=(FLASH,))
        backend = fleet(member("bad", bad), member("good", Fake(says("It is 42."), models=(FLASH,))), clock=clock)
        canaries = Canaries(backend, backend.answer)
        for _ in range(DEGRADED.least):
            await canaries.ask_all()
        status, other = backend.upstreams()
        assert (status.state, status.bad_answers, status.problem) == (
            "degraded",
            DEGRADED.least,
            "An answer was wrong.",
        )
        assert other.state == "ready"
        assert await text_of(backend) == "It is 42."
        clock.seconds += DEGRADED.open_s
        await canaries.ask_all()  # still wrong
        assert backend.upstreams()[0].retry_s == DEGRADED.open_s * DEGRADED.growth
        clock.seconds += DEGRADED.open_s * DEGRADED.growth
        bad.scripts = [says("42")]
        await canaries.ask_all()
        assert backend.upstreams()[0].state == "ready"

    asyncio.run(ask())


def test_what_a_client_asks_is_not_held_against_that_answer() -> None:
    async def ask() -> None:
        backend = fleet(member("one", Fake(says("17"))))
        for _ in range(30):
            await events_of(backend)
        assert {status.state for status in backend.upstreams()} == {"ready"}

    asyncio.run(ask())


def test_nobody_is_asked_until_the_operator_wants_it_and_faults_end_nothing() -> None:
    async def ask() -> None:
        one = Fake([BackendFailure("down")], models=(FLASH,))
        backend = fleet(member("one", one))
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 2:
                assert one.requests == []
                await backend.replace(backend.members, settings=type(backend.settings)(canary_s=5.0))
            if len(slept) == 6:
                await asyncio.Event().wait()
            await asyncio.sleep(0)

        broken = 0

        async def answer(request: Request) -> AsyncGenerator[Event]:
            nonlocal broken
            broken += 1
            if broken == 1:
                raise RuntimeError("a fault of ours")
            async for event in backend.answer(request):
                yield event

        canaries = Canaries(backend, answer, sleep=sleep, num_processes=2)
        canaries.start()
        async with asyncio.timeout(5):
            while len(slept) < 6:  # noqa: ASYNC110 - the canaries' own steps
                await asyncio.sleep(0)
        await canaries.close()
        assert slept[:3] == [30.0, 30.0, 10.0]
        assert len(one.requests) >= 1

    asyncio.run(ask())
