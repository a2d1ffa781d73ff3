from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from deepserve.catalog.models import load_models
from deepserve.catalog.prices import Price, cost_usd, load_prices
from deepserve.core.usage import Usage

PRICES = load_prices()


def test_every_model_has_a_price_from_its_release_on() -> None:
    for model in load_models().models:
        assert PRICES.price_at(model.id, model.released_at) is not None
        assert PRICES.price_at(model.id, datetime(2026, 4, 1, tzinfo=UTC)) is None


def test_every_row_names_a_known_model_and_rows_of_a_model_are_in_order() -> None:
    known = {model.id for model in load_models().models}
    assert {row.model for row in PRICES.rows} == known
    for model in known:
        dates = [row.since for row in PRICES.rows if row.model == model]
        assert dates == sorted(set(dates))


def test_a_new_price_holds_from_its_instant_on() -> None:
    before = PRICES.price_at("deepseek-v4-flash", datetime(2026, 9, 10, 3, 59, 59, tzinfo=UTC))
    after = PRICES.price_at("deepseek-v4-flash", datetime(2026, 9, 10, 4, 0, 0, tzinfo=UTC))
    assert (before and before.output, after and after.output) == (Decimal("1.32"), Decimal("0.60"))


@pytest.mark.parametrize(
    ("day", "hour", "is_peak"),
    [(18, 0, False), (18, 1, True), (18, 3, True), (18, 4, False), (18, 6, True), (18, 10, False), (21, 2, False)],
)
def test_peak_hours_are_windows_of_working_days(day: int, hour: int, is_peak: bool) -> None:
    """The 18th of November 2026 is a Wednesday, the 21st a Saturday."""
    price = PRICES.price_at("deepseek-v4-pro", datetime(2026, 11, day, hour, tzinfo=UTC))
    assert price is not None
    assert price.miss == (Decimal("1.32") if is_peak else Decimal("0.66"))


def test_costs_are_exact_and_their_parts_sum_to_the_total() -> None:
    price = Price(hit=Decimal("0.003625"), miss=Decimal("0.435"), output=Decimal("0.87"))
    cost = cost_usd(Usage(hit_tokens=1000, miss_tokens=3, reasoning_tokens=2, answer_tokens=5), price)
    assert cost.hit_usd == Decimal("0.000003625")
    assert cost.total_usd == Decimal("0.000003625") + Decimal("0.000001305") + Decimal("0.00000609")


def test_a_cached_token_is_not_billed_as_a_fresh_one_too() -> None:
    price = Price(hit=Decimal(1), miss=Decimal(10), output=Decimal(100))
    assert cost_usd(Usage(hit_tokens=1_000_000), price).total_usd == 1
    assert cost_usd(Usage(miss_tokens=1_000_000), price).total_usd == 10
