"""Clients that leave while somebody else works and has not said anything yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from deepserve.catalog.price_table import load_prices
from deepserve.core.errors import BackendFailure
from deepserve.gateway import Gateway
from deepserve.metering.meter import Meter
from deepserve.store.ledger import LedgerRow
from tests.backends.fleet.setup import Fake, fleet, member, until
from tests.metering.setup import KeptLedger, request


def _left_behind(fakes: Sequence[Fake], *, upstreams: Sequence[Any] = (), **settings: Any) -> list[LedgerRow]:
    """The ledger when a client has left once everybody was asked. Any: what makes members and a fleet."""
    fields = list(upstreams) or [{}] * len(fakes)
    members = [member(f"m{number}", one, **fields[number]) for number, one in enumerate(fakes)]
    ledger = KeptLedger()

    async def leave() -> None:
        gateway = Gateway(fleet(*members, **settings), meter=Meter(load_prices(), ledger, prefix="t"))
        asking = asyncio.ensure_future(anext(gateway.answer(request("x" * 1_000))))
        await until(lambda: all(one.requests for one in fakes))
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking

    asyncio.run(leave())
    return ledger.kept


def test_who_was_asked_is_paid_for_the_prompt() -> None:
    [row] = _left_behind([Fake([asyncio.Event()])])
    assert (row.outcome, row.provider, row.miss_tokens, row.answer_tokens) == ("client_left", "m0", 304, 0)
    assert row.is_estimated
    assert row.total_pico_usd == 304 * 150_000


def test_who_had_failed_before_is_on_record_and_costs_nothing() -> None:
    rows = _left_behind([Fake([BackendFailure("down")]), Fake([asyncio.Event()])])
    assert [(row.number, row.provider, row.outcome) for row in rows] == [
        (1, "m0", "backend_failure"),
        (2, "m1", "client_left"),
    ]
    assert [row.total_pico_usd for row in rows] == [0, 304 * 150_000]


def test_of_two_that_race_both_are_paid() -> None:
    rows = _left_behind([Fake([asyncio.Event()]), Fake([asyncio.Event()])], hedge_s=0.0)
    assert sorted((row.provider, row.outcome) for row in rows) == [("m0", "client_left"), ("m1", "client_left")]


@pytest.mark.parametrize("hedge_s", [None, 0.001])
def test_our_own_engine_has_done_nothing_before_it_says_so(hedge_s: float | None) -> None:
    assert _left_behind([Fake([asyncio.Event()])], upstreams=[{"upstream": None}], hedge_s=hedge_s) == []
