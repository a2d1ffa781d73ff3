"""`deepserve keys`: who may use this server, for what, and how much of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click
import msgspec

from deepserve.cli.key_options import UNSET, Instant, changed, grant_options
from deepserve.cli.settings import database_option, open_kept
from deepserve.cli.table import format_table
from deepserve.config import Settings
from deepserve.core.tenant import Grant, TenantId
from deepserve.dialects.amounts import encode_amounts, plain
from deepserve.store.database import Database
from deepserve.store.keys import KeyRow, KeyStore, NewKey
from deepserve.store.spending import Spending, read_spending

_KEY_HELP = "KEY: its id, its name, the whole secret, or how the secret begins, as `list` shows it."

_TENANT_CHARACTERS = 64
"""What the columns of a database hold."""

json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON for programs.")


@click.group()
def keys() -> None:
    """Create, limit and revoke API keys.

    Without any key, everybody on this machine may use the server, and it listens on loopback only.

    \b
    deepserve keys create acme --name ci --model deepseek-v4-flash --usd-per-day 5
    deepserve keys set ci --usd-per-day 10 --max-concurrent 4
    deepserve keys list

    Servers that run follow every change within two seconds.
    """


@keys.command()
@click.argument("tenant", default="default")
@grant_options
@json_option
@database_option
def create(tenant: str, settings: Settings, is_json: bool, **options: Any) -> None:  # Any: as click hands them over
    """Make a key for TENANT. It is shown once and stored as a digest.

    Keys of one tenant share caches, tasks and kept responses; each has limits of its own. Without options a key may
    use everything but what is for administrators, as much as it likes.
    """
    if not 1 <= len(tenant) <= _TENANT_CHARACTERS or not tenant.isprintable():
        raise click.UsageError(f"A tenant's name has from 1 to {_TENANT_CHARACTERS} printable characters.")
    store = open_keys(settings)
    name, expires_at, grant = _read(options, Grant())
    if name and store.named(name):
        raise click.UsageError(f"There is a key with the name {name} already: choose another one.")
    made = store.create(TenantId(tenant), name=name, grant=grant, expires_at=expires_at)
    _show_secret(
        made,
        is_json=is_json,
        note="Keep it: it cannot be shown again. A running server that had no keys asks for them after a restart.",
    )


@keys.command(name="list")
@click.option("--all", "is_all", is_flag=True, help="Also those that are revoked or have expired.")
@json_option
@database_option
def list_keys(settings: Settings, is_all: bool, is_json: bool) -> None:
    """List keys with their limits and what they have spent."""
    database = open_kept(settings)
    now = datetime.now(UTC)
    rows = [row for row in open_key_store(database).list() if is_all or row.status(now) == "valid"]
    spending = read_spending(database, [row.id for row in rows], now=now)
    if is_json:
        click.echo(encode_amounts([_object(row, spending[row.id], now) for row in rows]).decode())
    elif not rows:
        click.echo("No keys. Create one with: deepserve keys create")
    else:
        header = ("begins", "id", "name", "tenant", "status", "day", "month", "at once", "req/min", "tokens/min")
        click.echo(format_table(header, [_line(row, spending[row.id], now) for row in rows]))


@keys.command(help=f"Show everything about a key but its secret.\n\n{_KEY_HELP}")
@click.argument("key")
@json_option
@database_option
def show(key: str, settings: Settings, is_json: bool) -> None:
    database = open_kept(settings)
    now = datetime.now(UTC)
    row = _find(open_key_store(database), key)
    spending = read_spending(database, [row.id], now=now)[row.id]
    click.echo(encode_amounts(_object(row, spending, now)).decode() if is_json else _page(row, spending, now))


@keys.command(
    name="set",
    help="Change what a key may do; what is not named stays. `none` takes a budget or limit away.\n\n" + _KEY_HELP,
)
@click.argument("key")
@grant_options
@database_option
def set_key(key: str, settings: Settings, **options: Any) -> None:  # Any: as click hands them over
    store = open_keys(settings)
    row = _find(store, key)
    if row.revoked_at is not None:
        raise click.ClickException(f"{row.id} is revoked for good. Create a new key.")
    name, expires_at, grant = _read(options, row.grant, before=row)
    if name != row.name and store.named(name):
        raise click.UsageError(f"There is a key with the name {name} already: choose another one.")
    store.change(row.id, name=name, grant=grant, expires_at=expires_at)
    click.echo(f"{row.id} is changed. Servers that run follow within two seconds.")


@keys.command(help=f"Revoke a key for good.\n\n{_KEY_HELP}")
@click.argument("key")
@database_option
def revoke(key: str, settings: Settings) -> None:
    store = open_keys(settings)
    row = _find(store, key)
    store.revoke(row.id)
    click.echo(f"Revoked {row.id} ({row.shown}…). Servers that run refuse it within two seconds.")


@keys.command(
    help="Give a key a new secret, which is shown once. Its id, limits and spending stay.\n\n" + _KEY_HELP,
)
@click.argument("key")
@click.option(
    "--grace",
    "old_until",
    type=Instant(),
    default="1d",
    show_default=True,
    help="So long the old secret is still taken, for clients to be changed: 1d, 2h; 0m: not at all.",
)
@json_option
@database_option
def rotate(key: str, settings: Settings, old_until: datetime | None, is_json: bool) -> None:
    if old_until is None:
        raise click.UsageError("--grace never would keep the old secret: say how long it may still be used.")
    store = open_keys(settings)
    row = _find(store, key)
    if row.status(datetime.now(UTC)) != "valid":
        raise click.ClickException(f"{row.id} is {row.status(datetime.now(UTC))}. Create a new key.")
    made = store.rotate(row.id, old_until=old_until)
    _show_secret(
        made, is_json=is_json, note=f"The old secret is taken until {old_until:%Y-%m-%d %H:%M} UTC. Keep the new one."
    )


def open_keys(settings: Settings) -> KeyStore:
    return open_key_store(open_kept(settings))


def open_key_store(database: Database) -> KeyStore:
    return KeyStore(database, random_hex=secrets.token_hex, now=lambda: datetime.now(UTC))


def _find(store: KeyStore, text: str) -> KeyRow:
    found = store.named(text.strip().rstrip("…"))
    match found:
        case []:
            # A whole secret is not repeated on a screen.
            raise click.ClickException(f"No key is called {text[:12]} or begins so. See: deepserve keys list --all")
        case [row]:
            return row
        case several:
            ids = ", ".join(row.id for row in several)
            raise click.ClickException(f"{text[:12]} may be any of {ids}: name one by its id. Nothing was changed.")


def _read(
    options: dict[str, Any], grant: Grant, *, before: KeyRow | None = None
) -> tuple[str, datetime | None, Grant]:  # Any: as click hands them over
    name, expires_at = options.pop("name"), options.pop("expires_at")
    if name is None:
        name = "" if before is None else before.name
    if expires_at is UNSET:
        expires_at = None if before is None else before.expires_at
    if len(name) > 128 or not name.isprintable():
        raise click.UsageError("A name has at most 128 printable characters.")
    return name, expires_at, changed(grant, **options)


def _show_secret(made: NewKey, *, is_json: bool, note: str) -> None:
    if is_json:
        click.echo(msgspec.json.encode({"id": made.id, "key": made.secret}).decode())
    else:
        click.echo(made.secret)
    click.echo(f"{note} Its id is {made.id}.", err=True)


# What is shown


def _line(row: KeyRow, spending: Spending, now: datetime) -> Sequence[str]:
    budgets, limits = row.grant.budgets, row.grant.limits
    return (
        f"{row.shown}…",
        row.id,
        row.name,
        row.tenant,
        row.status(now),
        _of(spending.today_usd, budgets.usd_per_day),
        _of(spending.month_usd, budgets.usd_per_month),
        *(_count(value) for value in (limits.max_concurrent, limits.requests_per_minute, limits.tokens_per_minute)),
    )


def _page(row: KeyRow, spending: Spending, now: datetime) -> str:
    grant, limits = row.grant, row.grant.limits
    facts = (
        ("id", row.id),
        ("name", row.name or "–"),
        ("tenant", row.tenant),
        ("secret", f"{row.shown}…"),
        ("status", row.status(now)),
        ("created", _instant(row.created_at)),
        ("expires", "never" if row.expires_at is None else _instant(row.expires_at)),
        ("last used", "never" if spending.last_used_at is None else _instant(spending.last_used_at)),
        ("models", _names(grant.models)),
        ("dialects", _names(grant.dialects)),
        ("tools", _names(grant.tools)),
        ("admin", "yes" if grant.is_admin else "no"),
        ("spent today", _of(spending.today_usd, grant.budgets.usd_per_day)),
        ("spent this month", _of(spending.month_usd, grant.budgets.usd_per_month)),
        ("spent in all", _usd(spending.total_usd)),
        ("reserved now", _usd(spending.reserved_month_usd)),
        ("answers at once", _count(limits.max_concurrent)),
        ("requests a minute", _count(limits.requests_per_minute)),
        ("tokens a minute", _count(limits.tokens_per_minute)),
        ("attempts", f"{spending.num_attempts:,}"),
        ("tokens", f"{spending.tokens:,}"),
    )
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)


def _object(row: KeyRow, spending: Spending, now: datetime) -> dict[str, Any]:  # Any: a JSON object on its way out
    grant, limits = row.grant, row.grant.limits
    return {
        "id": row.id,
        "name": row.name,
        "tenant": row.tenant,
        "begins": row.shown,
        "status": row.status(now),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": spending.last_used_at,
        "models": None if grant.models is None else sorted(grant.models),
        "dialects": None if grant.dialects is None else sorted(grant.dialects),
        "tools": None if grant.tools is None else sorted(grant.tools),
        "is_admin": grant.is_admin,
        "usd_per_day": _plain(grant.budgets.usd_per_day),
        "usd_per_month": _plain(grant.budgets.usd_per_month),
        "max_concurrent": limits.max_concurrent,
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "spent_today_usd": _plain(spending.today_usd),
        "spent_this_month_usd": _plain(spending.month_usd),
        "spent_usd": _plain(spending.total_usd),
        "reserved_usd": _plain(spending.reserved_month_usd),
        "num_attempts": spending.num_attempts,
        "tokens": spending.tokens,
    }


def _plain(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else plain(amount)


def _usd(amount: Decimal) -> str:
    return f"${amount:,.2f}" if amount == amount.quantize(Decimal("0.01")) else f"${amount:,.4f}"


def _of(spent: Decimal, budget: Decimal | None) -> str:
    return _usd(spent) if budget is None else f"{_usd(spent)} of {_usd(budget)}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _names(names: frozenset[str] | None) -> str:
    return "all" if names is None else ", ".join(sorted(names)) or "none"


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
