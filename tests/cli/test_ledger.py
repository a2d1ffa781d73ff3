"""`deepserve usage` and `deepserve ledger`: what they print, and whether it is exact."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import insert

from deepserve.cli import main
from deepserve.cli.bars import format_bars
from deepserve.core.cost import usd_of
from deepserve.store.database import open_database
from deepserve.store.ledger_row import LedgerRow
from deepserve.store.tables import ledger as ledger_table
from tests.store.ledger_rows import NOON, row

CODING = "model=deepseek-v4-pro; thinking=high; rule=hard; preset=auto:coding-agent; why=the client says so"

ROWS = (
    row("1", key_id="alice", dialect="openrouter"),
    row("2", key_id="bob", arrived_at=NOON + timedelta(days=1), ended_at=None, outcome="overloaded"),
    row(
        "3",
        arrived_at=NOON + timedelta(days=1),
        ended_at=None,
        route=CODING,
        stated_pico_usd=7_000_000,
        is_estimated=True,
    ),
    row("3b", request_id="request-3", number=2, arrived_at=NOON + timedelta(days=1), ended_at=None, route=CODING),
)
COST = row("x").total_pico_usd


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    database = open_database(tmp_path)
    with database.begin() as connection:
        connection.execute(
            insert(ledger_table), [{name: getattr(one, name) for name in LedgerRow.__struct_fields__} for one in ROWS]
        )
    yield tmp_path
    database.dispose()


def run(state: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, [*arguments, "--state-dir", str(state)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def usage_json(state: Path, *arguments: str) -> list[dict[str, object]]:
    code, output = run(state, "usage", "--json", *arguments)
    assert code == 0, output
    found = json.loads(output)
    assert Decimal(found["total"]["cost_usd"]) == sum(Decimal(one["cost_usd"]) for one in found["sums"])
    sums: list[dict[str, object]] = found["sums"]
    return sums


def test_usage_is_a_table_with_what_providers_stated_beside_our_prices(state: Path) -> None:
    code, output = run(state, "usage")
    assert code == 0
    assert "deepseek-v4-flash  deepseek" in output
    assert "1 of 4 attempts told no usage" in output
    assert f"{usd_of(4 * COST):.6f}" in output
    difference = usd_of(7_000_000 - COST)
    assert f"Providers stated the cost of 1 attempts: 0.000007 USD, {difference:.6f} more" in output


def test_sums_are_kept_apart_by_key_day_dialect_and_pattern(state: Path) -> None:
    assert [(one["key"], one["requests"]) for one in usage_json(state, "--by", "key")] == [
        ("", 1),
        ("alice", 1),
        ("bob", 1),
    ]
    by_day = usage_json(state, "--by", "day", "--by", "dialect")
    assert [(one["day"], one["dialect"], one["attempts"], one["failed"]) for one in by_day] == [
        ("2026-11-01", "openrouter", 1, 0),
        ("2026-11-02", "chat", 3, 1),
    ]
    patterns = usage_json(state, "--by", "pattern", "--by", "rule")
    assert [(one["pattern"], one["rule"], one["requests"], one["attempts"]) for one in patterns] == [
        ("", "", 2, 2),
        ("auto:coding-agent", "hard", 1, 2),
    ]
    assert len(usage_json(state, "--since", "2026-11-02")) == 1
    assert usage_json(state, "--until", "2026-11-01", "--by", "key")[0]["key"] == "alice"
    assert run(state, "usage", "--since", "2027-01-01") == (0, "Nothing has been answered.\n")


def test_csv_is_exact(state: Path) -> None:
    code, output = run(state, "usage", "--by", "key", "--csv")
    assert code == 0
    lines = list(csv.DictReader(io.StringIO(output)))
    assert [line["key"] for line in lines] == ["", "alice", "bob"]
    assert sum(Decimal(line["cost_usd"]) for line in lines) == usd_of(4 * COST)
    assert run(state, "usage", "--csv", "--since", "2027-01-01") == (0, "model,provider\n")


def test_a_chart_shows_what_each_cost(state: Path) -> None:
    code, output = run(state, "usage", "--by", "day", "--chart")
    assert code == 0
    first, second = output.splitlines()
    assert second.count("█") == 40
    assert first.count("█") == 13
    assert first.startswith("2026-11-01")
    assert run(state, "usage", "--chart", "--csv")[0] == 2


def test_a_bar_of_something_is_not_empty() -> None:
    text = format_bars([("a", Decimal(1), "x"), ("bb", Decimal(10**9), "y"), ("c", Decimal(0), "z")], width=4)
    assert text == "a   ▏ x\nbb  ████ y\nc   z"
    assert format_bars([]) == ""


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01"])
def test_a_date_that_is_none_is_refused_with_an_example(state: Path, text: str) -> None:
    code, output = run(state, "usage", "--since", text)
    assert (code, "2026-04-24" in output) == (2, True)


def test_a_ledger_that_comes_out_is_said_to(state: Path) -> None:
    assert run(state, "ledger", "verify") == (0, "4 rows, each exactly what its tokens and its price make it.\n")


def test_a_row_that_was_tampered_with_is_found(state: Path) -> None:
    with open_database(state).begin() as connection:
        connection.exec_driver_sql("UPDATE ledger SET output_pico_usd = 1 WHERE attempt_id = 'attempt-2'")
        connection.exec_driver_sql("UPDATE ledger SET price = 'nobody/knows@2026' WHERE attempt_id = 'attempt-3'")
    code, output = run(state, "ledger", "verify")
    assert code == 1
    assert "attempt-2 of request request-2" in output
    assert "4800000 is what deepseek/deepseek-v4-flash@2026-09-10T04:00Z makes of them" in output
    assert "there is no price nobody/knows@2026" in output
    assert "2 of 4 rows" in output
    assert run(state, "ledger", "verify", "--until", "2026-11-01")[0] == 0


def test_rows_that_wait_in_files_are_told(state: Path) -> None:
    (state / "ledger-x.journal").write_text("{}\n{}\n")
    assert "2 rows wait in files" in run(state, "ledger", "verify")[1]


def test_an_export_is_every_row(state: Path, tmp_path: Path) -> None:
    code, output = run(state, "ledger", "export")
    assert code == 0
    assert [msgspec.json.decode(line, type=LedgerRow) for line in output.splitlines()] == list(ROWS)
    _, table = run(state, "ledger", "export", "--format", "csv", "--since", "2026-11-02")
    lines = list(csv.DictReader(io.StringIO(table)))
    assert [line["attempt_id"] for line in lines] == ["attempt-2", "attempt-3", "attempt-3b"]
    assert lines[0]["arrived_at"] == "2026-11-02T12:00:00+00:00"
    path = tmp_path / "out.jsonl"
    assert run(state, "ledger", "export", "--output", str(path)) == (0, "")
    assert path.read_text() == output
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600
    code, refused = run(state, "ledger", "export", "--output", str(path))
    assert (code, "is there already" in refused) == (1, True)


def test_a_request_is_found_by_the_id_of_its_answer(state: Path) -> None:
    code, text = run(state, "usage", "--request", "request-3")
    assert code == 0
    header, _, *lines = text.splitlines()
    assert header.split()[0] == "attempt"
    assert [line.split()[0] for line in lines] == ["1", "2"]
    code, text = run(state, "usage", "--request", "request-3", "--json")
    assert [one["attempt_id"] for one in json.loads(text)] == ["attempt-3", "attempt-3b"]
    assert run(state, "usage", "--request", "request-3", "--tenant", "nobody", "--json")[1].strip() == "[]"


def test_a_request_that_the_ledger_lacks_and_other_questions_beside_it_are_refused(state: Path) -> None:
    code, text = run(state, "usage", "--request", "nothing")
    assert code == 1
    assert "`request-id`" in text
    code, text = run(state, "usage", "--request", "request-3", "--by", "day")
    assert code == 2
    assert "--request shows one request whole" in text
