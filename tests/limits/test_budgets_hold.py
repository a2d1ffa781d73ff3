"""Many answers at once, of random length and price, in several gateways: the money never goes below zero."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from decimal import Decimal

import msgspec
import pytest

from deepserve.core.cost import pico_usd
from deepserve.core.errors import BudgetExhausted, RateLimited
from deepserve.core.events import BlockDelta, BlockOpened, Event, Finished, Started, TextBlock, UsageReported
from deepserve.core.provider import ServedBy
from deepserve.core.request import Request
from deepserve.core.tenant import Grant
from deepserve.core.usage import Usage
from deepserve.limits.tariff import Tariff
from deepserve.limits.turnstile import Turnstile
from deepserve.store.database import Database
from deepserve.store.spending import Settlement, read_spending, write_spending
from tests.limits.setup import KEY, NOON, Time, budget, limited, request, thousand, turnstile

_TARIFF = Tariff(hit_pico=3_625, miss_pico=435_000, output_pico=870_000)
_SERVED_BY = ServedBy(provider="deepserve", model="mini-pro", fingerprint="f")


class _Answer:
    """Tells what it has told, as a provider's bill does in the end, whatever became of the stream."""

    def __init__(self, draw: random.Random) -> None:
        self.prompt_tokens = draw.randrange(10, 20_000)
        self._hit_tokens = draw.choice((0, self.prompt_tokens // 2))
        self._num_pieces = draw.choice((1, 50, 2_000))
        self._piece = "word " * draw.choice((1, 4, 20))
        self._says_usage = draw.random() < 0.7
        self._told_tokens = 0

    @property
    def usage(self) -> Usage:
        miss = self.prompt_tokens - self._hit_tokens
        return Usage(hit_tokens=self._hit_tokens, miss_tokens=miss, answer_tokens=self._told_tokens)

    async def events(self, asked: Request) -> AsyncGenerator[Event]:
        most = asked.max_output_tokens or 1_000_000
        yield Started(served_by=_SERVED_BY, prompt_usage=self.usage if self._says_usage else None)
        yield BlockOpened(index=0, block=TextBlock())
        for number in range(self._num_pieces):
            if self._told_tokens + len(self._piece.split()) > most:
                break
            self._told_tokens += len(self._piece.split())
            yield BlockDelta(index=0, text=self._piece)
            if self._says_usage and number % 300 == 0:
                yield UsageReported(usage=self.usage)
        yield UsageReported(usage=self.usage)
        yield Finished(reason="stop")

    async def count(self, asked: Request) -> int:
        return self.prompt_tokens if asked.infill is None else len(asked.infill.prompt.split())


@pytest.mark.parametrize("seed", range(3))
def test_budgets_are_never_exceeded_by_answers_that_run_at_the_same_time(database: Database, seed: int) -> None:
    draw, grant = random.Random(seed), budget("0.2", "0.25")
    most = pico_usd(grant.budgets.usd_per_day or Decimal(0))
    spent_pico, ended = 0, dict.fromkeys(("whole", "refused", "cut", "waited"), 0)

    async def ask(gate: Turnstile, answer: _Answer) -> None:
        nonlocal spent_pico
        asked = request(grant, max_output_tokens=draw.choice((None, 100, 300_000)))
        try:
            async with gate.admit(asked, answer.count) as permit:
                outcome = "whole"
                try:
                    async with aclosing(permit.watch(answer.events, asked)) as events:
                        async for _ in events:
                            pass
                except BudgetExhausted:
                    outcome = "cut"
                cost_pico = _TARIFF.cost_pico(answer.usage)
                spent_pico += cost_pico
                assert spent_pico <= most
                settled = Settlement(
                    key=KEY,
                    at=NOON,
                    cost_pico=cost_pico,
                    tokens=answer.usage.total_tokens,
                    reservation=permit.reservation_id,
                )
                with database.begin() as connection:
                    write_spending(connection, [settled])
        except BudgetExhausted:
            outcome = "refused"
        except RateLimited:
            outcome = "waited"
        ended[outcome] += 1

    async def run() -> None:
        time = Time(stands_still=True)  # else leases ran out, which are not renewed here
        gates = [turnstile(database, time, tariff=_TARIFF, name=name, wait_s=1e6) for name in ("a", "b")]
        await asyncio.gather(*(ask(gates[number % 2], _Answer(draw)) for number in range(120)))
        for gate in gates:
            gate.close()

    asyncio.run(run())
    sums = read_spending(database, [KEY], now=NOON)[KEY]
    assert pico_usd(sums.today_usd) == spent_pico <= most
    assert sums.reserved_today_usd == 0
    # It is money that stopped them, and not a mistake: nearly all of it was used.
    assert spent_pico > 0.9 * most
    assert ended["whole"] > 10
    assert ended["refused"] > 10
    assert sum(ended.values()) == 120


def test_with_a_budget_an_answer_is_asked_for_piece_by_piece_though_its_client_wants_it_whole(
    database: Database,
) -> None:
    heard: list[bool] = []

    async def answer(asked: Request) -> AsyncGenerator[Event]:
        heard.append(asked.is_whole)
        yield Finished(reason="stop")

    async def ask(grant: Grant) -> None:
        gate, asked = turnstile(database), msgspec.structs.replace(request(grant), is_whole=True)
        async with gate.admit(asked, thousand) as permit:
            await _heard_out(permit.watch(answer, asked))
        gate.close()

    asyncio.run(ask(budget("1")))
    asyncio.run(ask(limited(concurrent=1)))
    assert heard == [False, True]


def test_an_answer_that_is_cut_is_billed_for_no_more_than_it_may_have(database: Database) -> None:
    async def count(asked: Request) -> int:
        return 10 if asked.infill is None else 3 * len(asked.infill.prompt.split())

    async def answer(_: Request) -> AsyncGenerator[Event]:
        yield Started(served_by=_SERVED_BY, prompt_usage=None)
        yield BlockOpened(index=0, block=TextBlock())
        yield BlockDelta(index=0, text="word " * 5_900)

    async def ask() -> Usage:
        gate, asked = turnstile(database), request(budget("0.005"), max_output_tokens=6_000)
        async with gate.admit(asked, count) as permit:
            with pytest.raises(BudgetExhausted):
                await _heard_out(permit.watch(answer, asked))
            counted = permit.counted
        gate.close()
        return counted

    assert asyncio.run(ask()).output_tokens == 6_000


async def _heard_out(answer: AsyncGenerator[Event]) -> None:
    async with aclosing(answer) as events:
        async for _ in events:
            pass
