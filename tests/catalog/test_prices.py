"""Which price is in force, and what it makes of a usage."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.catalog.models import load_models
from deepserve.catalog.price_table import load_prices
from deepserve.catalog.prices import Price, PriceCatalog, PriceRow, cost_usd
from deepserve.core.cost import Cost
from deepserve.core.usage import Usage

PRICES = load_prices()

amounts = st.decimals(min_value=0, max_value=1000, places=6)
tokens = st.integers(min_value=0, max_value=10**9)
prices = st.builds(Price, hit=amounts, miss=amounts, output=amounts)
usages = st.builds(Usage, hit_tokens=tokens, miss_tokens=tokens, reasoning_tokens=tokens, answer_tokens=tokens)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]  # the parts stand for year, month, day and so on


def price(model: str, *parts: int, provider: str = "deepseek") -> Price:
    found = PRICES.price_at(model, at(*parts), provider=provider)
    assert found is not None
    return found


def test_every_served_model_has_a_list_price_from_its_release_on() -> None:
    for model in load_models().models:
        assert PRICES.price_at(model.id, model.released_at) is not None
        assert PRICES.price_at(model.id, at(2026, 4, 1)) is None


def test_rows_are_written_in_the_order_in_which_they_hold() -> None:
    for pair in {(row.provider, row.model) for row in PRICES.rows}:
        dates = [row.since for row in PRICES.rows if (row.provider, row.model) == pair]
        assert dates == sorted(set(dates))


@pytest.mark.parametrize(
    ("model", "instant", "expected"),
    [
        ("deepseek-v4-flash", (2026, 4, 24), "0.028 0.14 0.28"),
        ("deepseek-v4-pro", (2026, 4, 24), "0.145 1.74 3.48"),
        ("deepseek-v4-pro", (2026, 4, 25, 16, 56), "0.145 1.74 3.48"),
        ("deepseek-v4-pro", (2026, 4, 25, 16, 57), "0.03625 0.435 0.87"),
        ("deepseek-v4-flash", (2026, 4, 26, 12, 14, 59), "0.028 0.14 0.28"),
        ("deepseek-v4-flash", (2026, 4, 26, 12, 15), "0.0028 0.14 0.28"),
        ("deepseek-v4-pro", (2026, 4, 26, 12, 15), "0.003625 0.435 0.87"),
        ("deepseek-v4-pro", (2026, 8, 16, 15, 59, 59), "0.003625 0.435 0.87"),
        ("deepseek-v4-pro", (2026, 8, 16, 16), "0.022 0.66 1.98"),
        ("deepseek-v4-flash", (2026, 9, 10, 3, 59, 59), "0.014 0.44 1.32"),
        ("deepseek-v4-flash", (2026, 9, 10, 4), "0.003 0.15 0.60"),
    ],
)
def test_a_new_price_holds_from_its_instant_on(model: str, instant: tuple[int, ...], expected: str) -> None:
    found = price(model, *instant)
    assert f"{found.hit} {found.miss} {found.output}" == expected


@pytest.mark.parametrize(
    ("day", "hour", "is_peak"),
    [
        ((2026, 11, 18), 0, False),  # a Wednesday
        ((2026, 11, 18), 1, True),
        ((2026, 11, 18), 3, True),
        ((2026, 11, 18), 4, False),
        ((2026, 11, 18), 6, True),
        ((2026, 11, 18), 10, False),
        ((2026, 11, 21), 2, False),  # a Saturday
        ((2026, 8, 22), 2, True),  # a Saturday on which the weekend still had peak hours
        ((2026, 8, 23), 2, False),  # the Sunday from which it has none
        ((2026, 10, 1), 2, False),  # a public holiday in China, on a Thursday
        ((2026, 10, 8), 2, True),  # the first working day after it
    ],
)
def test_peak_hours_are_windows_of_working_days(day: tuple[int, ...], hour: int, is_peak: bool) -> None:
    assert price("deepseek-v4-pro", *day, hour).miss == Decimal("1.32" if is_peak else "0.66")


def test_peak_is_twice_off_peak() -> None:
    for row in PRICES.rows:
        for window in row.windows:
            for part in ("hit", "miss", "output"):
                assert getattr(window.price, part) == 2 * getattr(row.price, part)


def test_a_prompt_beyond_a_tier_is_charged_by_it_as_a_whole() -> None:
    def miss(prompt_tokens: int) -> Decimal:
        found = PRICES.price_at("gemini-3.1-pro", at(2026, 5, 1), provider="google", prompt_tokens=prompt_tokens)
        assert found is not None
        return found.miss

    assert (miss(200_000), miss(200_001)) == (Decimal(2), Decimal(4))


def test_where_no_price_for_cached_tokens_is_listed_they_cost_what_others_do() -> None:
    listed = price("gpt-5.5", 2026, 5, 1, provider="openai")
    assert (listed.hit, listed.has_hit) == (listed.miss, False)


def test_a_row_with_an_end_holds_before_it_only() -> None:
    row = PriceRow(
        provider="deepseek",
        model="m",
        since=at(2026, 1, 1),
        until=at(2026, 2, 1),
        price=Price(hit=Decimal(1), miss=Decimal(1), output=Decimal(1)),
        source="a test",
    )
    catalog = PriceCatalog(rows=(row,))
    assert catalog.row_at("m", at(2026, 1, 31, 23, 59)) is row
    assert catalog.row_at("m", at(2026, 2, 1)) is None
    assert catalog.rows_at(at(2026, 1, 1)) == (row,)
    assert catalog.rows_at(at(2025, 12, 31)) == ()


def test_costs_are_exact_and_their_parts_sum_to_the_total() -> None:
    listed = Price(hit=Decimal("0.003625"), miss=Decimal("0.435"), output=Decimal("0.87"))
    cost = cost_usd(Usage(hit_tokens=1000, miss_tokens=3, reasoning_tokens=2, answer_tokens=5), listed)
    assert cost.hit_usd == Decimal("0.000003625")
    assert cost.total_usd == Decimal("0.000003625") + Decimal("0.000001305") + Decimal("0.00000609")


@given(usage=usages, listed=prices)
def test_a_cost_is_a_whole_number_of_millionths_of_a_millionth_of_a_dollar(usage: Usage, listed: Price) -> None:
    total = cost_usd(usage, listed).total_usd * 10**12
    assert total == int(total)
    scaled = [int(part * 10**6) for part in (listed.hit, listed.miss, listed.output)]
    counts = (usage.hit_tokens, usage.miss_tokens, usage.output_tokens)
    assert int(total) == sum(count * part for count, part in zip(counts, scaled, strict=True))


@given(first=usages, second=usages, listed=prices)
def test_the_cost_of_a_sum_is_the_sum_of_the_costs(first: Usage, second: Usage, listed: Price) -> None:
    together = cost_usd(first.plus(second), listed)
    assert together == cost_usd(first, listed).plus(cost_usd(second, listed))


@given(prompt_tokens=tokens, share=st.integers(min_value=0, max_value=100), listed=prices)
def test_every_token_of_a_prompt_is_billed_once(prompt_tokens: int, share: int, listed: Price) -> None:
    """With one price for all of them it does not matter which tokens were cached."""
    hits = prompt_tokens * share // 100
    usage = Usage(hit_tokens=hits, miss_tokens=prompt_tokens - hits)
    assert usage.prompt_tokens == prompt_tokens
    flat = Price(hit=listed.miss, miss=listed.miss, output=listed.output)
    assert cost_usd(usage, flat).total_usd == cost_usd(Usage(miss_tokens=prompt_tokens), flat).total_usd


def test_nothing_costs_nothing() -> None:
    assert cost_usd(Usage(), price("deepseek-v4-pro", 2026, 5, 1)) == Cost()
