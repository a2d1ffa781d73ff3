"""Whoever of several back ends answers, the client gets one answer, and the record every attempt."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from datetime import timedelta

import pytest

from deepserve.core.errors import (
    BackendFailure,
    BodyTooLarge,
    ContextOverflow,
    DamagedToolCall,
    DeepserveError,
    InvalidField,
    Overloaded,
    RequestError,
    RequestTimedOut,
    SetupError,
    TooManyRequests,
    UnknownModel,
    UnsupportedFeature,
)
from deepserve.core.events import BlockDelta, BlockOpened, Failed, Finished, Started, TextBlock, UsageReported
from deepserve.core.usage import Usage
from tests.backends.fleet.setup import (
    EMPTY,
    FLASH,
    PRO,
    Clock,
    Fake,
    asked,
    busy,
    events_of,
    failure,
    first,
    fleet,
    member,
    says,
    started,
    text,
    text_of,
    until,
)
from tests.backends.upstream.setup import ARRIVED_AT


def _raised(*members: Fake, **fields: object) -> DeepserveError:
    async def ask() -> DeepserveError:
        backend = fleet(*(member(f"m{number}", one) for number, one in enumerate(members)))
        with pytest.raises(DeepserveError) as caught:
            await events_of(backend, **fields)
        return caught.value

    return asyncio.run(ask())


# One after the other


def test_the_first_of_the_chain_answers_and_nobody_else_is_asked() -> None:
    one, other = Fake(says("one")), Fake(says("other"))
    backend = fleet(member("one", one), member("other", other))
    events = asyncio.run(events_of(backend))
    assert text(events) == "one"
    assert first(events).earlier == ()
    assert first(events).model is None
    assert other.requests == []


def test_a_chain_puts_another_order_for_one_model() -> None:
    one, other = Fake(says("one")), Fake(says("other"))
    backend = fleet(member("one", one), member("other", other), chains={PRO: ("other", "one")})
    assert asyncio.run(text_of(backend, model=PRO)) == "other"
    assert asyncio.run(text_of(backend, model=FLASH)) == "one"


def test_a_member_that_a_chain_leaves_out_is_never_asked() -> None:
    one = Fake([BackendFailure("down")])
    backend = fleet(member("one", one), member("other", Fake()), chains={FLASH: ("one",)})
    with pytest.raises(BackendFailure, match="down"):
        asyncio.run(text_of(backend))


@pytest.mark.parametrize(
    "error",
    [
        BackendFailure("broken"),
        RequestTimedOut("slow"),
        Overloaded("full"),
        TooManyRequests("too fast"),
        DamagedToolCall("torn"),
        UnsupportedFeature("cannot do this", field="n"),
        BodyTooLarge("too large"),
    ],
)
def test_where_one_fails_before_its_first_word_the_next_is_asked(error: DeepserveError) -> None:
    async def ask() -> None:
        backend = fleet(member("one", Fake([error])), member("other", Fake(says("other"))))
        events = await events_of(backend)
        assert text(events) == "other"
        assert not any(isinstance(event, Failed) for event in events)

    asyncio.run(ask())


def test_what_was_told_before_the_first_word_is_not_told_twice() -> None:
    """A back end may say that it has begun, and open a block, and then fail."""
    stumbling = Fake([started(), BlockOpened(index=0, block=TextBlock()), BackendFailure("fell")])
    failing = Fake([started(), Failed(error=BackendFailure("fell"))])
    backend = fleet(member("one", stumbling), member("two", failing), member("three", Fake(says("three"))))
    events = asyncio.run(events_of(backend))
    assert text(events) == "three"
    assert sum(isinstance(event, Started | BlockOpened) for event in events) == 2
    assert [one.provider for one in first(events).earlier] == ["one", "two"]


def test_after_the_first_word_a_fault_is_told_and_nobody_else_is_asked() -> None:
    other = Fake()
    breaking = Fake([started(), BlockOpened(index=0, block=TextBlock()), BlockDelta(index=0, text="Hel"), busy()])
    events = asyncio.run(events_of(fleet(member("one", breaking), member("other", other))))
    assert text(events) == "Hel"
    assert failure(events).message == "busy"
    (reported,) = [event for event in events if isinstance(event, UsageReported)]
    assert reported.usage.is_estimated
    assert reported.usage.answer_tokens > 0
    assert other.requests == []


@pytest.mark.parametrize(
    "error", [InvalidField("bad top_p", field="top_p"), RequestError("flagged"), UnknownModel("no such model")]
)
def test_a_fault_of_the_client_is_told_at_once(error: DeepserveError) -> None:
    other = Fake()
    assert _raised(Fake([error]), other) is error
    assert other.requests == []


def test_a_prompt_too_long_goes_on_to_whoever_has_more_room() -> None:
    overflow = ContextOverflow(limit_tokens=1000, prompt_tokens=3000, requested_tokens=0)
    small, larger = Fake(context_tokens=1000), Fake(says("read it all"), context_tokens=5000)
    backend = fleet(member("one", Fake([overflow], context_tokens=1000)), member("two", small), member("three", larger))
    assert asyncio.run(text_of(backend)) == "read it all"
    assert small.requests == []
    assert {model.context_tokens for model in backend.models()} == {5000}


def test_a_prompt_too_long_for_all_is_told_so() -> None:
    overflow = ContextOverflow(limit_tokens=1000, prompt_tokens=3000, requested_tokens=0)
    assert _raised(Fake([overflow]), Fake()) is overflow


def test_an_empty_answer_is_given_only_where_nobody_has_a_better_one() -> None:
    events = asyncio.run(events_of(fleet(member("one", Fake(EMPTY)), member("other", Fake(says("other"))))))
    assert text(events) == "other"
    assert first(events).earlier[0].usage == Usage(miss_tokens=3)
    events = asyncio.run(events_of(fleet(member("one", Fake(EMPTY)), member("other", Fake(EMPTY)))))
    assert [type(event) for event in events] == [Started, UsageReported, Finished]
    assert len(first(events).earlier) == 1


def test_an_answer_that_is_cut_at_once_is_no_empty_one() -> None:
    other = Fake()
    short = Fake([started(), UsageReported(usage=Usage(miss_tokens=3)), Finished(reason="length")])
    events = asyncio.run(events_of(fleet(member("one", short), member("other", other))))
    assert isinstance(events[-1], Finished)
    assert other.requests == []


# The record


def test_every_attempt_is_told_with_its_times_and_usage() -> None:
    clock = Clock()

    one = Fake([started(prompt_usage=Usage(miss_tokens=9)), RequestTimedOut("slow")])
    two = Fake([busy(may_repeat=False)])
    backend = fleet(member("one", one), member("two", two), member("three", Fake()), clock=clock)
    earlier = first(asyncio.run(events_of(backend))).earlier
    assert [(one.provider, one.model, one.code) for one in earlier] == [
        ("one", FLASH, "request_timed_out"),
        ("two", FLASH, "overloaded"),
    ]
    assert earlier[0].usage == Usage(miss_tokens=9)
    assert all(ARRIVED_AT <= one.began_at <= one.ended_at for one in earlier)


def test_an_error_brings_all_attempts_and_its_own_last() -> None:
    error = _raised(Fake([BackendFailure("a")]), Fake([RequestTimedOut("b")]))
    assert isinstance(error, RequestTimedOut)
    assert [one.provider for one in error.earlier] == ["m0", "m1"]


def test_a_refusal_that_cost_nobody_anything_is_no_attempt() -> None:
    assert _raised(Fake([UnsupportedFeature("cannot", field="n")])).earlier == ()


def test_of_many_faults_the_client_learns_the_one_that_passes() -> None:
    error = _raised(Fake([busy(after_s=60)]), Fake([BackendFailure("x")]), Fake([UnsupportedFeature("y", field="n")]))
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 60
    assert isinstance(_raised(Fake([UnsupportedFeature("y", field="n")]), Fake([BackendFailure("x")])), BackendFailure)


# Again


def test_what_cannot_have_cost_anything_is_asked_again_after_all_others() -> None:
    clock = Clock()
    one, other = Fake([busy()], says("at last")), Fake([busy(may_repeat=False)])
    backend = fleet(member("one", one), member("other", other), clock=clock)
    events = asyncio.run(events_of(backend))
    assert text(events) == "at last"
    assert clock.slept == [0.5]
    assert [one.provider for one in first(events).earlier] == ["one", "other"]
    assert first(events).earlier[0].ended_at <= ARRIVED_AT + timedelta(seconds=0.5)


def test_a_pause_that_an_upstream_asks_for_is_kept_by_all_requests() -> None:
    async def ask() -> None:
        clock = Clock()
        one, other = Fake([busy(after_s=30)], says("one")), Fake(says("other"))
        backend = fleet(member("one", one), member("other", other), clock=clock)
        assert [await text_of(backend) for _ in range(3)] == ["other"] * 3
        assert len(one.requests) == 1
        assert backend.upstreams()[1].state == "waiting"
        clock.seconds += 31
        assert await text_of(backend) == "one"

    asyncio.run(ask())


def test_a_long_pause_of_the_only_one_is_the_clients_to_take() -> None:
    async def ask() -> None:
        backend = fleet(member("one", Fake([busy(after_s=30)])))
        for _ in range(2):
            with pytest.raises(Overloaded) as caught:
                await events_of(backend)
            assert caught.value.retry_after_s == 30

    asyncio.run(ask())


# Room


def test_requests_beyond_a_members_room_go_on_to_the_next() -> None:
    async def ask() -> None:
        gate = asyncio.Event()
        one, other = Fake([*says("one")[:3], gate, *says("one")[3:]]), Fake(says("other"))
        backend = fleet(member("one", one, max_concurrent=1), member("other", other))
        async with aclosing(backend.answer(asked())) as running:
            await anext(running)
            assert await text_of(backend) == "other"
            assert backend.upstreams()[1].state == "full"
            gate.set()
            assert text([event async for event in running]) == "one"
        assert await text_of(backend) == "one"

    asyncio.run(ask())


def test_where_nobody_has_room_requests_wait_their_turn() -> None:
    async def ask() -> None:
        gate = asyncio.Event()
        one = Fake([gate, *says("one")])
        backend = fleet(member("one", one, max_concurrent=2))
        running = [asyncio.create_task(text_of(backend)) for _ in range(6)]
        await until(lambda: one.num_running == 2)
        assert backend.gauges()["upstream_waiting"] == 4
        gate.set()
        assert await asyncio.gather(*running) == ["one"] * 6
        assert backend.gauges()["upstream_running"] == 0

    asyncio.run(ask())


def test_a_line_that_is_too_long_or_does_not_move_turns_requests_away() -> None:
    async def ask() -> None:
        gate = asyncio.Event()
        one = Fake([gate, *says("one")])
        backend = fleet(member("one", one, max_concurrent=1), max_waiting=1, wait_s=0.01)
        running = asyncio.create_task(text_of(backend))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(text_of(backend))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="places are taken"):
            await text_of(backend)
        with pytest.raises(Overloaded, match="places are taken"):
            await waiting
        gate.set()
        assert await running == "one"
        assert await text_of(backend) == "one"

    asyncio.run(ask())


def test_a_client_that_leaves_gives_its_place_back_wherever_it_was() -> None:
    async def ask() -> None:
        gate = asyncio.Event()
        one = Fake([gate, *says("one")])
        backend = fleet(member("one", one, max_concurrent=1))
        running, waiting, last = (asyncio.create_task(text_of(backend)) for _ in range(3))
        await until(lambda: one.num_running == 1)
        for task in (waiting, running):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        gate.set()
        assert await last == "one"
        assert one.num_running == 0
        assert backend.gauges()["upstream_running"] == 0

    asyncio.run(ask())


def test_accounts_have_the_room_that_the_vendor_gives_them() -> None:
    status = {one.model: one.max_concurrent for one in fleet(member("one", Fake())).upstreams()}
    assert status == {PRO: 500, FLASH: 2500}


# Models


def test_a_model_to_fall_back_to_is_asked_for_where_the_first_cannot_answer() -> None:
    one = Fake([BackendFailure("down")], says("flash instead"))
    events = asyncio.run(events_of(fleet(member("one", one)), model=PRO, fallback_models=(FLASH,)))
    assert text(events) == "flash instead"
    assert first(events).model == FLASH
    assert [asked.model for asked in one.requests] == [PRO, FLASH]
    assert [(one.model, one.code) for one in first(events).earlier] == [(PRO, "backend_failure")]


def test_another_model_may_take_what_one_refuses_but_not_another_member() -> None:
    refusing, other = Fake([RequestError("moderated")], says("flash")), Fake(models=(PRO,))
    events = asyncio.run(
        events_of(fleet(member("one", refusing), member("other", other)), model=PRO, fallback_models=(FLASH,))
    )
    assert text(events) == "flash"
    assert other.requests == []


def test_a_fallback_that_is_not_served_is_passed_over() -> None:
    backend = fleet(member("one", Fake(models=(FLASH,))))
    assert asyncio.run(text_of(backend, fallback_models=("gpt",))) == "hello"


def test_a_model_that_has_gone_is_refused_by_name() -> None:
    with pytest.raises(UnknownModel, match=PRO):
        asyncio.run(text_of(fleet(member("one", Fake(models=(FLASH,)))), model=PRO))


def test_tokens_are_counted_by_the_first_who_has_the_model() -> None:
    backend = fleet(member("one", Fake(models=(FLASH,))), member("other", Fake()))
    assert asyncio.run(backend.count(asked())) == 7
    assert asyncio.run(backend.count(asked(model=PRO))) == 8


def test_models_say_who_may_answer() -> None:
    backend = fleet(member("one", Fake(models=(FLASH,))), member("other", Fake(), region="eu"))
    ends = {model.id: [one.provider for one in model.endpoints] for model in backend.models()}
    assert ends == {FLASH: ["one", "other"], PRO: ["other"]}
    assert "Where that fails: other" in backend.models()[0].note


# Setting up


def test_one_that_cannot_start_keeps_the_fleet_from_starting_and_closes_the_others() -> None:
    good, bad = Fake(), Fake(fails_to_start=SetupError("no weights"))
    backend = fleet(member("good", good), member("bad", bad))
    with pytest.raises(SetupError, match="no weights"):
        asyncio.run(backend.start())
    assert good.is_closed
    assert not backend.is_ready()


@pytest.mark.parametrize(
    ("chains", "said"),
    [
        ({FLASH: ("one", "nobody")}, "nobody"),
        ({PRO: ("one",)}, "does not have that model"),
        ({FLASH: ()}, "at least one"),
        ({FLASH: ("one", "one")}, "once"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(chains: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        fleet(member("one", Fake(models=(FLASH,))), chains=chains)


def test_two_members_of_one_name_are_refused() -> None:
    with pytest.raises(SetupError, match="same id"):
        fleet(member("one", Fake()), member("one", Fake()))


def test_others_take_over_while_answers_in_flight_run_to_their_end() -> None:
    async def ask() -> None:
        gate = asyncio.Event()
        old, kept, new = Fake([*says("old")[:3], gate, *says("old")[3:]]), Fake(), Fake(says("new"))
        stays = member("kept", kept)
        backend = fleet(member("old", old), stays)
        await backend.start()
        async with aclosing(backend.answer(asked())) as running:
            await anext(running)
            await backend.replace([member("new", new), stays])
            assert new.is_started
            assert await text_of(backend) == "new"
            await asyncio.sleep(0)
            assert (old.is_closed, kept.is_closed) == (False, False)
            gate.set()
            assert text([event async for event in running]) == "old"
        await until(lambda: old.is_closed)
        assert (kept.is_closed, new.is_closed) == (False, False)
        await backend.close()
        assert (kept.is_closed, new.is_closed) == (True, True)

    asyncio.run(ask())


def test_a_change_that_fails_changes_nothing() -> None:
    async def ask() -> None:
        backend = fleet(member("one", Fake(says("one"))))
        await backend.start()
        fresh = Fake(fails_to_start=SetupError("no"))
        with pytest.raises(SetupError):
            await backend.replace([member("two", fresh)])
        with pytest.raises(SetupError, match="no upstream"):
            await backend.replace([member("two", Fake())], chains={FLASH: ("three",)})
        assert await text_of(backend) == "one"
        assert fresh.is_closed
        await backend.close()

    asyncio.run(ask())


def test_a_member_that_is_drained_by_hand_rests_until_it_is_wanted_again() -> None:
    async def ask() -> None:
        backend = fleet(member("one", Fake(says("one"))), member("other", Fake(says("other"))))
        assert backend.drain("one")
        assert not backend.drain("nobody")
        assert await text_of(backend) == "other"
        assert backend.upstreams()[0].state == "drained"
        backend.drain("one", is_drained=False)
        assert await text_of(backend) == "one"

    asyncio.run(ask())
