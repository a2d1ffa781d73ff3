"""What a key may do, as options of `deepserve keys`: each says a change, so that what is not named stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar, get_args

import click
import msgspec
from typing_extensions import override

from deepserve.catalog.models import load_models
from deepserve.core.errors import UnknownModel
from deepserve.core.request import Dialect
from deepserve.core.server_tool import ToolKind
from deepserve.core.tenant import Grant
from deepserve.store.keys import MOST_USD

Function = TypeVar("Function", bound=Callable[..., Any])  # Any: click passes a command's options by name

_MOST_COUNT: Final = 2_000_000_000
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d{1,5})([mhdw])")


class Unset:
    """The option was not given: nothing changes. None means no bound."""


UNSET: Final = Unset()


class Amount(click.ParamType[Any]):
    """US dollars, exact; `none` for no bound."""

    name = "USD"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # Any: click's own
        if not isinstance(value, str):
            return value
        if value.strip().lower() == "none":
            return None
        try:
            amount = Decimal(value.strip().removeprefix("$").replace(",", ""))
        except InvalidOperation:
            self.fail(f"{value!r} is not an amount; write for example 25 or 0.50, or none for no bound.", param, ctx)
        if not amount.is_finite() or not 0 <= amount <= MOST_USD:
            self.fail(f"{value} is out of range: a budget is from 0 to {MOST_USD:,} dollars.", param, ctx)
        if amount != amount.quantize(Decimal("1e-12")):
            self.fail(f"{value} has more than twelve decimals.", param, ctx)
        return amount


class Bound(click.ParamType[Any]):
    """A whole number from 1 on; `none` for no bound."""

    name = "N"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # Any: click's own
        if not isinstance(value, str):
            return value
        text = value.strip().lower().replace(",", "").replace("_", "")
        if text == "none":
            return None
        if not text.isdecimal() or not 1 <= int(text) <= _MOST_COUNT:
            self.fail(
                f"{value!r} is not a number from 1 to {_MOST_COUNT:,}; write none for no bound. To stop a key, "
                "revoke it.",
                param,
                ctx,
            )
        return int(text)


class Instant(click.ParamType[Any]):
    """`30d`, `2027-01-31`, `2027-01-31T12:00Z`; `never`."""

    name = "WHEN"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # Any: click's own
        if not isinstance(value, str):
            return value
        text = value.strip()
        if text.lower() == "never":
            return None
        duration = _DURATION.fullmatch(text.lower())
        if duration is not None:
            return datetime.now(UTC) + timedelta(**{_UNITS[duration[2]]: int(duration[1])})
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{value!r} is no time; write 30d, 12h, a date such as 2027-01-31, an instant such as "
                "2027-01-31T12:00Z, or never.",
                param,
                ctx,
            )
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        if at <= datetime.now(UTC):
            self.fail(f"{value} is in the past. To stop a key at once, revoke it.", param, ctx)
        return at


class Model(click.ParamType[Any]):
    """A model's canonical id, by any of its names; `any` for all."""

    name = "MODEL"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # Any: click's own
        if value == "any":
            return value
        try:
            return load_models().resolve(value).id
        except UnknownModel as error:
            self.fail(error.message, param, ctx)


def grant_options(function: Function) -> Function:
    """Scopes, budgets and limits; `changed` applies them."""
    options = (
        click.option("--name", metavar="NAME", help="What it is for, as lists show it. It finds the key, too."),
        click.option(
            "--model",
            "models",
            type=Model(),
            multiple=True,
            help="Only these models, by any of their names; repeatable. any: all.",
        ),
        click.option(
            "--dialect",
            "dialects",
            type=click.Choice([*get_args(Dialect), "any"]),
            multiple=True,
            help="Only these APIs; repeatable. any: all.",
        ),
        click.option(
            "--tool",
            "tools",
            type=click.Choice([*get_args(ToolKind), "any", "none"]),
            multiple=True,
            help="Only these of the tools that the server runs; repeatable. any: all; none: not one.",
        ),
        click.option(
            "--admin/--no-admin",
            "is_admin",
            default=None,
            help="May read what concerns everybody, such as /metrics.",
        ),
        click.option("--usd-per-day", type=Amount(), default=UNSET, help="Most that it may spend in a day (UTC)."),
        click.option("--usd-per-month", type=Amount(), default=UNSET, help="Most that it may spend in a month (UTC)."),
        click.option("--max-concurrent", type=Bound(), default=UNSET, help="Answers at the same time."),
        click.option("--requests-per-minute", type=Bound(), default=UNSET, help="Answers begun within a minute."),
        click.option("--tokens-per-minute", type=Bound(), default=UNSET, help="Prompt and output within a minute."),
        click.option(
            "--expires",
            "expires_at",
            type=Instant(),
            default=UNSET,
            help="From then on it is not taken any more: 30d, 12h, 2027-01-31. never: it does not expire.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def changed(
    grant: Grant,
    *,
    models: Sequence[str],
    dialects: Sequence[str],
    tools: Sequence[str],
    is_admin: bool | None,
    **numbers: Any,  # Any: amounts, counts, None and UNSET
) -> Grant:
    """The grant with what was named changed."""
    given = {name: value for name, value in numbers.items() if value is not UNSET}
    budgets = {name: given[name] for name in ("usd_per_day", "usd_per_month") if name in given}
    limits = {name: value for name, value in given.items() if name not in budgets}
    return msgspec.structs.replace(
        grant,
        models=_scope(grant.models, models),
        dialects=_scope(grant.dialects, dialects),
        tools=_scope(grant.tools, tools),
        is_admin=grant.is_admin if is_admin is None else is_admin,
        budgets=msgspec.structs.replace(grant.budgets, **budgets),
        limits=msgspec.structs.replace(grant.limits, **limits),
    )


def _scope(before: frozenset[str] | None, named: Sequence[str]) -> frozenset[str] | None:
    if not named:
        return before
    if len(set(named)) > 1 and {"any", "none"} & set(named):
        raise click.UsageError(f"`any` and `none` stand alone, and here is {', '.join(named)}.")
    if named[0] == "any":
        return None
    return frozenset() if named[0] == "none" else frozenset(named)
