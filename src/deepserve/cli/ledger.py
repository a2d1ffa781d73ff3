"""`deepserve ledger`: check the ledger, and hand it out row by row."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO

import click
import msgspec

from deepserve.cli.instants import Instant
from deepserve.cli.settings import database_option, open_kept
from deepserve.config import Settings
from deepserve.store.ledger_row import LedgerRow

_SHOWN = 20


@click.group()
def ledger() -> None:
    """Check the ledger, in which every attempt at an answer is, and export it. Contents are not in it."""


@ledger.command()
@click.option("--since", type=Instant(), help="Only requests that arrived from this day or instant on, in UTC.")
@click.option("--until", type=Instant(is_end=True), help="Only requests that arrived before this, or on this day.")
@database_option
def verify(since: datetime | None, until: datetime | None, settings: Settings) -> None:
    """Price every row again, from its tokens and the id of its price, and tell each that comes out otherwise.

    Ends with 1 where one does.
    """
    from deepserve.catalog.price_table import load_prices
    from deepserve.metering.audit import audit
    from deepserve.store.ledger_record import LedgerRecord

    num_rows = 0

    def counted() -> Iterator[LedgerRow]:
        nonlocal num_rows
        for row in LedgerRecord(open_kept(settings)).rows(since=since, until=until):
            num_rows += 1
            yield row

    found = audit(counted(), load_prices())
    num_found = 0
    for difference in islice(found, _SHOWN):
        num_found += 1
        row = difference.row
        click.echo(
            f"{row.attempt_id} of request {row.request_id}, {row.arrived_at:%Y-%m-%d %H:%M}Z: {difference.problem}"
        )
    num_more = sum(1 for _ in found)
    if num_more:
        click.echo(f"and {num_more:,} more")
    waiting = _num_waiting(settings.state_dir)
    if waiting:
        click.echo(f"{waiting:,} rows wait in files: a server that runs, or else the next that starts, brings them in.")
    if num_found:
        raise click.ClickException(
            f"{num_found + num_more:,} of {num_rows:,} rows are not what their prices make them."
        )
    click.echo(f"{num_rows:,} rows, each exactly what its tokens and its price make it.")


@ledger.command()
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--since", type=Instant(), help="Only requests that arrived from this day or instant on, in UTC.")
@click.option("--until", type=Instant(is_end=True), help="Only requests that arrived before this, or on this day.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here, readable by you only.  [default: print]",
)
@database_option
def export(form: str, since: datetime | None, until: datetime | None, output: Path | None, settings: Settings) -> None:
    """Print every row, the oldest first. Amounts are whole pico-dollars: 10^12 are a dollar."""
    from deepserve.store.ledger_record import LedgerRecord

    rows = LedgerRecord(open_kept(settings)).rows(since=since, until=until)
    with _written(output) as file:
        if form == "csv":
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(LedgerRow.__struct_fields__)
            for row in rows:
                values = msgspec.structs.astuple(row)
                writer.writerow([_told(value) for value in values])
        else:
            for row in rows:
                file.write(msgspec.json.encode(row).decode() + "\n")


def _told(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


@contextmanager
def _written(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        return
    from deepserve.store.private_file import create_private

    try:
        with (
            create_private(path) as descriptor,
            open(descriptor, "w", encoding="utf-8", newline="", closefd=False) as file,
        ):
            yield file
    except FileExistsError as error:
        raise click.ClickException(f"{path} is there already: choose another name.") from error
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from error


def _num_waiting(state_dir: Path | None) -> int:
    from deepserve.store.journal import num_lines

    return 0 if state_dir is None else num_lines(state_dir)
