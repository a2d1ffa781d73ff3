"""What has failed is left alone for a time that grows, and tried by one request at a time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from deepserve.backends.fleet.breaker import Breaker, BreakerRule
from deepserve.backends.fleet.lane import DEGRADED, FAILING
from deepserve.core.errors import BackendFailure, InvalidField, Overloaded, TooManyRequests, UnfitAnswer
from tests.backends.fleet.setup import (
    EMPTY,
    Clock,
    Fake,
    asked,
    busy,
    events_of,
    fleet,
    member,
    says,
    text,
    text_of,
    until,
)

RULE = BreakerRule(consecutive=3, ratio=0.5, window=10, least=6, open_s=2.0, max_open_s=10.0)


def _ends(breaker: Breaker, *ends: bool | None) -> list[bool]:
    return [breaker.settle(end, is_probe=breaker.begin()) for end in ends]


def test_a_row_of_failures_opens_it() -> None:
    breaker = Breaker(BreakerRule(consecutive=3, least=100), Clock())
    assert _ends(breaker, True, False, False, True, False, None, False, False) == [False] * 7 + [True]
    assert breaker.state == "open"
    assert not breaker.allows()


def test_a_large_part_of_failures_opens_it() -> None:
    breaker = Breaker(RULE, Clock())
    assert _ends(breaker, True, False, True, False, True, False)[-1]


def test_few_failures_among_many_do_not() -> None:
    breaker = Breaker(RULE, Clock())
    assert not any(_ends(breaker, *([True, True, False] * 10)))


def test_one_probe_is_made_at_a_time_and_its_success_closes_it() -> None:
    clock = Clock()
    breaker = Breaker(RULE, clock)
    _ends(breaker, False, False, False)
    assert breaker.left_s == 2.0
    clock.seconds += 2
    assert breaker.allows()
    assert breaker.begin()
    assert breaker.state == "half-open"
    assert not breaker.allows()
    assert not breaker.begin()
    assert not breaker.settle(True, is_probe=True)
    assert (breaker.state, breaker.allows(), breaker.left_s) == ("closed", True, 0.0)


def test_every_probe_that_fails_makes_the_pause_longer_up_to_a_bound() -> None:
    clock = Clock()
    breaker = Breaker(RULE, clock)
    _ends(breaker, False, False, False)
    pauses = []
    for _ in range(4):
        clock.seconds += breaker.left_s
        assert breaker.settle(False, is_probe=breaker.begin())
        pauses.append(breaker.left_s)
    assert pauses == [4, 8, 10, 10]
    clock.seconds += 10
    breaker.settle(True, is_probe=breaker.begin())
    _ends(breaker, False, False, False)
    assert breaker.left_s == 2.0


def test_a_probe_that_tells_nothing_leaves_it_to_the_next() -> None:
    clock = Clock()
    breaker = Breaker(RULE, clock)
    _ends(breaker, False, False, False)
    clock.seconds += 2
    breaker.settle(None, is_probe=breaker.begin())
    assert breaker.allows()


def test_what_began_before_it_opened_does_not_count_again() -> None:
    clock = Clock()
    breaker = Breaker(RULE, clock)
    early = breaker.begin()
    _ends(breaker, False, False, False)
    assert not breaker.settle(False, is_probe=early)
    assert not breaker.settle(True, is_probe=early)
    assert breaker.left_s == 2.0


# In a fleet


def test_a_dead_member_is_left_alone_and_found_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def ask() -> None:
        clock = Clock()
        dead, other = Fake([BackendFailure("cannot be reached")]), Fake(says("other"))
        backend = fleet(member("dead", dead), member("other", other), clock=clock)
        assert [await text_of(backend) for _ in range(20)] == ["other"] * 20
        assert len(dead.requests) == FAILING.consecutive
        status = next(one for one in backend.upstreams() if one.id == "dead" and one.attempts)
        assert (status.state, status.problem, status.retry_s) == ("failing", "cannot be reached", FAILING.open_s)
        dead.scripts = [says("alive")]
        assert await text_of(backend) == "other"
        clock.seconds += FAILING.open_s
        assert await text_of(backend) == "alive"
        assert {one.state for one in backend.upstreams()} == {"ready"}

    asyncio.run(ask())
    assert "dead/deepseek-v4-flash is out of rotation for 2 s (failing): cannot be reached" in caplog.text


def test_one_model_of_a_member_may_fail_while_the_other_does_well() -> None:
    async def ask() -> None:
        one = Fake([BackendFailure("down")])
        backend = fleet(member("one", one), member("other", Fake(says("other"))))
        for _ in range(6):
            await text_of(backend)
        one.scripts = [says("one")]
        assert await text_of(backend, model="deepseek-v4-pro") == "one"
        assert await text_of(backend) == "other"

    asyncio.run(ask())


def test_where_all_are_dead_the_client_learns_at_once_when_to_come_back() -> None:
    async def ask() -> None:
        dead = Fake([BackendFailure("down")])
        backend = fleet(member("dead", dead))
        for _ in range(FAILING.consecutive):
            with pytest.raises(BackendFailure):
                await events_of(backend)
        with pytest.raises(Overloaded, match="available now") as caught:
            await events_of(backend)
        assert caught.value.retry_after_s == FAILING.open_s
        assert len(dead.requests) == FAILING.consecutive

    asyncio.run(ask())


@pytest.mark.parametrize("error", [InvalidField("no", field="n"), TooManyRequests("slow down")])
def test_refusals_and_limits_are_no_sign_of_death(error: Exception) -> None:
    async def ask() -> None:
        clock = Clock()
        backend = fleet(member("one", Fake([error])), clock=clock)  # type: ignore[list-item]  # a DeepserveError
        for _ in range(20):
            clock.seconds += 5
            with pytest.raises(type(error)):
                await events_of(backend)
        assert {one.state for one in backend.upstreams()} <= {"ready", "waiting"}

    asyncio.run(ask())


def test_a_full_engine_of_our_own_is_not_ill() -> None:
    async def ask() -> None:
        backend = fleet(member("own", Fake([busy(may_repeat=False)]), upstream=None))
        for _ in range(20):
            with pytest.raises(Overloaded, match="busy"):
                await events_of(backend)
        assert {one.state for one in backend.upstreams()} == {"ready"}

    asyncio.run(ask())


def test_a_client_that_leaves_says_nothing_about_who_answered() -> None:
    async def ask() -> None:
        clock = Clock()
        gate = asyncio.Event()
        one = Fake([BackendFailure("down")])
        backend = fleet(member("one", one), clock=clock)
        for _ in range(FAILING.consecutive):
            with pytest.raises(BackendFailure):
                await events_of(backend)
        one.scripts = [[gate, *says("one")]]
        clock.seconds += FAILING.open_s
        probing = asyncio.create_task(text_of(backend))
        await until(lambda: one.num_running == 1)
        with pytest.raises(Overloaded):  # one probe at a time
            await text_of(backend)
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        gate.set()
        assert await text_of(backend) == "one"

    asyncio.run(ask())


# Bad answers


@pytest.mark.parametrize("bad", [EMPTY, [UnfitAnswer("no JSON")]])
def test_a_member_whose_answers_are_bad_is_asked_last_until_it_does_better(bad: list) -> None:  # type: ignore[type-arg]
    async def ask() -> None:
        clock = Clock()
        bad_one, other = Fake(bad), Fake(says("other"))
        backend = fleet(member("bad", bad_one), member("other", other), clock=clock)
        for _ in range(30):
            assert await text_of(backend) == "other"
        assert len(bad_one.requests) == DEGRADED.least
        status = next(one for one in backend.upstreams() if one.id == "bad" and one.attempts)
        assert (status.state, status.bad_answers, status.retry_s) == ("degraded", DEGRADED.least, DEGRADED.open_s)
        # A bad answer is better than none.
        other.scripts = [[BackendFailure("down")]]
        bad_one.scripts = [says("better than nothing")]
        assert await text_of(backend) == "better than nothing"
        other.scripts = [says("other")]
        assert await text_of(backend) == "other"
        clock.seconds += DEGRADED.open_s
        assert await text_of(backend) == "better than nothing"
        assert {one.state for one in backend.upstreams()} == {"ready"}

    asyncio.run(ask())


def test_a_stream_that_repeats_itself_for_ever_is_ended_and_held_against_its_member() -> None:
    async def ask() -> None:
        endless = Fake(says("again and |" * 100_000))
        backend = fleet(member("one", endless))
        events = []
        async for event in backend.answer(asked()):
            events.append(event)
        assert "repeated the same text" in events[-1].error.message  # type: ignore[union-attr]
        assert len(events) < 10_000
        assert backend.upstreams()[1].bad_answers == 1
        assert endless.num_running == 0

    asyncio.run(ask())


def test_an_answer_that_goes_far_beyond_its_limit_is_ended() -> None:
    """Whoever counts to infinity does not repeat himself."""

    async def ask() -> None:
        endless = Fake(says("|".join(f"{number} " for number in range(200_000))))
        backend = fleet(member("one", endless))
        events = [event async for event in backend.answer(asked(max_output_tokens=10))]
        assert "beyond its limit" in events[-1].error.message  # type: ignore[union-attr]
        assert 65_536 < len(text(events)) < 100_000
        assert backend.upstreams()[1].bad_answers == 1

    asyncio.run(ask())


def test_repeating_may_be_allowed() -> None:
    backend = fleet(member("one", Fake(says("again and |" * 10_000))), max_repeated_characters=0)
    assert len(asyncio.run(text_of(backend))) == 100_000
