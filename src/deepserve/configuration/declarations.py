"""What `config.Settings` declares, as a tree that files are read by and examples are written from.

Everything here is taken from the structures themselves: types and ranges from their annotations, descriptions from
their docstrings. Nothing knows a setting by its name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, get_type_hints

import msgspec
import msgspec.inspect as shapes

from deepserve.config import TABLES, Settings

PREFIX: Final = "DEEPSERVE_"
"""What names of variables begin with."""

Name = str | int
Path = tuple[Name, ...]
"""Where a value stands: names of tables and keys, and numbers of items."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A value that is given as a whole.

    name       dotted, as in `Settings`: `port`, `limits.connections`
    place      where it stands in a file: `("server", "port")`
    annotation its type, with ranges
    default    NODEFAULT where it must be given
    text       what it means, as its structure's docstring says
    """

    name: str
    place: tuple[str, ...]
    annotation: Any  # a type
    default: Any  # of that type
    text: str

    @property
    def key(self) -> str:
        return self.place[-1]

    @property
    def variable(self) -> str:
        """The variable of the environment that holds it."""
        return PREFIX + self.name.replace(".", "_").upper()

    @property
    def shape(self) -> shapes.Type:
        return shapes.type_info(self.annotation)

    @property
    def extra(self) -> Mapping[str, Any]:  # Any: what `msgspec.Meta` was given
        return extra_of(self.shape)


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A table with a closed set of keys. name: in headers; empty for the root of the file."""

    name: str
    title: str
    members: Mapping[str, Node]


class Items(msgspec.Struct, frozen=True, kw_only=True):
    """A list of tables of one kind, such as `[[upstreams]]`. The whole list is one setting."""

    setting: Setting
    item: Group
    cls: type[msgspec.Struct]


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """A table whose keys the operator chooses, such as `[chains]`. The whole table is one setting."""

    setting: Setting
    annotation: Any  # the type of its values


Node = Setting | Group | Items | Names


@cache
def root() -> Group:
    """The file as a whole."""
    members: dict[str, Node] = {}
    plain: dict[str, dict[str, Node]] = {table.name: {} for table in TABLES}
    starts = {table.first: table.name for table in TABLES}
    texts = descriptions(Settings)
    table = ""
    order: list[str] = []
    for name, annotation, default in _fields(Settings):
        if name in starts:
            table = starts[name]
            order.append(table)
        node = _node(name, annotation, default, (name,), texts.get(name, ""))
        if isinstance(node, Setting):
            plain[table][name] = msgspec.structs.replace(node, place=(table, name))
        else:
            members[name] = node
            order.append(name)
    titles = {one.name: one.title for one in TABLES}
    groups = {name: Group(name=name, title=titles[name], members=found) for name, found in plain.items() if found}
    return Group(
        name="",
        title="",
        members={name: groups.get(name) or members[name] for name in order if name in groups or name in members},
    )


def settings_of(node: Node | None = None) -> Iterator[Setting]:
    """Everything that can be given, in the order of its declaration."""
    match root() if node is None else node:
        case Setting() as setting:
            yield setting
        case Group(members=members):
            for member in members.values():
                yield from settings_of(member)
        case Items(setting=setting) | Names(setting=setting):
            yield setting


@cache
def by_name() -> Mapping[str, Setting]:
    return {setting.name: setting for setting in settings_of()}


def _fields(cls: type[msgspec.Struct]) -> Iterator[tuple[str, Any, Any]]:  # Any: types, and values of them
    hints = get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        yield field.name, hints[field.name], default


def _node(name: str, annotation: Any, default: Any, place: tuple[str, ...], text: str) -> Node:  # Any: as above
    setting = Setting(name=name, place=place, annotation=annotation, default=default, text=text)
    match shapes.type_info(annotation):
        case shapes.StructType(cls=cls):
            return _group(cls, name, default, place, text)
        case shapes.VarTupleType(item_type=shapes.StructType(cls=cls)):
            return Items(setting=setting, item=_group(cls, name, msgspec.NODEFAULT, place, text), cls=cls)
        case shapes.DictType():
            return Names(setting=setting, annotation=annotation.__args__[1])
        case _:
            return setting


def _group(cls: type[msgspec.Struct], name: str, value: Any, place: tuple[str, ...], text: str) -> Group:
    # value: the default of the structure as a whole, which may say something else than its class. Any: of that class
    texts = descriptions(cls)
    members = {
        field: _node(
            f"{name}.{field}",
            annotation,
            default if value is msgspec.NODEFAULT else getattr(value, field),
            (*place, field),
            texts.get(field, ""),
        )
        for field, annotation, default in _fields(cls)
    }
    return Group(name=".".join(place), title=text, members=members)


_ENTRY = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*)\s+(\S.*)")


@cache
def descriptions(cls: type[msgspec.Struct]) -> Mapping[str, str]:
    """What the docstring of a structure says about each of its fields."""
    found: dict[str, str] = {}
    current: list[str] = []
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        entry = _ENTRY.fullmatch(line)
        names = entry[1].split(", ") if entry is not None else []
        if entry is not None and all(name in cls.__struct_fields__ for name in names):
            current = names
            found.update(dict.fromkeys(names, entry[2]))
        elif line.startswith("  ") and current:
            found.update({name: f"{found[name]} {line.strip()}" for name in current})
        else:
            current = []
    return found


def extra_of(shape: shapes.Type) -> Mapping[str, Any]:  # Any: what `msgspec.Meta` was given
    """What a type says about itself beyond its range, wherever in it that stands."""
    match shape:
        case shapes.Metadata(extra=extra, type=inner):
            return {**extra_of(inner), **(extra or {})}
        case shapes.UnionType(types=types):
            return {key: value for one in types for key, value in extra_of(one).items()}
        case shapes.VarTupleType(item_type=inner) | shapes.DictType(value_type=inner):
            return extra_of(inner)
        case _:
            return {}
