"""Reading the ledger, and the rows that came from older releases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from alembic import command
from alembic.config import Config
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, insert, text

from deepserve.catalog.price_table import load_prices
from deepserve.catalog.prices import pico_usd_of_tokens
from deepserve.core.request import RequestId
from deepserve.core.tenant import TenantId
from deepserve.core.usage import Usage
from deepserve.store.database import open_database
from deepserve.store.ledger_record import LedgerRecord
from deepserve.store.ledger_row import Dimension, LedgerRow
from deepserve.store.tables import ledger
from tests.store.ledger_rows import NOON, row

ME, OTHER = TenantId("me"), TenantId("other")


def write(engine: Engine, *rows: LedgerRow) -> LedgerRecord:
    with engine.begin() as connection:
        connection.execute(
            insert(ledger), [{name: getattr(one, name) for name in LedgerRow.__struct_fields__} for one in rows]
        )
    return LedgerRecord(engine)


@pytest.fixture
def record(database: Engine) -> Iterator[LedgerRecord]:
    """Four requests, the second of which took two attempts; the last is another tenant's."""
    rows = [
        row(
            f"{number}",
            request_id=f"{number:032x}",
            tenant_id="other" if number == 3 else "me",
            model="deepseek-v4-pro" if number < 2 else "deepseek-v4-flash",
            arrived_at=NOON + timedelta(hours=8 * number),
            key_id="key" if number else None,
        )
        for number in range(4)
    ]
    second = row(
        "1-2",
        request_id=f"{1:032x}",
        number=2,
        tenant_id="me",
        arrived_at=rows[1].arrived_at,
        outcome="overloaded",
        is_estimated=True,
        stated_pico_usd=5_000_000,
        key_id="key",
    )
    yield write(database, *rows, second)
    database.dispose()


COST = row("x").total_pico_usd


def test_an_answer_is_found_by_its_own_tenant_alone(record: LedgerRecord) -> None:
    found = record.find(ME, RequestId(f"{2:032x}"))
    assert found is not None
    assert (found.arrived_at, found.model) == (NOON + timedelta(hours=16), "deepseek-v4-flash")
    assert record.find(OTHER, RequestId(f"{2:032x}")) is None


def test_attempts_at_one_request_are_one_answer(record: LedgerRecord) -> None:
    found = record.find(ME, RequestId(f"{1:032x}"))
    assert found is not None
    assert (found.num_attempts, found.outcome, found.cost_pico_usd) == (2, "overloaded", 2 * COST)
    assert found.usage.prompt_tokens == 2 * 138


def test_pages_begin_with_the_newest(record: LedgerRecord) -> None:
    assert record.count(ME) == 3
    numbers = [int(one.request_id, 16) for first in (0, 2) for one in record.page(ME, first=first, size=2)]
    assert numbers == [2, 1, 0]


def test_what_was_spent_is_counted_from_an_instant_on(record: LedgerRecord) -> None:
    assert record.spent_pico_usd(ME) == 4 * COST
    assert record.spent_pico_usd(ME, NOON + timedelta(hours=8)) == 3 * COST
    assert record.spent_pico_usd(OTHER) == COST


def test_sums_are_kept_apart_by_what_is_asked_for(record: LedgerRecord) -> None:
    by_day = record.sums(("tenant", "day"))
    assert [(one.group, one.num_requests, one.num_attempts) for one in by_day] == [
        (("me", "2026-11-01"), 2, 3),
        (("me", "2026-11-02"), 1, 1),
        (("other", "2026-11-02"), 1, 1),
    ]
    (total,) = record.sums()
    assert (total.num_failed, total.num_estimated, total.num_stated) == (1, 1, 1)
    assert (total.cost_pico_usd, total.stated_pico_usd, total.compared_pico_usd) == (5 * COST, 5_000_000, COST)
    assert total.usage == Usage(
        hit_tokens=640, miss_tokens=50, reasoning_tokens=15, answer_tokens=25, is_estimated=True
    )
    assert [one.group for one in record.sums(("key",))] == [("",), ("key",)]
    bounded = record.sums(since=NOON + timedelta(hours=8), until=NOON + timedelta(hours=16))
    assert [one.num_attempts for one in bounded] == [2]
    assert record.sums(tenant="nobody") == []


def test_every_dimension_can_be_asked_for(record: LedgerRecord) -> None:
    for dimension in get_args(Dimension):
        assert sum(one.num_attempts for one in record.sums((dimension,))) == 5, dimension


def test_sums_are_exact_beyond_what_a_database_can_count(database: Engine) -> None:
    """Nine million dollars of pico-dollars are more than 64 bits."""
    record = write(database, *(row(str(number), tenant_id="me", output_pico_usd=2**62 + 1) for number in range(9)))
    expected = 9 * (2**62 + 1 + row("x").hit_pico_usd + row("x").miss_pico_usd)
    assert expected > 2**63
    assert record.spent_pico_usd(ME) == expected
    assert record.sums()[0].cost_pico_usd == expected


def test_all_rows_are_read_in_the_order_of_time(database: Engine) -> None:
    rows = [row(f"{number:05}", arrived_at=NOON + timedelta(seconds=number)) for number in range(2_050)]
    record = write(database, *reversed(rows))
    assert list(record.rows()) == rows
    assert list(record.rows(since=rows[5].arrived_at, until=rows[7].arrived_at)) == rows[5:7]


def test_without_a_database_there_is_nothing_to_find() -> None:
    record = LedgerRecord(None)
    assert record.find(ME, RequestId("0" * 32)) is None
    assert (record.count(ME), record.sums(), record.page(ME, first=0, size=1)) == (0, [], [])
    assert (record.spent_pico_usd(ME), list(record.rows())) == (0, [])


# From older releases.


def _migration() -> object:
    import importlib

    return importlib.import_module("deepserve.store.migrations.versions.0007_ledger")


@given(
    model=st.sampled_from(["deepseek-v4-flash", "deepseek-v4-pro", "deepseek-v9"]),
    at=st.datetimes(datetime(2026, 4, 1), datetime(2026, 12, 31), timezones=st.just(UTC)),
)
def test_the_prices_of_old_rows_are_those_of_the_catalog(model: str, at: datetime) -> None:
    found = _migration().list_price(model, at)  # type: ignore[attr-defined]  # a module
    point = load_prices().point_at(model, at)
    assert found == (None if point is None else (point.id, pico_usd_of_tokens(point.price)))


def test_rows_of_the_old_record_come_along_with_what_they_cost(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'deepserve.db'}")
    config = Config()
    config.set_main_option("script_location", "deepserve.store:migrations")
    peak = datetime(2026, 8, 18, 2, 30, tzinfo=UTC)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        for name, outcome, at in (
            ("good", "stop", peak),
            ("bad", "engine_failure", peak),
            ("left", "client_left", NOON),
        ):
            connection.execute(
                text(
                    "INSERT INTO answers VALUES (:name, 'me', 'deepseek-v4-pro', 'deepserve/mini', 'fp', :at, "
                    "100, 10, 3, 4, 1, :outcome, 'checked=valid', 'a=b')"
                ),
                {"name": name, "outcome": outcome, "at": at.strftime("%Y-%m-%d %H:%M:%S.%f")},
            )
    engine.dispose()
    record = LedgerRecord(open_database(tmp_path))
    rows = {one.request_id: one for one in record.rows()}
    assert set(rows) == {"good", "bad", "left"}
    good = rows["good"]
    assert (good.price, good.hit_pico_usd, good.miss_pico_usd, good.output_pico_usd) == (
        "deepseek/deepseek-v4-pro@2026-08-16T16:00Z/deepseek-peak",
        100 * 44_000,
        10 * 1_320_000,
        7 * 3_960_000,
    )
    assert (good.arrived_at, good.provider, good.checked, good.route) == (peak, "deepserve", "checked=valid", "a=b")
    assert (rows["bad"].total_pico_usd, rows["bad"].price) == (0, None)
    assert rows["left"].total_pico_usd > 0
    assert record.count(ME) == 3
