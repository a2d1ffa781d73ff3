"""Requests of keys with limits: let in, kept waiting, turned away, and taken account of. On both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import insert, select

from deepserve.core.errors import BudgetExhausted, RateLimited
from deepserve.core.events import BlockDelta, BlockOpened, Event, Finished, Started, TextBlock, UsageReported
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request
from deepserve.core.tenant import KeyId
from deepserve.core.usage import Usage
from deepserve.limits.permit import Answer, Permit
from deepserve.limits.turnstile import Turnstile
from deepserve.store.database import Database
from deepserve.store.spending import Settlement, read_spending, write_spending
from deepserve.store.tables import reservations
from tests.limits.setup import KEY, NOON, Time, budget, limited, request, thousand, turnstile

SERVED_BY = ServedBy(provider="deepserve", model="mini-flash", fingerprint="f")


def held(database: Database) -> list[int]:
    """What is reserved now, in pico-dollars."""
    with database.connect() as connection:
        return sorted(connection.execute(select(reservations.c.amount_pico)).scalars())


def spend(database: Database, usd_millionths: int, *, permit: Permit | None = None, days_ago: int = 0) -> None:
    """As the ledger does with the end of an attempt."""
    settlement = Settlement(
        key=KEY,
        at=NOON - timedelta(days=days_ago),
        cost_pico=usd_millionths * 10**6,
        tokens=1,
        reservation=None if permit is None else permit.reservation_id,
    )
    with database.begin() as connection:
        write_spending(connection, [settlement])


def test_no_more_answers_run_at_once_than_the_key_may_have(database: Database) -> None:
    async def run() -> None:
        gate, grant = turnstile(database, wait_s=1e9), limited(concurrent=3)
        most = running = 0
        all_run = asyncio.Event()

        async def answer() -> None:
            nonlocal most, running
            async with gate.admit(request(grant), thousand):
                running += 1
                most = max(most, running)
                if running == 3:
                    all_run.set()
                await all_run.wait()
                running -= 1

        await asyncio.gather(*(answer() for _ in range(12)))
        assert most == 3
        assert gate.gauges() == {"limited_running": 0, "limited_waiting": 0}
        gate.close()

    asyncio.run(run())
    assert held(database) == []


def test_one_that_waits_too_long_is_refused_and_told_when_to_come_again(database: Database) -> None:
    async def run() -> None:
        time = Time()
        gate, grant = turnstile(database, time, wait_s=2.0), limited(concurrent=1)
        async with gate.admit(request(grant), thousand):
            with pytest.raises(RateLimited, match="1 answers at the same time") as caught:
                async with gate.admit(request(grant), thousand):
                    pass
        assert caught.value.retry_after_s == 1.0
        assert time.passed_s == 2.0
        gate.close()

    asyncio.run(run())


def test_requests_above_the_rate_wait_for_it_and_no_longer(database: Database) -> None:
    async def run() -> None:
        time = Time()
        gate, grant = turnstile(database, time), limited(requests=60)
        for number in range(60):
            async with gate.admit(request(grant), thousand) as permit:
                assert permit.allowance.requests is not None
                assert permit.allowance.requests.remaining == 59 - number
                assert permit.allowance.tokens is None
        assert time.passed_s == 0
        async with gate.admit(request(grant), thousand):
            assert time.passed_s == 1.0
        gate.close()

    asyncio.run(run())


def test_what_would_have_to_wait_too_long_is_refused_at_once(database: Database) -> None:
    async def run() -> None:
        time = Time()
        gate, grant = turnstile(database, time, wait_s=5.0), limited(requests=2)
        for _ in range(2):
            async with gate.admit(request(grant), thousand):
                pass
        with pytest.raises(RateLimited, match="2 requests a minute") as caught:
            async with gate.admit(request(grant), thousand):
                pass
        assert caught.value.retry_after_s == 30.0
        assert caught.value.allowance is not None
        assert caught.value.allowance.requests is not None
        assert caught.value.allowance.requests.remaining == 0
        assert time.passed_s == 0
        gate.close()

    asyncio.run(run())


def test_tokens_are_counted_as_expected_and_put_right_when_the_answer_ends(database: Database) -> None:
    async def run() -> None:
        gate, grant = turnstile(database), limited(tokens=10_000)
        async with gate.admit(request(grant, max_output_tokens=500), thousand) as permit:
            assert permit.allowance.tokens is not None
            assert permit.allowance.tokens.remaining == 8_500
            await drain(permit.watch(telling(usage=Usage(miss_tokens=1_000, answer_tokens=200)), request(grant)))
        async with gate.admit(request(grant, max_output_tokens=500), thousand) as permit:
            assert permit.allowance.tokens is not None
            assert permit.allowance.tokens.remaining == 10_000 - 1_200 - 1_500
        gate.close()

    asyncio.run(run())


def test_a_prompt_larger_than_a_minutes_tokens_is_refused_without_waiting(database: Database) -> None:
    async def run() -> None:
        time = Time()
        gate = turnstile(database, time)
        with pytest.raises(RateLimited, match="1,000 tokens, more than the 999"):
            async with gate.admit(request(limited(tokens=999)), thousand):
                pass
        # The output is only a guess: it does not count against what may be asked at all.
        async with gate.admit(request(limited(tokens=1_000)), thousand):
            pass
        assert time.passed_s == 0
        gate.close()

    asyncio.run(run())


def test_keys_do_not_wait_for_each_other(database: Database) -> None:
    async def run() -> None:
        time = Time()
        gate, grant = turnstile(database, time), limited(concurrent=1, requests=1)
        async with gate.admit(request(grant), thousand), gate.admit(request(grant, key=KeyId("key-2")), thousand):
            assert time.passed_s == 0
        gate.close()

    asyncio.run(run())


def test_requests_come_in_in_the_order_in_which_they_arrived(database: Database) -> None:
    async def run() -> None:
        gate, grant, order = turnstile(database, wait_s=100.0), limited(concurrent=1), list[int]()

        async def answer(number: int) -> None:
            async with gate.admit(request(grant), thousand):
                order.append(number)

        await asyncio.gather(*(answer(number) for number in range(8)))
        assert order == list(range(8))
        gate.close()

    asyncio.run(run())


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(database: Database) -> None:
    async def run() -> None:
        gate, grant = turnstile(database, wait_s=1e9), limited(concurrent=1)

        async def wait() -> None:
            async with gate.admit(request(grant), thousand):
                raise AssertionError("it was never its turn")

        async with gate.admit(request(grant), thousand):
            waiting = asyncio.create_task(wait())
            await _until_waiting(gate)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert gate.gauges() == {"limited_running": 1, "limited_waiting": 0}
        gate.close()

    asyncio.run(run())
    assert held(database) == []


def test_a_client_that_leaves_in_the_moment_it_is_let_in_leaves_nothing_behind(database: Database) -> None:
    """The database had written its reservation already, and nobody was left to end it."""

    async def run() -> None:
        gate, grant = turnstile(database), limited(concurrent=1, tokens=10_000)

        async def enter() -> None:
            async with gate.admit(request(grant), thousand):
                pass

        for turns in range(12):
            entering = asyncio.create_task(enter())
            for _ in range(turns):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
        async with gate.admit(request(grant), thousand) as permit:
            assert permit.allowance.tokens is not None
            assert permit.allowance.tokens.remaining >= 10_000 - 1_000 - 4_096 - 1
        gate.close()

    asyncio.run(run())
    assert held(database) == []


# Budgets


def test_prompt_and_4k_of_output_are_reserved_and_given_back(database: Database) -> None:
    async def run() -> None:
        gate = turnstile(database)
        async with gate.admit(request(budget("1")), thousand):
            assert held(database) == [(1_000 + 4_096) * 10**6]
        async with gate.admit(request(budget("1"), max_output_tokens=10), thousand):
            assert held(database) == [1_010 * 10**6]
        async with gate.admit(request(budget("1"), max_output_tokens=400_000), thousand):
            assert held(database) == [(1_000 + 4_096) * 10**6]
        gate.close()

    asyncio.run(run())
    assert held(database) == []


def test_a_request_that_may_cost_more_than_is_left_is_refused_in_the_vendors_words(database: Database) -> None:
    spend(database, 900_000)

    async def run() -> None:
        gate = turnstile(database)
        async with gate.admit(request(budget("1")), thousand):
            pass
        with pytest.raises(BudgetExhausted) as caught:
            async with gate.admit(request(budget("0.904")), thousand):
                pass
        assert caught.value.message == (
            "Insufficient Balance: this key may spend $0.904 a day. It has spent $0.90, and this request may cost "
            "$0.005096. The next day begins at 2026-11-22T00:00Z."
        )
        with pytest.raises(BudgetExhausted, match=r"a month.*2026-12-01T00:00Z"):
            async with gate.admit(request(budget("5", "0.9")), thousand):
                pass
        gate.close()

    asyncio.run(run())


def test_what_others_have_reserved_is_waited_for_and_not_refused(database: Database) -> None:
    """Their answers may turn out cheaper than was feared."""

    async def run() -> None:
        gate, grant = turnstile(database, wait_s=1e6), budget("0.006")

        async def answer() -> None:
            async with gate.admit(request(grant), thousand):
                await asyncio.sleep(0)

        await asyncio.gather(answer(), answer(), answer())
        gate.close()
        gate = turnstile(database)
        async with gate.admit(request(grant), thousand):
            with pytest.raises(RateLimited, match="reserved for answers that run now"):
                async with gate.admit(request(grant), thousand):
                    pass
        gate.close()

    asyncio.run(run())


def test_days_and_months_have_budgets_of_their_own_and_begin_at_midnight_utc(database: Database) -> None:
    spend(database, 1_000_000)
    spend(database, 1_000_000, days_ago=20)  # the first of the month
    spend(database, 1_000_000, days_ago=21)

    async def run() -> None:
        gate = turnstile(database)
        with pytest.raises(BudgetExhausted):
            async with gate.admit(request(budget("1")), thousand):
                pass
        async with gate.admit(request(budget("1", "3"), at=NOON + timedelta(hours=12)), thousand):
            pass
        with pytest.raises(BudgetExhausted, match=r"a month. It has spent \$2\.00"):
            async with gate.admit(request(budget(None, "2")), thousand):
                pass
        async with gate.admit(request(budget(None, "2"), at=NOON + timedelta(days=10)), thousand):
            pass
        gate.close()

    asyncio.run(run())


def test_a_clock_that_jumps_back_opens_no_budget_again(database: Database) -> None:
    """Yesterday's money was spent yesterday, and today's reservation is not taken for dead."""
    spend(database, 1_000_000, days_ago=1)
    time = Time()

    async def run() -> None:
        gate = turnstile(database, time)
        async with gate.admit(request(budget("1")), thousand):
            time.jump(-86_400)
            with pytest.raises(BudgetExhausted):
                async with gate.admit(request(budget("1"), at=time.now()), thousand):
                    pass
            time.jump(30 * 86_400)
            async with gate.admit(request(budget("1"), at=time.now()), thousand):
                assert len(held(database)) == 2
        gate.close()

    asyncio.run(run())


# In the middle


async def _until_waiting(gate: Turnstile) -> None:
    while not gate.gauges()["limited_waiting"]:  # noqa: ASYNC110 - nothing tells it
        await asyncio.sleep(0)


async def drain(events: AsyncGenerator[Event], heard: list[Event] | None = None) -> list[Event]:
    """All of them; heard: where they are put one by one, for streams that break off."""
    heard = [] if heard is None else heard
    async for event in events:
        heard.append(event)
    return heard


def telling(*texts: str, usage: Usage | None = None, prompt: Usage | None = None) -> Answer:
    """A back end that says so."""

    async def answer(_: Request) -> AsyncGenerator[Event]:
        yield Started(served_by=SERVED_BY, prompt_usage=prompt)
        yield BlockOpened(index=0, block=TextBlock())
        for text in texts:
            yield BlockDelta(index=0, text=text)
        if usage is not None:
            yield UsageReported(usage=usage)
        yield Finished(reason="stop")

    return answer


async def by_words(asked: Request) -> int:
    """Prompts have a thousand tokens, answers one for each word."""
    return 1_000 if asked.infill is None else len(asked.infill.prompt.split())


def test_the_first_event_tells_what_is_left(database: Database) -> None:
    async def run() -> None:
        gate, grant = turnstile(database), limited(requests=10)
        async with gate.admit(request(grant), thousand) as permit:
            started = (await drain(permit.watch(telling(), request(grant))))[0]
        assert isinstance(started, Started)
        assert started.allowance == permit.allowance
        gate.close()

    asyncio.run(run())


def test_a_long_answer_reserves_more_as_it_goes_on_and_by_the_count_of_its_tokens(database: Database) -> None:
    async def run() -> None:
        gate, grant, most = turnstile(database), budget("1"), 0
        async with gate.admit(request(grant), by_words) as permit:
            async for _ in permit.watch(telling(*["word " * 100] * 100), request(grant)):
                most = max(most, *held(database))
        # 10,000 tokens of output, always between 1K and 4K more paid for ahead; not the 50,000 bytes of the bound.
        assert (1_000 + 10_000) * 10**6 < most <= (1_000 + 10_000 + 4_096 + 200) * 10**6
        gate.close()

    asyncio.run(run())


def test_an_answer_ends_where_the_money_does(database: Database) -> None:
    async def run() -> None:
        gate, grant, heard = turnstile(database), budget("0.007"), list[Event]()
        async with gate.admit(request(grant), by_words) as permit:
            with pytest.raises(BudgetExhausted, match=r"may spend \$0\.007 a day"):
                await drain(permit.watch(telling(*["word "] * 10_000), request(grant)), heard)
        # 7,000 tokens in all, of which 1,000 are the prompt and 16 open the block.
        assert 5_900 <= len(heard) <= 6_000 - 16 - 1
        gate.close()

    asyncio.run(run())


def test_a_short_answer_asks_for_no_more_than_it_may_take(database: Database) -> None:
    async def run() -> None:
        gate, grant = turnstile(database), budget("0.00111")
        asked = request(grant, max_output_tokens=110)
        async with gate.admit(asked, by_words) as permit:
            await drain(permit.watch(telling(*["word "] * 90), asked))
        gate.close()

    asyncio.run(run())


def test_prompts_that_were_cached_leave_more_for_the_answer(database: Database) -> None:
    async def run() -> None:
        gate, grant, heard = turnstile(database), budget("0.0052"), list[Event]()
        answer = telling(*["word "] * 10_000, prompt=Usage(hit_tokens=1_000))
        async with gate.admit(request(grant), by_words) as permit:
            with pytest.raises(BudgetExhausted):
                await drain(permit.watch(answer, request(grant)), heard)
        assert 5_000 < len(heard) < 5_200
        gate.close()

    asyncio.run(run())


def test_every_round_of_an_answer_has_to_be_paid_for(database: Database) -> None:
    async def run() -> None:
        gate, grant, rounds = turnstile(database), budget("0.0085"), 0
        answer = telling("word " * 500, usage=Usage(miss_tokens=1_000, answer_tokens=500))
        async with gate.admit(request(grant), by_words) as permit:
            while rounds < 10:
                try:
                    await drain(permit.watch(answer, request(grant)))
                except BudgetExhausted:
                    break
                rounds += 1
        assert rounds == 3  # 3 * 1,500 were used; 1,000 and 4,096 more are not there
        gate.close()

    asyncio.run(run())


def test_what_the_ledger_has_written_is_not_reserved_any_longer(database: Database) -> None:
    async def run() -> None:
        gate, grant = turnstile(database), budget("0.0125")
        async with gate.admit(request(grant), by_words) as permit:
            for number in range(5):
                usage = Usage(miss_tokens=1_000, answer_tokens=500)
                await drain(permit.watch(telling(usage=usage), request(grant)))
                spend(database, 1_500, permit=permit)
                permit.note_settled(1_500 * 10**6, _done())
                assert held(database) == [(1_000 + 4_096 - 1_500) * 10**6], number
        gate.close()

    asyncio.run(run())
    sums = read_spending(database, [KEY], now=NOON)[KEY]
    assert str(sums.today_usd) == "0.007500000000"
    assert sums.num_attempts == 5
    assert sums.reserved_today_usd == Decimal(0)


def _done() -> asyncio.Future[None]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def test_money_stays_reserved_until_the_ledger_has_written_what_it_was_spent_for(database: Database) -> None:
    """Where a client left, nobody waited for the ledger: for a moment what it had cost was neither here nor there."""

    async def run() -> None:
        gate, grant = turnstile(database), budget("1")
        settling = asyncio.get_running_loop().create_future()

        async def leave() -> None:
            async with gate.admit(request(grant), by_words) as permit:
                permit.note_settled(0, settling)

        leaving = asyncio.create_task(leave())
        while not held(database):  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(held(database)) == 1
        settling.set_result(None)
        await leaving
        assert held(database) == []
        gate.close()

    asyncio.run(run())


# Several gateways


def test_two_gateways_on_one_database_count_together(database: Database) -> None:
    async def run() -> None:
        time, grant = Time(), limited(concurrent=2, requests=5)
        one, two = turnstile(database, time, name="a"), turnstile(database, time, name="b", wait_s=0)
        async with one.admit(request(grant), thousand), two.admit(request(grant), thousand):
            with pytest.raises(RateLimited, match="same time"):
                async with two.admit(request(grant), thousand):
                    pass
        for gate in (one, two, one):
            async with gate.admit(request(grant), thousand):
                pass
        with pytest.raises(RateLimited, match="5 requests a minute"):
            async with two.admit(request(grant), thousand):
                pass
        one.close()
        two.close()

    asyncio.run(run())


def test_a_slot_that_comes_free_in_another_gateway_is_noticed(database: Database) -> None:
    async def run() -> None:
        time, grant = Time(), limited(concurrent=1)
        one, two = turnstile(database, time, name="a"), turnstile(database, time, name="b", wait_s=1e6)
        async with one.admit(request(grant), thousand):
            waiting = asyncio.create_task(_enter(two, request(grant)))
            await _until_waiting(two)
        await waiting
        one.close()
        two.close()

    asyncio.run(run())


async def _enter(gate: Turnstile, asked: Request) -> None:
    async with gate.admit(asked, thousand):
        pass


def test_what_a_gateway_held_that_was_killed_comes_free_when_its_lease_ends(database: Database) -> None:
    lost = {"id": "lost", "key_id": KEY, "day": NOON.date(), "amount_pico": 10**12}
    with database.begin() as connection:
        connection.execute(insert(reservations), {**lost, "expires_at": NOON + timedelta(seconds=3)})

    async def run() -> None:
        time = Time()
        gate, grant = turnstile(database, time, wait_s=2.0), limited(concurrent=1)
        with pytest.raises(RateLimited):
            async with gate.admit(request(grant), thousand):
                pass
        async with gate.admit(request(grant), thousand):
            assert 3.0 < time.passed_s < 4.0
        gate.close()

    asyncio.run(run())


def test_a_count_takes_one_of_the_requests_and_neither_tokens_nor_money_nor_a_place(database: Database) -> None:
    async def run() -> None:
        time = Time()
        gate = turnstile(database, time)
        grant = msgspec.structs.replace(budget("0.01"), limits=limited(concurrent=1, requests=3, tokens=2_000).limits)
        async with gate.admit(request(grant, max_output_tokens=100), thousand) as permit:
            assert permit.allowance.requests is not None
            assert permit.allowance.requests.remaining == 2
            reserved = held(database)
            for _ in range(2):
                await gate.admit_count(request(grant))  # beside the only answer that may run
            assert time.passed_s == 0
            assert held(database) == reserved
        with pytest.raises(RateLimited, match="3 requests a minute") as caught:
            await gate.admit_count(request(grant))
        assert caught.value.retry_after_s == 20.0
        assert gate.gauges() == {"limited_running": 0, "limited_waiting": 0}
        for free in (limited(concurrent=1, tokens=1), budget("0.01")):
            for _ in range(5):
                await gate.admit_count(request(free, key=KeyId("key-2")))
        gate.close()

    asyncio.run(run())
    assert held(database) == []
