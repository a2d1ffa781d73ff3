"""Reads price tables: `prices.toml`, and the operator's file, which has the same form.

A table with a fault is refused as a whole, with the file, the line, the row and what to do about it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from deepserve.catalog.models import ModelCatalog, load_models
from deepserve.catalog.prices import VENDOR, ComparedModel, Hours, PriceCatalog, PriceRow, Provider, Score
from deepserve.core.errors import ConfigurationError, UnknownModel

Table = dict[str, Any]
"""A table of TOML. Any: foreign until it has been converted."""

Row = TypeVar("Row", bound=msgspec.Struct)

_KINDS = ("provider", "hours", "model", "price", "score")

# More than six decimals would be less than a millionth of a millionth of a dollar for a token, which the ledger counts.
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_MAX_FILE_BYTES = 1 << 20

_EXAMPLES: Mapping[str, str] = {
    "source": 'say who says so and when: source = "our contract of 2026-05-01"',
    "since": "write the instant from which it holds: since = 2026-05-01T00:00:00Z",
    "price": 'write price = { hit = "0.028", miss = "0.14", output = "0.28" }',
}


def load_prices() -> PriceCatalog:
    """The table that ships with the package."""
    text = resources.files("deepserve.catalog").joinpath("prices.toml").read_text(encoding="utf-8")
    return read_prices(text, name="prices.toml", names=load_models())


def read_own_prices(path: Path, shipped: PriceCatalog) -> PriceCatalog:
    """The shipped prices under an operator's. Raises ConfigurationError with the row at fault."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot read the price file {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The price file {path} is not UTF-8 text (byte {error.start}).") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"The price file {path} is larger than {_MAX_FILE_BYTES:,} bytes.")
    return read_prices(text, name=path.name, names=load_models(), shipped=shipped)


def read_prices(text: str, *, name: str, names: ModelCatalog, shipped: PriceCatalog | None = None) -> PriceCatalog:
    """A table from the text of a file.

    name     the file's, for messages
    names    the models that are served; any other needs a `[[model]]` row
    shipped  what the table adds to and goes before; None: it stands for itself
    """
    return _Reader(text, name=name, names=names).read(shipped or PriceCatalog(rows=()), is_own=shipped is not None)


class _Reader:
    """One file on its way in."""

    def __init__(self, text: str, *, name: str, names: ModelCatalog) -> None:
        self._name = name
        self._names = names
        self._text = text
        try:
            self._tables: Table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{name} is not TOML: {error}.") from error
        for kind, rows in self._tables.items():
            if kind not in _KINDS:
                self._refuse(f"there is nothing called {kind!r}; rows begin with [[{']], [['.join(_KINDS)}]]")
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                self._refuse(f"{kind} is not a list of rows; each begins with [[{kind}]]")

    def read(self, shipped: PriceCatalog, *, is_own: bool) -> PriceCatalog:
        own_models, own_hours = self._rows("model", ComparedModel), self._rows("hours", Hours)
        rows, own_scores = self._rows("price", PriceRow), self._rows("score", Score)
        providers = self._merge(shipped.providers, self._rows("provider", Provider))
        models = self._merge(shipped.models, own_models)
        scores = self._merge(shipped.scores, own_scores)
        hours = (*shipped.hours, *own_hours)
        known = [provider.id for provider in providers]
        for position, model in enumerate(own_models):
            if model.vendor not in known:
                self._unknown("model", position, "vendor", model.vendor, known, kind="provider")
            if model.id in self._served():
                self._fault("model", position, f"{model.id} is served; only models to compare with are listed here")
        for position, one in enumerate(own_hours):
            self._check_hours(position, one, [*shipped.hours, *own_hours[:position]])
        for position, row in enumerate(rows):
            if row.provider not in known:
                self._unknown("price", position, "provider", row.provider, known, kind="provider")
            self._check_model("price", position, row.model, models)
            self._check_windows(position, row, hours)
            self._check_tiers(position, row)
            self._check_validity(position, rows)
        for position, score in enumerate(own_scores):
            self._check_model("score", position, score.model, models)
        return PriceCatalog(
            rows=shipped.rows if is_own else rows,
            own_rows=rows if is_own else (),
            hours=hours,
            providers=providers,
            models=models,
            scores=scores,
        )

    # --- rows --------------------------------------------------------------------------------------------------------

    def _rows(self, kind: str, row_type: type[Row]) -> tuple[Row, ...]:
        return tuple(
            self._row(kind, position, table, row_type) for position, table in enumerate(self._tables.get(kind, ()))
        )

    def _row(self, kind: str, position: int, table: Table, row_type: type[Row]) -> Row:
        for field in _required(row_type):
            value = table.get(field)
            if value is None or (isinstance(value, str) and not value.strip()):
                self._fault(kind, position, f"`{field}` is missing; {_EXAMPLES.get(field, 'every such row has one')}")
        prepared = {field: self._prepare(kind, position, field, value) for field, value in table.items()}
        try:
            return msgspec.convert(prepared, row_type)
        except msgspec.ValidationError as error:
            self._fault(kind, position, str(error).replace("`$.", "`"))

    def _prepare(self, kind: str, position: int, path: str, value: Any) -> Any:  # Any: TOML
        """Everything that a conversion would let pass, or would refuse in words that help nobody."""
        match value:
            case float():
                self._fault(kind, position, f'`{path}` is a float, {value}, which is not exact: write "{value}"')
            case datetime() if value.tzinfo is None:
                self._fault(kind, position, f"`{path}` lacks its offset from UTC: write {value.isoformat()}Z")
            case time():
                self._fault(kind, position, f'`{path}` is a time of day; write it as a string, "{value:%H:%M}"')
            case date() if path in ("since", "until") and not isinstance(value, datetime):
                self._fault(kind, position, f"`{path}` is a day; write the instant, {value.isoformat()}T00:00:00Z")
            case list():
                return [self._prepare(kind, position, f"{path}[{index}]", item) for index, item in enumerate(value)]
            case dict() if path.split(".")[-1] == "price":
                return self._price(kind, position, path, value)
            case dict():
                return {field: self._prepare(kind, position, f"{path}.{field}", item) for field, item in value.items()}
            case str() if path == "index" and _AMOUNT.fullmatch(value) is None:
                self._fault(kind, position, f"`{path}` is {value!r}; a score is a decimal number")
        return value

    def _price(self, kind: str, position: int, path: str, table: Table) -> Table:
        if "has_hit" in table:
            self._fault(kind, position, f"`{path}` has an unknown field `has_hit`")
        amounts: Table = {}
        for field, value in table.items():
            amount = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
            if isinstance(amount, float):
                self._prepare(kind, position, f"{path}.{field}", amount)
            if not isinstance(amount, str) or _AMOUNT.fullmatch(amount) is None:
                self._fault(
                    kind,
                    position,
                    f"`{path}.{field}` is {value!r}; an amount is a decimal string of US dollars for a million tokens, "
                    'with at most six decimals, such as "0.14"',
                )
            amounts[field] = amount
        for field in ("miss", "output"):
            if field not in amounts:
                self._fault(kind, position, f"`{path}.{field}` is missing; {_EXAMPLES['price']}")
        return amounts if "hit" in amounts else {**amounts, "hit": amounts["miss"], "has_hit": False}

    def _merge(self, shipped: Sequence[Row], own: Sequence[Row]) -> tuple[Row, ...]:
        """Rows with ids: the operator's replace shipped ones of the same id."""
        ids = [_id_of(row) for row in own]
        for position, row_id in enumerate(ids):
            if row_id in ids[:position]:
                self._refuse(f"{row_id!r} is there twice")
        return (*(row for row in shipped if _id_of(row) not in ids), *own)

    # --- what rows must agree on -------------------------------------------------------------------------------------

    def _served(self) -> list[str]:
        return [model.id for model in self._names.models]

    def _check_model(self, kind: str, position: int, model: str, compared: Sequence[ComparedModel]) -> None:
        known = [*self._served(), *(one.id for one in compared)]
        if model in known:
            return
        try:
            meant = self._names.resolve(model).id
        except UnknownModel:
            self._unknown(kind, position, "model", model, known, kind="model")
        self._fault(kind, position, f"`model` is {model!r}, which is another name of {meant}: write that")

    def _check_validity(self, position: int, rows: Sequence[PriceRow]) -> None:
        row = rows[position]
        if row.until is not None and row.until <= row.since:
            self._fault("price", position, "`until` is not after `since`")
        edges = [edge for edge in (row.since, row.until) if edge is not None]
        if row.provider == VENDOR and any(edge.second or edge.microsecond for edge in edges):
            self._fault(
                "price", position, "what answers here are charged by begins and ends with a minute: sums have these"
            )
        for other in rows[:position]:
            if (other.provider, other.model) != (row.provider, row.model):
                continue
            first, second = sorted((other, row), key=lambda one: one.since)
            # Without an end of its own, a row ends where the next one begins.
            if first.since == second.since or (first.until is not None and first.until > second.since):
                self._fault(
                    "price",
                    position,
                    f"it overlaps the row of the same provider and model since {_shown(other.since)}: two prices would "
                    f"hold at {_shown(second.since)}",
                )

    def _check_hours(self, position: int, hours: Hours, before: Sequence[Hours]) -> None:
        if not hours.windows_utc or not hours.weekdays:
            self._fault("hours", position, "it has no windows, or no weekdays to have them on")
        if any(day not in range(7) for day in hours.weekdays):
            self._fault("hours", position, "`weekdays` are numbers from 0, Monday, to 6, Sunday")
        spans: list[tuple[str, str]] = []
        for begin, end in hours.windows_utc:
            if _CLOCK.fullmatch(begin) is None or (_CLOCK.fullmatch(end) is None and end != "24:00"):
                self._fault("hours", position, f'the window {begin}-{end} is not written as ["01:00", "04:00"]')
            if end <= begin:
                self._fault("hours", position, f"the window {begin}-{end} ends before it begins; split it at midnight")
            for other_begin, other_end in spans:
                if begin < other_end and other_begin < end:
                    self._fault("hours", position, f"the windows {other_begin}-{other_end} and {begin}-{end} overlap")
            spans.append((begin, end))
        if any((other.name, other.since) == (hours.name, hours.since) for other in before):
            self._fault("hours", position, "there are such hours with the same name and beginning already")

    def _check_windows(self, position: int, row: PriceRow, hours: Sequence[Hours]) -> None:
        names = [one.name for one in hours]
        for index, window in enumerate(row.windows):
            if window.hours not in names:
                self._unknown("price", position, f"windows[{index}].hours", window.hours, names, kind="hours")
            for other in row.windows[:index]:
                if _meet(window.hours, other.hours, hours):
                    self._fault(
                        "price", position, f"its windows overlap: {other.hours} and {window.hours} share hours of a day"
                    )

    def _check_tiers(self, position: int, row: PriceRow) -> None:
        if row.windows and row.tiers:
            self._fault("price", position, "it has both windows and tiers; a row has one or the other")
        if row.tiers and row.provider == VENDOR:
            self._fault(
                "price", position, "what answers here are charged by cannot have tiers: sums would not be exact"
            )
        bounds = [tier.above_tokens for tier in row.tiers]
        if bounds != sorted(set(bounds)) or any(bound < 1 for bound in bounds):
            self._fault("price", position, "`above_tokens` of its tiers are not positive and rising")

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _unknown(
        self, table: str, position: int, field: str, value: str, known: Collection[str], *, kind: str
    ) -> NoReturn:
        listed = ", ".join(dict.fromkeys(known))
        self._fault(
            table,
            position,
            f"`{field}` is {value!r}, and there is no such {kind}; known: {listed}. Add a [[{kind}]] row",
        )

    def _fault(self, kind: str, position: int, problem: str) -> NoReturn:
        table = self._tables[kind][position]
        words = [str(table[field]) for field in ("provider", "model", "id", "name") if field in table]
        if isinstance(table.get("since"), date):
            words.append(f"since {_shown(table['since'])}")
        where = f"[[{kind}]] row {position + 1}" + (f" ({' '.join(words)})" if words else "")
        line = self._line_of(kind, position)
        self._refuse(f"{where}: {problem}", line=line)

    def _line_of(self, kind: str, position: int) -> int | None:
        """Where the row begins, from 1; None where rows are not written as `[[kind]]`."""
        heads = [
            number
            for number, line in enumerate(self._text.splitlines(), start=1)
            if re.match(rf"\s*\[\[\s*{kind}\s*\]\]", line)
        ]
        return heads[position] if len(heads) == len(self._tables[kind]) else None

    def _refuse(self, problem: str, *, line: int | None = None) -> NoReturn:
        raise ConfigurationError(f"{self._name}{'' if line is None else f', line {line}'}: {problem}.")


def _required(row_type: type[Row]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(row_type) if field.required]


def _id_of(row: msgspec.Struct) -> str:
    assert isinstance(row, Provider | ComparedModel | Score)
    return row.model if isinstance(row, Score) else row.id


def _shown(instant: date) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _meet(one: str, other: str, hours: Sequence[Hours]) -> bool:
    """Whether two kinds of hours ever share one, in any of their versions."""
    return one == other or any(
        set(first.weekdays) & set(second.weekdays)
        and any(
            begin < other_end and other_begin < end
            for begin, end in first.windows_utc
            for other_begin, other_end in second.windows_utc
        )
        for first in hours
        if first.name == one
        for second in hours
        if second.name == other
    )
