"""Prices that change while the server runs."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from deepserve.catalog.price_book import PriceBook
from deepserve.catalog.price_table import load_prices
from deepserve.core.errors import ConfigurationError

NOW = datetime(2026, 11, 21, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time_s = 0.0

    def __call__(self) -> float:
        return self.time_s


def write(path: Path, miss: str) -> None:
    """In place, so that only time and size tell that it changed."""
    path.write_text(
        '[[price]]\nprovider = "deepseek"\nmodel = "deepseek-v4-pro"\nsince = 2026-01-01T00:00:00Z\n'
        f'price = {{ miss = {miss}, output = "1" }}\nsource = "we"\n'
    )
    os.utime(path, ns=(0, sum(miss.encode())))


def miss(book: PriceBook) -> Decimal:
    price = book.price_at("deepseek-v4-pro", NOW)
    assert price is not None
    return price.miss


def test_without_a_file_the_shipped_prices_hold() -> None:
    book = PriceBook()
    assert book.current() == load_prices()
    assert book.problem is None


def test_a_changed_file_is_in_force_a_second_later(tmp_path: Path) -> None:
    path, clock = tmp_path / "own.toml", Clock()
    write(path, '"1"')
    book = PriceBook(path, clock=clock)
    write(path, '"22"')
    assert miss(book) == 1
    clock.time_s = 1.0
    assert miss(book) == 22


def test_a_file_with_a_fault_keeps_the_old_prices_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "own.toml", Clock()
    write(path, '"1"')
    book = PriceBook(path, clock=clock)
    write(path, "2.5")
    with caplog.at_level(logging.ERROR):
        for clock.time_s in (1.0, 2.0, 3.0):
            assert miss(book) == 1
    assert [record.message for record in caplog.records] == [f"The prices stay as they were: {book.problem}"]
    assert book.problem is not None
    assert "`price.miss` is a float" in book.problem
    write(path, '"333"')
    clock.time_s = 4.0
    assert miss(book) == 333
    assert book.problem is None


def test_a_file_that_is_gone_keeps_the_old_prices_and_is_told(tmp_path: Path) -> None:
    path, clock = tmp_path / "own.toml", Clock()
    write(path, '"1"')
    book = PriceBook(path, clock=clock)
    path.unlink()
    clock.time_s = 1.0
    assert miss(book) == 1
    assert book.problem is not None
    assert "No such file" in book.problem


def test_a_faulty_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    write(path, "2.5")
    with pytest.raises(ConfigurationError, match=r"own\.toml, line 1: \[\[price\]\] row 1"):
        PriceBook(path)
