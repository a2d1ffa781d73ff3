"""What work would cost; the worked examples of DeepSeek V4's launch, and what became of them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.catalog.calculator import Multiple, expected_usage, multiples, quotes
from deepserve.catalog.price_table import load_prices
from deepserve.catalog.prices import Price, PriceCatalog, PriceRow, cost_usd

PRICES = load_prices()
PAGE = (Path(__file__).parents[2] / "docs" / "prices.md").read_text(encoding="utf-8")
LAUNCH = datetime(2026, 4, 24, tzinfo=UTC)

CARD = {
    "deepseek-v4-flash": ("deepseek", Decimal("0.028"), Decimal("0.14"), Decimal("0.28")),
    "deepseek-v4-pro": ("deepseek", Decimal("0.145"), Decimal("1.74"), Decimal("3.48")),
    "claude-opus-4.7": ("anthropic", Decimal("0.50"), Decimal("5.00"), Decimal("25.00")),
}

counts = st.integers(min_value=0, max_value=10**9)
ratios = st.decimals(min_value=0, max_value=1, places=4)


def dollars(model: str, input_tokens: int, output_tokens: int, hit_ratio: str = "0") -> Decimal:
    usage = expected_usage(input_tokens, output_tokens, Decimal(hit_ratio))
    (quote,) = quotes(PRICES, usage, LAUNCH, models=[model], providers=[CARD[model][0]])
    return quote.cost.total_usd


@pytest.mark.parametrize(
    ("model", "input_tokens", "output_tokens", "hit_ratio", "expected"),
    [
        ("deepseek-v4-flash", 1_000, 1_000, "0", "0.00042"),
        ("deepseek-v4-pro", 1_000, 1_000, "0", "0.00522"),
        ("claude-opus-4.7", 1_000, 1_000, "0", "0.030"),
        ("deepseek-v4-flash", 100_000, 5_000, "0", "0.0154"),
        ("deepseek-v4-pro", 100_000, 5_000, "0", "0.1914"),
        ("claude-opus-4.7", 100_000, 5_000, "0", "0.625"),
        ("deepseek-v4-flash", 100_000, 5_000, "0.7", "0.00756"),
        ("deepseek-v4-pro", 100_000, 5_000, "0.7", "0.07975"),
        ("claude-opus-4.7", 100_000, 5_000, "0.7", "0.31"),
        ("deepseek-v4-flash", 1_000_000, 10_000, "0", "0.1428"),
        ("deepseek-v4-pro", 1_000_000, 10_000, "0", "1.7748"),
        ("claude-opus-4.7", 1_000_000, 10_000, "0", "5.25"),
        ("deepseek-v4-flash", 32_000_000, 1_000_000, "0", "4.76"),
        ("deepseek-v4-pro", 32_000_000, 1_000_000, "0", "59.16"),
        ("claude-opus-4.7", 32_000_000, 1_000_000, "0", "185"),
    ],
)
def test_the_worked_examples_follow_from_the_launch_card(
    model: str, input_tokens: int, output_tokens: int, hit_ratio: str, expected: str
) -> None:
    assert dollars(model, input_tokens, output_tokens, hit_ratio) == Decimal(expected)


@pytest.mark.parametrize(
    ("work", "flash", "pro", "opus"),
    [
        ((1_000, 1_000, "0"), "0.0004", "0.0052", "0.030"),
        ((100_000, 5_000, "0"), "0.0154", "0.1914", "0.625"),
        ((1_000_000, 10_000, "0"), "0.143", "1.775", "5.250"),
    ],
)
def test_the_amounts_that_were_published_are_the_exact_ones_rounded(
    work: tuple[int, int, str], flash: str, pro: str, opus: str
) -> None:
    for model, published in zip(sorted(CARD), (opus, flash, pro), strict=True):
        amount = Decimal(published)
        assert dollars(model, *work).quantize(amount, rounding=ROUND_HALF_UP) == amount


@pytest.mark.parametrize(
    ("model", "work", "published"),
    [
        ("deepseek-v4-flash", (100_000, 5_000, "0.7"), "0.0066"),
        ("deepseek-v4-pro", (100_000, 5_000, "0.7"), "0.0758"),
        ("deepseek-v4-flash", (32_000_000, 1_000_000, "0"), "4.762"),
        ("deepseek-v4-pro", (32_000_000, 1_000_000, "0"), "59.24"),
    ],
)
def test_four_published_amounts_do_not_follow_from_the_card(
    model: str, work: tuple[int, int, str], published: str
) -> None:
    """docs/prices.md names them, so that nobody takes them for ours."""
    amount = Decimal(published)
    assert dollars(model, *work).quantize(amount, rounding=ROUND_HALF_UP) != amount
    assert f"${published}" in PAGE


@given(model=st.sampled_from(sorted(CARD)), input_tokens=counts, output_tokens=counts, ratio=ratios)
def test_a_quote_is_the_formula_of_the_card(model: str, input_tokens: int, output_tokens: int, ratio: Decimal) -> None:
    """(hits x hit price + misses x miss price + output x output price) / 1,000,000, nothing rounded."""
    _, hit, miss, output = CARD[model]
    hits = int(input_tokens * ratio)
    expected = (hits * hit + (input_tokens - hits) * miss + output_tokens * output) / 1_000_000
    assert dollars(model, input_tokens, output_tokens, str(ratio)) == expected


@given(input_tokens=counts, output_tokens=counts, ratio=ratios)
def test_cached_and_other_tokens_are_the_prompt(input_tokens: int, output_tokens: int, ratio: Decimal) -> None:
    usage = expected_usage(input_tokens, output_tokens, ratio)
    assert usage.prompt_tokens == input_tokens
    assert usage.output_tokens == output_tokens
    assert 0 <= input_tokens * ratio - usage.hit_tokens < 1


@pytest.mark.parametrize(
    ("counted", "ratio", "expected"),
    [((-1, 0), "0", "negative"), ((0, -1), "0", "negative"), ((1, 1), "1.01", "between"), ((1, 1), "-0.1", "between")],
)
def test_impossible_work_is_refused(counted: tuple[int, int], ratio: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        expected_usage(*counted, Decimal(ratio))


def test_everything_in_force_is_quoted_and_peak_hours_beside_the_others() -> None:
    at = datetime(2026, 11, 21, tzinfo=UTC)
    found = quotes(PRICES, expected_usage(1000, 1000), at)
    assert {(quote.row.provider, quote.row.model) for quote in found} == {
        (row.provider, row.model) for row in PRICES.rows_at(at)
    }
    usual, peak = quotes(PRICES, expected_usage(1000, 1000), at, models=["deepseek-v4-pro"], providers=["deepseek"])
    assert (usual.hours, peak.hours) == (None, "deepseek-peak")
    assert peak.cost.total_usd == 2 * usual.cost.total_usd
    for quote in found:
        assert quote.cost == cost_usd(expected_usage(1000, 1000), quote.price)


def test_a_long_prompt_is_quoted_at_the_tier_it_reaches() -> None:
    def tier(tokens: int) -> tuple[int | None, Decimal]:
        (quote,) = quotes(PRICES, expected_usage(tokens, 0), LAUNCH, models=["gemini-3.1-pro"])
        return quote.above_tokens, quote.cost.total_usd

    assert tier(200_000) == (None, Decimal("0.4"))
    assert tier(200_001) == (200_000, Decimal("0.800004"))


def multiple(model: str, reference: str = "deepseek-v4-pro", above_tokens: int | None = None) -> Multiple:
    found = multiples(PRICES, LAUNCH, reference=reference)
    (one,) = [one for one in found if (one.model, one.above_tokens) == (model, above_tokens)]
    return one


@pytest.mark.parametrize(
    ("model", "part", "published"),
    [
        ("claude-opus-4.7", "output", "7.2"),
        ("gpt-5.4", "output", "4.3"),
        ("gpt-5.5", "output", "8.6"),
        ("gemini-3.1-pro", "output", "3.4"),
        ("claude-opus-4.7", "miss", "2.9"),
        ("gpt-5.4", "miss", "1.4"),
        ("claude-opus-4.7", "hit", "3.4"),
        ("gemini-3.1-pro", "hit", "1.4"),
    ],
)
def test_the_multipliers_of_the_launch_are_reproduced(model: str, part: str, published: str) -> None:
    assert round(getattr(multiple(model), part), 1) == Decimal(published)


def test_flash_was_89_times_cheaper_than_opus_and_pro_12_times_dearer_than_flash() -> None:
    assert round(multiple("claude-opus-4.7", "deepseek-v4-flash").output or 0) == 89
    assert round(multiple("deepseek-v4-pro", "deepseek-v4-flash").output or 0, 1) == Decimal("12.4")


def test_beyond_200_000_tokens_gemini_doubles_and_pro_was_the_cheapest_of_the_frontier() -> None:
    assert multiple("gemini-3.1-pro", above_tokens=200_000).price.miss == 2 * multiple("gemini-3.1-pro").price.miss
    for one in multiples(PRICES, LAUNCH, reference="deepseek-v4-pro"):
        assert one.model.startswith("deepseek") or (one.miss is not None and one.miss > 1)


def test_nothing_is_a_multiple_of_what_costs_nothing() -> None:
    free = Price(hit=Decimal(0), miss=Decimal(0), output=Decimal(0))
    row = PriceRow(provider="deepseek", model="m", since=LAUNCH, price=free, source="a test")
    (one,) = multiples(PriceCatalog(rows=(row,)), LAUNCH, reference="m")
    assert (one.hit, one.miss, one.output) == (None, None, None)


def test_without_a_reference_there_is_nothing_to_compare_with() -> None:
    assert multiples(PRICES, datetime(2026, 1, 1, tzinfo=UTC), reference="deepseek-v4-pro") == ()
