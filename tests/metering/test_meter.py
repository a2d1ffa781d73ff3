"""What attempts cost, what clients are told, and what the ledger is given."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from typing_extensions import override

from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.catalog.price_book import PriceBook
from deepserve.catalog.price_table import load_prices
from deepserve.catalog.prices import Price, PriceCatalog, PriceRow, own_price
from deepserve.core.attempt import FailedAttempt
from deepserve.core.cost import Cost, usd_of
from deepserve.core.errors import BackendFailure, InvalidField, Overloaded, StoreUnavailable
from deepserve.core.events import Event, Failed, Finished, Started, UsageReported
from deepserve.core.provider import ServedBy
from deepserve.core.request import RequestId, ServerTool
from deepserve.core.routing import RoutingWishes
from deepserve.core.usage import Usage
from deepserve.gateway import Gateway
from deepserve.metering.meter import Meter
from deepserve.routing.router import Router
from deepserve.tools.tool_loop import ToolLoop
from deepserve.tools.toolbox import Toolbox
from tests.metering.setup import (
    COST_PICO,
    FLASH,
    NOON,
    PRO,
    USAGE,
    KeptLedger,
    Saying,
    hear,
    metered,
    request,
    said,
    started,
    told,
    whole,
)
from tests.tools.scripted_tool import ScriptedTool

# Prices.


def test_an_answer_costs_its_tokens_at_the_price_of_its_arrival() -> None:
    gateway, ledger = metered(Saying(whole()))
    cost = told(hear(gateway, request()))
    [row] = ledger.kept
    assert cost is not None
    assert (cost.total_usd, cost.price) == (usd_of(COST_PICO), row.price)
    assert row.price == "deepseek/deepseek-v4-flash@2026-09-10T04:00Z"
    assert (row.hit_pico_usd, row.miss_pico_usd, row.output_pico_usd) == (300_000, 3_000_000, 6_000_000)
    assert (row.usage, row.outcome, row.number, row.dialect, row.provider) == (USAGE, "stop", 1, "chat", "deepseek")
    assert row.cost == cost


def test_at_peak_the_price_of_the_peak_holds() -> None:
    gateway, ledger = metered(Saying(whole()))
    hear(gateway, request(arrived_at=datetime(2026, 11, 2, 2, tzinfo=UTC)))
    [row] = ledger.kept
    assert row.price == "deepseek/deepseek-v4-flash@2026-09-10T04:00Z/deepseek-peak"
    assert row.total_pico_usd == 2 * COST_PICO


def test_a_price_that_begins_within_a_minute_holds_from_that_second_on() -> None:
    """Prices are remembered for the minute in which they were looked up."""
    begins = datetime(2026, 11, 2, 12, 30, 20, 500_000, tzinfo=UTC)
    amounts = [Price(hit=Decimal(1), miss=Decimal(number), output=Decimal(1)) for number in (1, 2)]
    rows = [
        PriceRow(provider="deepseek", model=FLASH, since=since, price=price, source="a test")
        for since, price in zip((begins - timedelta(days=1), begins), amounts, strict=True)
    ]
    meter = Meter(PriceCatalog(rows=tuple(rows)))
    found = []
    for seconds in (0, 20, 20.499999, 20.5, 59, 20.499999):
        price = meter.price("deepseek", FLASH, begins.replace(second=0, microsecond=0) + timedelta(seconds=seconds), 0)
        assert price is not None
        found.append(price[1][1] // 1_000_000)
    assert found == [1, 1, 1, 2, 2, 1]


def test_the_price_is_that_of_the_provider_that_answered() -> None:
    catalog = load_prices()
    row_of = catalog.row_at(FLASH, NOON, provider="deepinfra")
    assert row_of is not None
    gateway, ledger = metered(Saying(whole(provider="deepinfra"), whole(provider="nobody-knows")))
    hear(gateway, request())
    hear(gateway, request())
    first, second = ledger.kept
    assert first.price is not None
    assert catalog.points()[first.price] == row_of.price
    assert first.price.startswith("deepinfra/deepseek-v4-flash@")
    assert second.total_pico_usd == COST_PICO, "without a row of its own, the vendor's list price holds"


def test_the_model_that_answers_decides_the_price() -> None:
    gateway, ledger = metered(Saying(whole(model=PRO)))
    hear(gateway, request())
    [row] = ledger.kept
    assert (row.model, row.answered_model) == (FLASH, PRO)
    assert row.price == "deepseek/deepseek-v4-pro@2026-08-16T16:00Z"


def test_an_operators_price_is_found_again_by_its_id(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(
        '[[price]]\nprovider = "deepseek"\nmodel = "deepseek-v4-flash"\nsince = 2026-10-01T00:00:00Z\n'
        'price = { hit = "0.001", miss = "0.1", output = "0.2" }\nsource = "our contract"\n'
    )
    ledger = KeptLedger()
    hear(Gateway(Saying(whole()), meter=Meter(PriceBook(own), ledger)), request())
    [row] = ledger.kept
    assert row.price == "deepseek/deepseek-v4-flash@2026-10-01T00:00Z=0.001/0.1/0.2"
    assert (row.hit_pico_usd, row.miss_pico_usd, row.output_pico_usd) == (100_000, 2_000_000, 2_000_000)
    price = own_price(row.price)
    assert price is not None
    assert (price.hit, price.miss, price.output) == (Decimal("0.001"), Decimal("0.1"), Decimal("0.2"))
    assert own_price("deepseek/deepseek-v4-flash@2026-09-10T04:00Z") is None


def test_every_price_in_force_is_found_by_its_id() -> None:
    catalog = load_prices()
    points = catalog.points()
    for row in catalog.rows:
        for hours in range(0, 24 * 200, 7):
            at = row.since + timedelta(hours=hours)
            for prompt_tokens in (0, 10**6):
                found = catalog.point_at(row.model, at, provider=row.provider, prompt_tokens=prompt_tokens)
                if found is not None:
                    assert points[found.id] == found.price


def test_what_the_provider_states_is_kept_beside_our_price() -> None:
    stated = Cost(miss_usd=Decimal("0.00001"), output_usd=Decimal("0.000002"), source="provider")
    gateway, ledger = metered(Saying(whole(cost=stated)))
    cost = told(hear(gateway, request()))
    [row] = ledger.kept
    assert (row.total_pico_usd, row.stated_pico_usd) == (COST_PICO, 12_000_000)
    assert cost is not None
    assert (cost.total_usd, cost.stated_usd, cost.source) == (usd_of(COST_PICO), Decimal("0.000012"), "list")


def test_where_nobody_has_a_price_the_stated_amount_stands_for_it() -> None:
    stated = Cost(miss_usd=Decimal("0.00001"), output_usd=Decimal("0.0000020000001"), source="provider")
    gateway, ledger = metered(Saying(whole(cost=stated)))
    cost = told(hear(gateway, request(arrived_at=datetime(2020, 1, 1, tzinfo=UTC))))
    [row] = ledger.kept
    assert (row.price, row.total_pico_usd, row.stated_pico_usd) == (None, 12_000_000, 12_000_000)
    assert cost is not None
    assert (cost.source, cost.total_usd) == ("provider", Decimal("0.000012")), "in whole pico-dollars, told as recorded"


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-1", "1e9"])
def test_a_stated_amount_that_cannot_be_meant_is_none(amount: str) -> None:
    gateway, ledger = metered(Saying(whole(cost=Cost(output_usd=Decimal(amount), source="provider"))))
    hear(gateway, request())
    assert ledger.kept[0].stated_pico_usd is None


# Failures.


def test_an_attempt_that_failed_costs_nothing_unless_its_upstream_says_what_it_used() -> None:
    error = BackendFailure("no")
    untold: list[Event] = [started(), *said(), Failed(error=error)]
    estimated: list[Event] = [
        started(),
        UsageReported(usage=Usage(miss_tokens=5, is_estimated=True)),
        Failed(error=error),
    ]
    reported: list[Event] = [started(), UsageReported(usage=USAGE), Failed(error=error)]
    own: list[Event] = [started("deepserve"), UsageReported(usage=USAGE), Failed(error=error)]
    gateway, ledger = metered(Saying(untold, estimated, reported, own))
    costs: list[Cost | None] = []
    for _ in range(4):
        heard = hear(gateway, request())
        assert isinstance(heard[-1], Failed)
        costs.append(told(heard) if any(isinstance(event, UsageReported) for event in heard) else None)
    assert [row.total_pico_usd for row in ledger.kept] == [0, 0, COST_PICO, 0]
    assert [row.outcome for row in ledger.kept] == ["backend_failure"] * 4
    assert costs == [None, Cost(), ledger.kept[2].cost, Cost()], "what is told at last is what was recorded"


def test_one_good_result_among_failed_ones_is_paid_for() -> None:
    events = [
        started(),
        *said(),
        Failed(error=BackendFailure("no"), result=1),
        UsageReported(usage=USAGE),
        Finished(reason="stop"),
    ]
    gateway, ledger = metered(Saying(events))
    cost = told(hear(gateway, request(num_results=2)))
    [row] = ledger.kept
    assert (row.outcome, row.total_pico_usd, row.num_results) == ("backend_failure", COST_PICO, 2)
    assert cost == row.cost


def test_attempts_that_failed_before_have_rows_of_their_own() -> None:
    earlier = (
        FailedAttempt(provider="one", model=PRO, code="overloaded", began_at=NOON, ended_at=NOON),
        FailedAttempt(provider="two", model=FLASH, code="request_timed_out", began_at=NOON, ended_at=NOON, usage=USAGE),
    )
    gateway, ledger = metered(Saying(whole(earlier=earlier)))
    cost = told(hear(gateway, request()))
    assert [(row.number, row.provider, row.answered_model, row.outcome) for row in ledger.kept] == [
        (1, "one", PRO, "overloaded"),
        (2, "two", FLASH, "request_timed_out"),
        (3, "deepseek", FLASH, "stop"),
    ]
    assert [row.total_pico_usd for row in ledger.kept] == [0, COST_PICO, COST_PICO]
    assert cost is not None
    assert cost.total_usd == usd_of(2 * COST_PICO)


def test_when_all_attempts_have_failed_each_has_a_row() -> None:
    error = Overloaded("all busy")
    error.earlier = tuple(
        FailedAttempt(provider=name, model=FLASH, code=name, began_at=NOON, ended_at=NOON) for name in ("a", "b")
    )
    gateway, ledger = metered(Saying([error], [BackendFailure("alone")], [InvalidField("no", field="x")]))
    for code in ("overloaded", "backend_failure", "invalid_field"):
        with pytest.raises((Overloaded, BackendFailure, InvalidField)) as caught:
            hear(gateway, request())
        assert caught.value.code == code
    assert [row.outcome for row in ledger.kept] == ["a", "b", "backend_failure"], "a refused request did no work"


def test_an_error_that_ends_several_results_tells_its_attempts_once() -> None:
    error = BackendFailure("no")
    error.earlier = (FailedAttempt(provider="a", model=FLASH, code="x", began_at=NOON, ended_at=NOON),)
    gateway, ledger = metered(Saying([started(), Failed(error=error), Failed(error=error, result=1)]))
    hear(gateway, request(num_results=2))
    assert [(row.number, row.outcome) for row in ledger.kept] == [(1, "x"), (2, "backend_failure")]


# Those who leave.


def test_a_client_that_leaves_is_billed_for_what_was_produced() -> None:
    long = "word " * 100
    gateway, ledger = metered(Saying([started(prompt_usage=Usage(miss_tokens=9)), *said(long), *said(long)]))
    hear(gateway, request(), leave_after=3)
    [row] = ledger.kept
    assert (row.outcome, row.miss_tokens, row.is_estimated) == ("client_left", 9, True)
    assert row.answer_tokens == 150, "500 letters, at 0.3 tokens each"
    assert row.total_pico_usd == 9 * 150_000 + 150 * 600_000


def test_a_prompt_that_nobody_counted_is_estimated_for_a_client_that_leaves() -> None:
    gateway, ledger = metered(Saying([started(), *said("一二三四"), *said()]))
    hear(gateway, request("x" * 1_000), leave_after=3)
    [row] = ledger.kept
    assert (row.miss_tokens, row.answer_tokens, row.is_estimated) == (304, 3, True)


def test_reported_usage_is_not_replaced_by_an_estimate() -> None:
    gateway, ledger = metered(Saying([started(), *said(), UsageReported(usage=USAGE), *said()]))
    hear(gateway, request(), leave_after=6)
    [row] = ledger.kept
    assert (row.outcome, row.usage) == ("client_left", USAGE)


# Usage that cannot be.


@pytest.mark.parametrize(
    "usage",
    [
        Usage(hit_tokens=-1, miss_tokens=3),
        Usage(miss_tokens=10, answer_tokens=-5),
        Usage(miss_tokens=1, cache_write_tokens=2),
        Usage(miss_tokens=10**12),
        Usage(miss_tokens=1, answer_tokens=10**9),
    ],
)
def test_usage_that_cannot_be_is_replaced_and_said(usage: Usage, caplog: pytest.LogCaptureFixture) -> None:
    gateway, ledger = metered(Saying(whole(usage)))
    with caplog.at_level(logging.WARNING):
        heard = hear(gateway, request("x" * 100))
    [row] = ledger.kept
    assert (row.hit_tokens, row.miss_tokens, row.answer_tokens, row.is_estimated) == (0, 34, 2, True)
    assert [event.usage for event in heard if isinstance(event, UsageReported)] == [row.usage]
    assert "the usage that deepseek/m reports is wrong" in caplog.text
    assert gateway.gauges()["usage_repaired"] == 1


def test_a_long_prompt_is_plausible_and_a_much_longer_one_is_not() -> None:
    long = "word " * 40_000
    gateway, ledger = metered(Saying(whole(Usage(miss_tokens=200_000)), whole(Usage(miss_tokens=4_000_000))))
    hear(gateway, request(long))
    hear(gateway, request(long))
    assert [row.is_estimated for row in ledger.kept] == [False, True]


# Time.


def test_a_clock_that_jumps_makes_no_negative_time() -> None:
    """The wall clock is read once, on arrival; what passes since is counted by the monotonic one."""
    ticks = iter([10.0, 10.5, 12.0, 12.0])
    gateway, ledger = metered(Saying(whole()), clock=lambda: next(ticks))
    later = NOON + timedelta(days=365)
    hear(gateway, request(arrived_at=later))
    [row] = ledger.kept
    assert row.ended_at == later + timedelta(seconds=2)
    assert row.first_token_ms == 500


def test_an_earlier_attempt_whose_clock_was_behind_ends_no_sooner_than_the_request_arrived() -> None:
    before = NOON - timedelta(hours=1)
    earlier = (FailedAttempt(provider="one", model=FLASH, code="x", began_at=before, ended_at=before),)
    gateway, ledger = metered(Saying(whole(earlier=earlier)))
    hear(gateway, request())
    assert [row.ended_at for row in ledger.kept] == [NOON, NOON]


# One bill.


def test_each_round_with_tools_is_an_attempt_and_the_client_is_told_their_sum() -> None:
    rules = (
        Rule(when=When(last_role="user"), reply=Reply(tool_calls=(ScriptedCall(name="search", arguments="{}"),))),
        Rule(reply=Reply(text="found")),
    )
    tools = ToolLoop(Toolbox({"web_search": ScriptedTool()}))
    gateway, ledger = metered(ScriptedBackend(Script(rules=rules)), tools=tools)
    heard = hear(gateway, request(server_tools=(ServerTool(tool="web_search", name="search"),)))
    assert [(row.number, row.request_id, row.outcome) for row in ledger.kept] == [
        (1, "r" * 32, "tool_calls"),
        (2, "r" * 32, "stop"),
    ]
    assert [row.num_tool_calls for row in ledger.kept] == [0, 1]
    cost = told(heard)
    assert cost is not None
    assert cost.total_usd == usd_of(sum(row.total_pico_usd for row in ledger.kept)) > 0
    usage = [event.usage for event in heard if isinstance(event, UsageReported)][-1]
    assert usage.prompt_tokens == sum(row.usage.prompt_tokens for row in ledger.kept)


def test_the_rows_are_settled_before_the_last_event_is_told() -> None:
    gateway, ledger = metered(Saying(whole()))

    async def run() -> list[int]:
        return [ledger.num_settled async for _ in gateway.answer(request())]

    assert asyncio.run(run()) == [0, 0, 0, 0, 0, 1]


def test_nothing_is_asked_while_nothing_can_be_recorded() -> None:
    class Down(KeptLedger):
        @override
        def check(self) -> None:
            raise StoreUnavailable("down")

    backend = Saying(whole())
    gateway = Gateway(backend, meter=Meter(load_prices(), Down()))
    with pytest.raises(StoreUnavailable):
        hear(gateway, request())
    assert backend._answers, "the back end was not asked"


def test_attempts_are_numbered_in_the_order_of_time_and_never_twice() -> None:
    gateway, ledger = metered(Saying(*(whole() for _ in range(300))))
    for _ in range(300):
        hear(gateway, request(id=RequestId("same")))
    ids = [row.attempt_id for row in ledger.kept]
    assert ids == sorted(set(ids))
    assert Meter(load_prices()).attempt_id() < Meter(load_prices()).attempt_id()


def test_names_of_other_services_fit_any_database() -> None:
    strange = ServedBy(provider="a\0b", model="m\ud800" + "x" * 900, fingerprint="é\n")
    gateway, ledger = metered(Saying([Started(served_by=strange), *whole()[1:]]))
    hear(gateway, request())
    [row] = ledger.kept
    assert (row.provider, row.fingerprint) == ("a?b", "??")
    assert row.served_by.startswith("a?b/m?xxx")
    assert len(row.served_by) <= 200


def test_both_lanes_of_an_escalation_are_on_one_bill() -> None:
    rules = (
        Rule(when=When(model=FLASH), reply=Reply(text="I am not sure")),
        Rule(when=When(model=PRO), reply=Reply(text="42, certainly")),
    )
    router = Router(load_prices())
    gateway, ledger = metered(ScriptedBackend(Script(rules=rules)), router=router)
    heard = hear(gateway, request(model="deepseek-v4-auto", routing=RoutingWishes(test="42")))
    assert [(row.number, row.request_id, row.model, row.outcome) for row in ledger.kept] == [
        (1, "r" * 32, FLASH, "stop"),
        (2, "r" * 32, PRO, "stop"),
    ]
    assert all(row.total_pico_usd for row in ledger.kept)
    cost = told(heard)
    assert cost is not None
    assert cost.total_usd == usd_of(sum(row.total_pico_usd for row in ledger.kept))
    assert cost.price is None, "two prices were applied"
