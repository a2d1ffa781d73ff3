"""Days and instants as options."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
from typing_extensions import override


class Instant(click.ParamType[datetime]):
    """A day or an instant, in UTC unless it says otherwise. is_end: a day means its end, as in \"until the 5th\"."""

    name = "date"

    def __init__(self, *, is_end: bool = False) -> None:
        self._is_end = is_end

    @override
    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is not a date; write for example 2026-04-24 or 2026-04-24T12:00Z.", param, ctx)
        if self._is_end and len(text) == len("2026-04-24"):
            instant += timedelta(days=1)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
