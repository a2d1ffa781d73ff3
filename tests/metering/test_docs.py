"""What docs/ledger.md says, held to the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import msgspec

from deepserve.catalog.price_table import load_prices
from deepserve.catalog.prices import own_price
from deepserve.config import LedgerLimits
from deepserve.core.cost import usd_of
from deepserve.store.ledger_row import Dimension
from tests.metering.setup import Saying, metered

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()


def test_the_settings_are_those_of_the_code() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    shown = msgspec.convert(tomllib.loads(block)["ledger"], LedgerLimits)
    assert msgspec.structs.replace(shown, sync="normal") == LedgerLimits()
    assert f"After {LedgerLimits().refuse_after_s:g} s new requests" in PAGE
    assert f"end after {LedgerLimits().wait_s:g} s" in PAGE


def test_the_prices_it_names_are_prices() -> None:
    named = re.findall(r"`(deepseek/[^`]*@[^`]*)`", PAGE)
    assert named
    assert set(named) <= load_prices().points().keys()
    assert own_price("deepseek/deepseek-v4-pro@2026-05-01T00:00Z=0.1/0.2/0.4") is not None


def test_a_dollar_has_as_many_pico_dollars_as_it_says() -> None:
    [number] = re.findall(r"([\d,]+) are a dollar", PAGE)
    assert usd_of(int(number.replace(",", ""))) == 1


def test_every_dimension_is_named() -> None:
    for dimension in set(get_args(Dimension)) - {"outcome", "price"}:
        assert re.search(rf"--by {dimension}\b|[ ,]{dimension}[,\s]", PAGE), dimension


def test_the_metrics_are_those_of_the_gateway() -> None:
    gateway, _ = metered(Saying())
    assert "usage_repaired" in gateway.gauges()
    assert "_usage_repaired" in PAGE
