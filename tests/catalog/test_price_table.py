"""Price tables that are taken, and those that are refused with the row at fault."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from deepserve.catalog.models import load_models
from deepserve.catalog.price_table import load_prices, read_own_prices, read_prices
from deepserve.catalog.prices import PriceCatalog
from deepserve.core.errors import ConfigurationError

ROW = """
[[price]]
provider = "deepseek"
model = "deepseek-v4-pro"
since = 2026-05-01T00:00:00Z
price = { hit = "0.1", miss = "1", output = "2" }
source = "our contract"
"""

HOURS = """
[[hours]]
name = "night"
since = 2026-05-01T00:00:00Z
windows_utc = [["00:00", "06:00"], ["22:00", "24:00"]]
source = "our contract"
"""

MAY = datetime(2026, 5, 2, tzinfo=UTC)


def read(text: str) -> PriceCatalog:
    return read_prices(text, name="own.toml", names=load_models(), shipped=load_prices())


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    return caught.value.message


def test_every_shipped_row_says_where_it_is_from() -> None:
    prices = load_prices()
    for rows in (prices.rows, prices.hours, prices.providers, prices.models, prices.scores):
        assert rows
        assert all(row.source.strip() for row in rows)


def test_every_model_to_compare_with_has_a_price_of_its_vendor() -> None:
    prices = load_prices()
    for model in prices.models:
        assert prices.row_at(model.id, MAY, provider=model.vendor) is not None


def test_an_operators_row_goes_before_all_shipped_ones_from_its_beginning_on() -> None:
    prices = read(ROW)
    for instant in (MAY, datetime(2026, 11, 18, 2, tzinfo=UTC)):
        price = prices.price_at("deepseek-v4-pro", instant)
        assert price is not None
        assert (price.hit, price.miss, price.output) == (Decimal("0.1"), Decimal(1), Decimal(2))
    before = datetime(2026, 4, 30, tzinfo=UTC)
    assert prices.price_at("deepseek-v4-pro", before) == load_prices().price_at("deepseek-v4-pro", before)


def test_once_an_operators_row_has_ended_the_shipped_ones_hold_again() -> None:
    prices = read(ROW.replace("price =", "until = 2026-06-01T00:00:00Z\nprice ="))
    june = datetime(2026, 6, 1, tzinfo=UTC)
    assert prices.price_at("deepseek-v4-pro", june) == load_prices().price_at("deepseek-v4-pro", june)


def test_an_empty_table_changes_nothing() -> None:
    assert read("") == load_prices()


def test_an_operator_may_add_providers_models_and_hours() -> None:
    prices = read(
        HOURS
        + """
[[provider]]
id = "cluster"
title = "Our cluster"
source = "we"

[[model]]
id = "llama"
title = "Llama"
vendor = "cluster"
source = "we"
"""
        + ROW.replace('"deepseek"', '"cluster"')
        .replace("deepseek-v4-pro", "llama")
        .replace("source", 'windows = [{ hours = "night", price = { miss = "0.5", output = 1 } }]\nsource')
    )

    def miss(hour: int) -> Decimal:
        price = prices.price_at("llama", datetime(2026, 5, 2, hour, 59, tzinfo=UTC), provider="cluster")
        assert price is not None
        return price.miss

    assert [miss(hour) for hour in (5, 6, 21, 22, 23)] == [Decimal(text) for text in ("0.5", "1", "1", "0.5", "0.5")]


WINDOWS = 'windows = [{ hours = "night", price = { miss = "1", output = "1" } }'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROW.replace('source = "our contract"', ""), "`source` is missing; say who says so and when"),
        (ROW.replace("our contract", "  "), "`source` is missing"),
        (ROW.replace("since = 2026-05-01T00:00:00Z", ""), "`since` is missing; write the instant"),
        (ROW.replace('"0.1"', "0.1"), '`price.hit` is a float, 0.1, which is not exact: write "0.1"'),
        (ROW.replace('"0.1"', '"0.0000001"'), "at most six decimals"),
        (ROW.replace('"0.1"', '"-1"'), "`price.hit` is '-1'; an amount is a decimal string"),
        (ROW.replace('"0.1"', '"1e3"'), "`price.hit` is '1e3'"),
        (ROW.replace('"0.1"', '"NaN"'), "`price.hit` is 'NaN'"),
        (ROW.replace('"0.1"', "true"), "`price.hit` is True"),
        (ROW.replace(', output = "2"', ""), "`price.output` is missing"),
        (ROW.replace('output = "2"', 'output = "2", cached = "1"'), "unknown field `cached`"),
        (
            ROW.replace("deepseek-v4-pro", "deepseek-v5"),
            "`model` is 'deepseek-v5', and there is no such model; known: ",
        ),
        (ROW.replace("deepseek-v4-pro", "deepseek-chat"), "which is another name of deepseek-v4-flash: write that"),
        (
            ROW.replace('"deepseek"', '"nobody"'),
            "`provider` is 'nobody', and there is no such provider; known: deepseek,",
        ),
        (ROW.replace("00:00Z", "00:00"), "`since` lacks its offset from UTC: write 2026-05-01T00:00:00Z"),
        (ROW.replace("T00:00:00Z", ""), "`since` is a day; write the instant, 2026-05-01T00:00:00Z"),
        (ROW.replace("2026-05-01T00:00:00Z", '"soon"'), "Invalid RFC3339 encoded datetime"),
        (ROW.replace("price =", "prize = 1\nprice ="), "unknown field `prize`"),
        (ROW.replace("price =", "until = 2026-05-01T00:00:00Z\nprice ="), "`until` is not after `since`"),
        (ROW.replace("00:00:00Z", "00:00:30Z"), "begins and ends with a minute"),
        (
            ROW + ROW,
            "it overlaps the row of the same provider and model since 2026-05-01T00:00:00Z: two prices would hold at "
            "2026-05-01T00:00:00Z",
        ),
        (
            ROW.replace("price =", "until = 2026-07-01T00:00:00Z\nprice =") + ROW.replace("2026-05", "2026-06"),
            "two prices would hold at 2026-06-01T00:00:00Z",
        ),
        (HOURS.replace('"06:00"', '"23:00"'), "the windows 00:00-23:00 and 22:00-24:00 overlap"),
        (HOURS.replace('"06:00"', '"00:00"'), "the window 00:00-00:00 ends before it begins; split it at midnight"),
        (HOURS.replace('"06:00"', '"6:00"'), 'is not written as ["01:00", "04:00"]'),
        (HOURS.replace('"06:00"', "06:00:00"), '`windows_utc[0][1]` is a time of day; write it as a string, "06:00"'),
        (HOURS.replace("source", "weekdays = [7]\nsource"), "`weekdays` are numbers from 0, Monday"),
        (HOURS.replace("source", "weekdays = []\nsource"), "it has no windows, or no weekdays"),
        (HOURS + HOURS, "the same name and beginning already"),
        (ROW + WINDOWS + "]", "`windows[0].hours` is 'night', and there is no such hours"),
        (
            HOURS + ROW + WINDOWS + ', { hours = "deepseek-peak", price = { miss = "1", output = "1" } }]',
            "its windows overlap: night and deepseek-peak share hours of a day",
        ),
        (HOURS + ROW + WINDOWS + ', { hours = "night", price = { miss = "1", output = "1" } }]', "its windows overlap"),
        (
            ROW + 'tiers = [{ above_tokens = 10, price = { miss = "1", output = "1" } }]',
            "what answers here are charged by cannot have tiers",
        ),
        (
            ROW.replace('"deepseek"', '"deepinfra"')
            + 'tiers = [{ above_tokens = 0, price = { miss = "1", output = "1" } }]',
            "are not positive and rising",
        ),
        (
            HOURS
            + ROW.replace('"deepseek"', '"deepinfra"')
            + WINDOWS
            + ']\ntiers = [{ above_tokens = 1, price = { miss = "1", output = "1" } }]',
            "it has both windows and tiers",
        ),
        ("[[prices]]", "there is nothing called 'prices'; rows begin with [[provider]], [[hours]]"),
        ("price = 1", "price is not a list of rows; each begins with [[price]]"),
        ("price = [1]", "price is not a list of rows"),
        ("[[price]", "own.toml is not TOML"),
        (
            '[[score]]\nmodel = "gpt-5.5"\nindex = "good"\nsource = "we"',
            "`index` is 'good'; a score is a decimal number",
        ),
        ('[[score]]\nmodel = "gpt-9"\nindex = "9"\nsource = "we"', "`model` is 'gpt-9', and there is no such model"),
        (
            '[[model]]\nid = "a"\ntitle = "A"\nvendor = "b"\nsource = "we"',
            "`vendor` is 'b', and there is no such provider",
        ),
        (
            '[[model]]\nid = "deepseek-v4-pro"\ntitle = "A"\nvendor = "deepseek"\nsource = "we"',
            "deepseek-v4-pro is served",
        ),
        ('[[provider]]\nid = "a"\ntitle = "A"\nsource = "we"\n' * 2, "'a' is there twice"),
    ],
)
def test_a_table_with_a_fault_is_refused_with_the_fault(text: str, expected: str) -> None:
    message = refusal(text)
    assert expected in message
    assert message.startswith("own.toml")


def test_a_refusal_names_the_file_the_line_and_the_row() -> None:
    second = ROW.replace("2026-05", "2026-06").replace('"0.1"', "0.1")
    assert refusal(ROW + second).startswith(
        "own.toml, line 9: [[price]] row 2 (deepseek deepseek-v4-pro since 2026-06-01T00:00:00Z): `price.hit` is a "
    )


def test_rows_in_one_line_are_told_by_their_number() -> None:
    assert refusal('price = [{ model = "m" }]').startswith("own.toml: [[price]] row 1 (m): `provider` is missing")


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(ConfigurationError) as caught:
            read_own_prices(path, load_prices())
        return caught.value.message

    assert "No such file" in message(tmp_path / "none.toml")
    assert "Is a directory" in message(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"# \xff")
    assert "is not UTF-8 text (byte 2)" in message(tmp_path / "bytes.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (2 << 20))
    assert "is larger than 1,048,576 bytes" in message(tmp_path / "long.toml")
