"""A second attempt beside a slow first one: the first to begin is the answer, and both are on record."""

from __future__ import annotations

import asyncio

import pytest

from deepserve.core.errors import BackendFailure, InvalidField
from tests.backends.fleet.setup import EMPTY, Fake, events_of, first, fleet, member, says, text, text_of, until

SOON_S = 0.001


def test_who_begins_first_wins_and_the_other_is_cancelled() -> None:
    async def ask() -> None:
        slow, quick = Fake([asyncio.Event(), *says("slow")]), Fake(says("quick"))
        backend = fleet(member("slow", slow), member("quick", quick), hedge_s=SOON_S)
        events = await events_of(backend)
        assert text(events) == "quick"
        assert [(one.provider, one.code) for one in first(events).earlier] == [("slow", "cancelled")]
        assert (slow.num_cancelled, slow.num_running) == (1, 0)
        assert backend.gauges()["upstream_hedges"] == 1
        assert backend.gauges()["upstream_running"] == 0
        assert {one.state for one in backend.upstreams()} == {"ready"}

    asyncio.run(ask())


def test_the_first_may_still_win() -> None:
    async def ask() -> None:
        gate = asyncio.Event()
        slow, slower = Fake([gate, *says("slow")]), Fake([asyncio.Event()])
        backend = fleet(member("slow", slow), member("slower", slower), hedge_s=SOON_S)
        asking = asyncio.create_task(events_of(backend))
        async with asyncio.timeout(5):
            while not slower.num_running:  # noqa: ASYNC110 - real time has to pass
                await asyncio.sleep(SOON_S)
        gate.set()
        events = await asking
        assert text(events) == "slow"
        assert [one.provider for one in first(events).earlier] == ["slower"]
        assert slower.num_cancelled == 1

    asyncio.run(ask())


def test_nobody_else_is_asked_where_the_first_is_quick_or_hedging_is_off() -> None:
    async def ask() -> None:
        other = Fake()
        assert await text_of(fleet(member("one", Fake(says("one"))), member("other", other), hedge_s=60)) == "one"
        gate = asyncio.Event()
        backend = fleet(member("one", Fake([gate, *says("one")])), member("other", other))
        asking = asyncio.create_task(text_of(backend))
        for _ in range(100):
            await asyncio.sleep(0)
        gate.set()
        assert await asking == "one"
        assert other.requests == []

    asyncio.run(ask())


def test_a_first_that_fails_leaves_the_field_to_the_second() -> None:
    async def ask() -> None:
        gate, later = asyncio.Event(), asyncio.Event()
        backend = fleet(
            member("one", Fake([gate, BackendFailure("fell")])),
            member("two", Fake([later, *says("two")])),
            member("three", Fake()),
            hedge_s=SOON_S,
        )
        two = backend.members[1].backend
        asking = asyncio.create_task(events_of(backend))
        async with asyncio.timeout(5):
            while not two.num_running:  # type: ignore[attr-defined]  # noqa: ASYNC110 - a Fake, and real time
                await asyncio.sleep(SOON_S)
        gate.set()
        await until(lambda: backend.upstreams()[1].failures == 1)
        later.set()
        events = await asking
        assert text(events) == "two"
        assert [one.code for one in first(events).earlier] == ["backend_failure"]

    asyncio.run(ask())


def test_where_both_fail_the_rest_is_asked() -> None:
    async def ask() -> None:
        one, two = Fake([BackendFailure("one fell")]), Fake(EMPTY)
        backend = fleet(member("one", one), member("two", two), member("three", Fake(says("three"))), hedge_s=SOON_S)
        events = await events_of(backend)
        assert text(events) == "three"
        assert [attempt.provider for attempt in first(events).earlier] == ["one", "two"]

    asyncio.run(ask())


def test_a_client_that_leaves_ends_both() -> None:
    async def ask() -> None:
        one, two = Fake([asyncio.Event()]), Fake([asyncio.Event()])
        backend = fleet(member("one", one), member("two", two), hedge_s=SOON_S)
        asking = asyncio.create_task(text_of(backend))
        async with asyncio.timeout(5):
            while not two.num_running:  # noqa: ASYNC110 - real time has to pass
                await asyncio.sleep(SOON_S)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (one.num_running, two.num_running, one.num_cancelled, two.num_cancelled) == (0, 0, 1, 1)
        assert backend.gauges()["upstream_running"] == 0

    asyncio.run(ask())


def test_a_refusal_is_told_though_hedging_is_on() -> None:
    async def ask() -> None:
        backend = fleet(member("one", Fake([InvalidField("bad", field="n")])), member("two", Fake()), hedge_s=60)
        with pytest.raises(InvalidField):
            await events_of(backend)

    asyncio.run(ask())
