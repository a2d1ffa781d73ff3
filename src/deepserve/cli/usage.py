"""`deepserve usage`: what has been answered, and what it cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from deepserve.cli.bars import format_bars
from deepserve.cli.cost_report import shown_instant
from deepserve.cli.instants import Instant
from deepserve.cli.settings import database_option, open_kept
from deepserve.cli.table import format_table
from deepserve.config import Settings
from deepserve.core.cost import usd_of
from deepserve.store.ledger_row import Dimension, LedgerRow

if TYPE_CHECKING:
    from deepserve.store.ledger_record import LedgerSum

_NOTHING = "–"


@click.command()
@click.option(
    "--by",
    "dimensions",
    type=click.Choice(get_args(Dimension)),
    multiple=True,
    help="Keep sums apart by this. Repeatable.  [default: model, provider]",
)
@click.option("--since", type=Instant(), help="Only requests that arrived from this day or instant on, in UTC.")
@click.option("--until", type=Instant(is_end=True), help="Only requests that arrived before this, or on this day.")
@click.option("--tenant", help="Only this tenant.")
@click.option(
    "--request", "request_id", metavar="ID", help="Every attempt at one request, by the id its answer carried."
)
@click.option("--chart", "is_chart", is_flag=True, help="Draw what each cost.")
@click.option("--csv", "is_csv", is_flag=True, help="Print CSV; amounts are exact.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON; amounts are exact, as strings.")
@database_option
def usage(
    dimensions: tuple[Dimension, ...],
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    request_id: str | None,
    is_chart: bool,
    is_csv: bool,
    is_json: bool,
    settings: Settings,
) -> None:
    """Show how much was answered, and what it cost.

    \b
      deepserve usage --by day --chart
      deepserve usage --by key --by model --since 2026-11-01
      deepserve usage --by pattern --csv > patterns.csv
      deepserve usage --request 2f1c6a0e9b7d4c53a8e0d1f2b3c4d5e6
    """
    if is_chart + is_csv + is_json > 1:
        raise click.UsageError("--chart, --csv and --json are different outputs: choose one.")
    from deepserve.store.ledger_record import LedgerRecord

    by: Sequence[Dimension] = dimensions or ("model", "provider")
    record = LedgerRecord(open_kept(settings))
    if request_id is not None:
        if dimensions or since or until or is_chart or is_csv:
            raise click.UsageError("--request shows one request whole: only --tenant and --json go with it.")
        click.echo(_attempts(record.attempts(request_id, tenant=tenant), request_id, is_json=is_json))
        return
    sums = record.sums(by, since=since, until=until, tenant=tenant)
    if is_csv:
        click.echo(_csv(by, sums), nl=False)
    elif is_json:
        totals = record.sums((), since=since, until=until, tenant=tenant)
        click.echo(_json(by, sums, totals, since, until))
    elif not sums:
        click.echo("Nothing has been answered" + ("." if since or until or tenant else " yet."))
    elif is_chart:
        click.echo(_chart(sums))
    else:
        [total] = record.sums((), since=since, until=until, tenant=tenant)
        click.echo(_table(by, sums, total))


def _attempts(rows: Sequence[LedgerRow], request_id: str, *, is_json: bool) -> str:
    if is_json:
        return msgspec.json.format(msgspec.json.encode(rows)).decode()
    if not rows:
        raise click.ClickException(
            f"The ledger has no request {request_id}. Its id is in the answer's header `request-id`, whatever "
            "`x-request-id` the client sent."
        )
    header = ("attempt", "arrived", "tenant", "key", "asked for", "answered", "prompt", "hit", "output", "USD", "end")
    lines = [
        (
            str(row.number),
            shown_instant(row.arrived_at),
            row.tenant_id,
            row.key_id or _NOTHING,
            row.model,
            row.served_by,
            f"{row.usage.prompt_tokens:,}",
            f"{row.hit_tokens:,}",
            f"{row.usage.output_tokens:,}",
            _usd(usd_of(row.total_pico_usd)),
            row.outcome,
        )
        for row in rows
    ]
    return format_table(header, lines)


def _table(by: Sequence[Dimension], sums: Sequence[LedgerSum], total: LedgerSum) -> str:
    has_stated = any(one.num_stated for one in sums)
    header = (*by, "requests", "failed", "prompt", "hit", "reasoning", "answer", "USD")
    lines = [_line(one, one.group, has_stated=has_stated) for one in sums]
    if len(sums) > 1:
        lines.append(_line(total, ("all", *[""] * (len(by) - 1)), has_stated=has_stated))
    notes = []
    if total.num_estimated:
        notes.append(f"{total.num_estimated:,} of {total.num_attempts:,} attempts told no usage; it is estimated.")
    if has_stated:
        header = (*header, "stated USD", "difference")
        difference = usd_of(total.stated_pico_usd - total.compared_pico_usd)
        notes.append(
            f"Providers stated the cost of {total.num_stated:,} attempts: {_usd(usd_of(total.stated_pico_usd))} USD, "
            f"{_usd(abs(difference))} {'less' if difference < 0 else 'more'} than our prices make of them."
        )
    return "\n".join([format_table(header, lines), *(["", *notes] if notes else [])])


def _line(one: LedgerSum, group: Sequence[str], *, has_stated: bool) -> tuple[str, ...]:
    usage = one.usage
    line = (
        *(name or _NOTHING for name in group),
        f"{one.num_requests:,}",
        f"{one.num_failed:,}",
        f"{usage.prompt_tokens:,}",
        f"{usage.hit_tokens / max(1, usage.prompt_tokens):.0%}",
        f"{usage.reasoning_tokens:,}",
        f"{usage.answer_tokens:,}",
        _usd(usd_of(one.cost_pico_usd)),
    )
    if not has_stated:
        return line
    if not one.num_stated:
        return (*line, _NOTHING, _NOTHING)
    difference = usd_of(one.stated_pico_usd - one.compared_pico_usd)
    return (*line, _usd(usd_of(one.stated_pico_usd)), f"{'-' if difference < 0 else '+'}{_usd(abs(difference))}")


def _chart(sums: Sequence[LedgerSum]) -> str:
    bars = [
        (
            " ".join(name or _NOTHING for name in one.group),
            usd_of(one.cost_pico_usd),
            f"${_usd(usd_of(one.cost_pico_usd))}",
        )
        for one in sums
    ]
    return format_bars(bars)


def _usd(amount: Decimal) -> str:
    """To the millionth, for people; files have everything."""
    return f"{amount:,.6f}"


# --- for programs -----------------------------------------------------------------------------------------------------


def _values(one: LedgerSum) -> dict[str, Any]:  # Any: numbers, and amounts as texts
    usage = one.usage
    return {
        "requests": one.num_requests,
        "attempts": one.num_attempts,
        "failed": one.num_failed,
        "estimated": one.num_estimated,
        "hit_tokens": usage.hit_tokens,
        "miss_tokens": usage.miss_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "answer_tokens": usage.answer_tokens,
        "cost_usd": format(usd_of(one.cost_pico_usd), "f"),
        "stated_attempts": one.num_stated,
        "stated_usd": format(usd_of(one.stated_pico_usd), "f"),
        "compared_usd": format(usd_of(one.compared_pico_usd), "f"),
    }


def _csv(by: Sequence[Dimension], sums: Sequence[LedgerSum]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*by, *(_values(sums[0]) if sums else ())])
    writer.writerows([*one.group, *_values(one).values()] for one in sums)
    return text.getvalue()


def _json(
    by: Sequence[Dimension],
    sums: Sequence[LedgerSum],
    totals: Sequence[LedgerSum],
    since: datetime | None,
    until: datetime | None,
) -> str:
    value = {
        "since": since,
        "until": until,
        "sums": [{**dict(zip(by, one.group, strict=True)), **_values(one)} for one in sums],
        "total": _values(totals[0]) if totals else None,
    }
    return msgspec.json.format(msgspec.json.encode(value)).decode()
