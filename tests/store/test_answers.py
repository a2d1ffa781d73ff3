"""Reading the record of what was answered."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from deepserve.core.request import RequestId
from deepserve.core.tenant import TenantId
from deepserve.core.usage import Usage
from deepserve.store.answers import AnswerRecord
from deepserve.store.database import open_database
from deepserve.store.tables import answers

AT = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
ME, OTHER = TenantId("me"), TenantId("other")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(tmp_path)
    rows = [
        {
            "request_id": f"{number:032x}",
            "tenant_id": "other" if number == 4 else "me",
            "model": "deepseek-v4-pro" if number < 3 else "deepseek-v4-flash",
            "served_by": "deepserve/x",
            "fingerprint": "fp",
            "arrived_at": AT + timedelta(seconds=20 * number),
            "hit_tokens": 1,
            "miss_tokens": 2,
            "reasoning_tokens": 3,
            "answer_tokens": 4,
            "num_results": 1,
            "outcome": "stop",
        }
        for number in range(5)
    ]
    with engine.begin() as connection:
        connection.execute(insert(answers), rows)
    yield engine
    engine.dispose()


def test_an_answer_is_found_by_its_own_tenant_alone(engine: Engine) -> None:
    record, request_id = AnswerRecord(engine), RequestId(f"{2:032x}")
    found = record.find(ME, request_id)
    assert found is not None
    assert (found.arrived_at, found.model) == (AT + timedelta(seconds=40), "deepseek-v4-pro")
    assert record.find(OTHER, request_id) is None


def test_pages_begin_with_the_newest(engine: Engine) -> None:
    record = AnswerRecord(engine)
    assert record.count(ME) == 4
    numbers = [int(row.request_id, 16) for first in (0, 3) for row in record.page(ME, first=first, size=3)]
    assert numbers == [3, 2, 1, 0]


def test_sums_keep_models_and_minutes_apart_and_lose_no_token(engine: Engine) -> None:
    sums = AnswerRecord(engine).sums(ME)
    minute = AT.replace(second=0)
    assert [(one.model, one.minute, one.usage.total_tokens) for one in sums] == [
        ("deepseek-v4-pro", minute, 20),
        ("deepseek-v4-pro", minute + timedelta(minutes=1), 10),
        ("deepseek-v4-flash", minute + timedelta(minutes=1), 10),
    ]
    total = Usage()
    for one in sums:
        total = total.plus(one.usage)
    assert total == Usage(hit_tokens=4, miss_tokens=8, reasoning_tokens=12, answer_tokens=16)


def test_without_a_database_there_is_nothing_to_find() -> None:
    record = AnswerRecord(None)
    assert record.find(ME, RequestId("0" * 32)) is None
    assert (record.count(ME), record.sums(ME), record.page(ME, first=0, size=1)) == (0, [], [])
