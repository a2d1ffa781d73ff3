"""What is wrong with a configuration, where, and the nearest thing that would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from deepserve.configuration.declarations import Group, settings_of
from deepserve.configuration.places import Place
from deepserve.core.errors import ConfigurationError

_MOST: Final = 20
_MAX_SHOWN: Final = 60
_START: Final = Place(0, 0)

_SECRET_NAME: Final = re.compile(r"(?:^|_)(?:key|keys|token|secret|password)$")

WHY_NO_SECRETS: Final = (
    "secrets are never written into this file, which gets shown, copied and committed: keep them in a file that only "
    "you can read, or in the environment"
)


class Problem(msgspec.Struct, frozen=True):
    """text: a sentence that names what is wrong. place: None where it cannot be said."""

    text: str
    place: Place | None = None


def refusal(source: Path | None, problems: Iterable[Problem]) -> ConfigurationError:
    """One error that names them all, in the order of the file."""
    told = sorted(problems, key=lambda problem: (problem.place or _START).line)
    lines = [_where(source, problem.place) + problem.text for problem in told[:_MOST]]
    if len(told) > _MOST:
        lines.append(f"And {len(told) - _MOST} more.")
    return ConfigurationError("\n".join(lines))


def _where(source: Path | None, place: Place | None) -> str:
    if source is None:
        return ""
    return f"{source}: " if place is None else f"{source}, line {place.line}, column {place.column}: "


def unknown_key(key: str, table: Group) -> str:
    """Why a key cannot stand in a table, and what was probably meant."""
    said = f"`{key[:_MAX_SHOWN]}` is not known {f'in [{table.name}]' if table.name else 'here'}"
    if _SECRET_NAME.search(key) and f"{key}_file" in table.members:
        return f"{said}: {WHY_NO_SECRETS}, and name the file with `{key}_file`."
    homes = [setting.place[:-1] for setting in settings_of() if setting.key == key and len(setting.place) > 1]
    if homes:
        return f"{said}; it belongs into [{'.'.join(homes[0])}]."
    near = nearest(key, table.members)
    if near is not None:
        return f"{said}; did you mean `{near}`?"
    elsewhere = {setting.key: setting for setting in settings_of() if len(setting.place) > 1}
    far = nearest(key, elsewhere)
    if far is not None:
        return f"{said}; did you mean `{far}` in [{'.'.join(elsewhere[far].place[:-1])}]?"
    return f"{said}. Known: {', '.join(table.members)}."


def unknown_name(name: str, known: Iterable[str], *, what: str) -> str:
    """Why a name means nothing. what: what it should name, as in `upstream`."""
    there = list(known)
    near = nearest(name, there)
    said = f"{name[:_MAX_SHOWN]!r} is no {what}"
    if near is not None:
        return f"{said}; did you mean {near!r}?"
    return f"{said}. There is: {', '.join(there)}." if there else f"{said}, for there is none."


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """likeness: from 0 to 1, of which there must be so much."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)
    return found[0] if found else None
