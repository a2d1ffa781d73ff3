"""A configuration file, read strictly: whatever in it is not a setting, or not a value of one, is a problem.

All problems are found in one go, each with its line and column.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, assert_never

import msgspec

from deepserve.configuration.declarations import Group, Items, Names, Node, Setting, root
from deepserve.configuration.declarations import Path as Keys
from deepserve.configuration.places import Place, Places
from deepserve.configuration.problems import WHY_NO_SECRETS, Problem, refusal, unknown_key
from deepserve.configuration.values import WrongValue, holds_credentials, read_value
from deepserve.core.errors import ConfigurationError

_MAX_BYTES: Final = 1024 * 1024
_PLACE: Final = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)
_REPEATED: Final = ("Cannot overwrite", "Cannot declare", "Cannot mutate", "Cannot redefine")


class FileValues(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says. values: by name of the setting, as `Settings` holds them."""

    source: Path
    values: Mapping[str, Any]
    places: Places

    def place(self, path: Keys) -> Place | None:
        return self.places.nearest(path)


def read_file(source: Path) -> FileValues:
    """Raises ConfigurationError, with every problem in it."""
    try:
        with source.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"There is no configuration file {source}.") from None
    except OSError as error:
        raise ConfigurationError(f"The configuration file {source} cannot be read: {error.strerror}.") from error
    if len(raw) > _MAX_BYTES:
        raise ConfigurationError(f"The configuration file {source} has more than {_MAX_BYTES:,} bytes.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise refusal(source, [Problem("This is not UTF-8.", Place(line, 1))]) from error
    return read_configuration(text.removeprefix("\ufeff"), source)


def read_configuration(text: str, source: Path) -> FileValues:
    """As `read_file`. source: named in errors; relative paths begin beside it."""
    try:
        document = tomllib.loads(text)
        places = Places(text)
    except tomllib.TOMLDecodeError as error:
        raise refusal(source, [_syntax_problem(str(error), text)]) from error
    except RecursionError as error:
        raise ConfigurationError(f"{source}: this is nested too deeply.") from error
    reader = _Reader(places, source.absolute().parent)
    reader.read(root(), document, ())
    if reader.problems:
        raise refusal(source, reader.problems)
    return FileValues(source=source, values=reader.values, places=places)


class _Reader:
    def __init__(self, places: Places, base: Path) -> None:
        self.values: dict[str, Any] = {}  # Any: values of settings
        self.problems: list[Problem] = []
        self._places = places
        self._base = base

    def read(self, node: Node, value: object, path: Keys) -> None:
        match node:
            case Setting() as setting:
                self._set(setting.name, self._leaf(setting, value, path))
            case Group() as group:
                for key, one in self._table(value, path).items():
                    if key in group.members:
                        self.read(group.members[key], one, (*path, key))
                    else:
                        self._object(unknown_key(key, group), (*path, key))
            case Items() as items:
                self._set(items.setting.name, self._items(items, value, path))
            case Names() as names:
                self._set(names.setting.name, self._names(names, value, path))
            case _:
                assert_never(node)

    def _set(self, name: str, value: Any) -> None:  # Any: a value of the setting
        if value is not msgspec.UNSET:
            self.values[name] = value

    def _leaf(self, setting: Setting, value: object, path: Keys) -> Any:  # Any: its value, or UNSET
        if setting.extra.get("is_secret"):
            hint = f"`{setting.key}_file` names such a file; the variable is {setting.variable}"
            self._object(f"`{setting.key}`: {WHY_NO_SECRETS}. {hint}.", path)
            return msgspec.UNSET
        return self._value(value, setting.annotation, setting.key, path)

    def _value(self, value: object, annotation: Any, key: str, path: Keys) -> Any:  # Any: a type, and a value of it
        if holds_credentials(value):
            self._object(f"`{key}` holds a password: {WHY_NO_SECRETS}.", path)
            return msgspec.UNSET
        try:
            return read_value(value, annotation, key=key, base=self._base)
        except WrongValue as wrong:
            # Within a list the item at fault is looked for, so that its own line is named.
            if isinstance(value, list) and (path_of_item := self._wrong_item(value, annotation, key, path)):
                path = path_of_item
            self._object(f"`{key}` {wrong}.", path)
            return msgspec.UNSET

    def _wrong_item(self, value: list[object], annotation: Any, key: str, path: Keys) -> Keys | None:  # Any: a type
        for number, item in enumerate(value):
            try:
                read_value([item], annotation, key=key, base=self._base)
            except WrongValue:
                return (*path, number)
        return None

    def _table(self, value: object, path: Keys) -> Mapping[str, object]:
        if isinstance(value, dict):
            return value
        kind = "a list of tables" if isinstance(value, list) else "a single value"
        self._object(f"`{path[-1]}` is {kind}; it must be a table: [{'.'.join(map(str, path))}].", path)
        return {}

    def _items(self, items: Items, value: object, path: Keys) -> Any:  # Any: a tuple of structures, or UNSET
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self._object(f"`{path[-1]}` must be written as tables, each with the head [[{path[-1]}]].", path)
            return msgspec.UNSET
        made = [self._item(items, one, (*path, number)) for number, one in enumerate(value)]
        return msgspec.UNSET if msgspec.UNSET in made else tuple(made)

    def _item(self, items: Items, value: Mapping[str, object], path: Keys) -> Any:  # Any: a structure, or UNSET
        before = len(self.problems)
        inner = _Reader(self._places, self._base)
        inner.read(items.item, value, path)
        self.problems += inner.problems
        for member in items.item.members.values():
            is_required = isinstance(member, Setting) and member.default is msgspec.NODEFAULT
            if isinstance(member, Setting) and is_required and member.key not in value:
                self._object(f"`{member.key}` is missing in this [[{items.item.name}]]: {member.text}.", path)
        if len(self.problems) > before:
            return msgspec.UNSET
        prefix = f"{items.setting.name}."
        return items.cls(**{name.removeprefix(prefix): one for name, one in inner.values.items()})

    def _names(self, names: Names, value: object, path: Keys) -> Any:  # Any: a mapping, or UNSET
        if not isinstance(value, dict):
            self._table(value, path)
            return msgspec.UNSET
        made = {name: self._value(one, names.annotation, name, (*path, name)) for name, one in value.items()}
        return msgspec.UNSET if msgspec.UNSET in made.values() else made

    def _object(self, text: str, path: Keys) -> None:
        self.problems.append(Problem(text, self._places.nearest(path)))


def _syntax_problem(message: str, text: str) -> Problem:
    """The library's words, with the place it names, or the place of what is given twice."""
    if message.startswith(_REPEATED):
        try:
            repeated = Places(text).repeated
        except (ValueError, IndexError, KeyError, RecursionError):
            repeated = []
        if repeated:
            path, place = repeated[0]
            return Problem(f"`{'.'.join(map(str, path))}` is given twice.", place)
    found = _PLACE.fullmatch(message)
    words = message if found is None else found[1]
    at = None if found is None else Place(int(found[2]), int(found[3]))
    hint = " Texts stand in quotes." if words == "Invalid value" else ""
    return Problem(f"This is not TOML: {words[:1].lower()}{words[1:]}.{hint}", at)
