"""Command-line options made from the declarations of settings, and commands that show them in groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec.inspect as shapes
from typing_extensions import override

from deepserve.configuration.declarations import Setting, by_name
from deepserve.configuration.toml_text import encode_value
from deepserve.configuration.values import WrongValue, choices, plain, read_text

Function = TypeVar("Function", bound=Callable[..., Any])  # Any: click passes a command's options by name


class SettingOption(click.Option):
    """group: the heading under which the help shows it."""

    def __init__(self, *arguments: Any, group: str = "", **keywords: Any) -> None:  # Any: click's own
        super().__init__(*arguments, **keywords)
        self.group = group


class GroupedCommand(click.Command):
    """Its help shows options under headings, those without one last."""

    @override
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", ""), []).append(record)
        others = groups.pop("", [])
        for heading, records in [*groups.items(), ("Other options", others)]:
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def setting_option(
    name: str,
    *flags: str,
    group: str,
    help: str | None = None,  # noqa: A002 - as click calls it
    metavar: str | None = None,
    read: Callable[[Any], Any] | None = None,  # Any: what click hands over, and a value of the setting
    multiple: bool = False,
) -> Callable[[Function], Function]:
    """An option for a setting, which is None where it is not given.

    flags  as they are written; by default the setting's name with hyphens
    help   by default what the setting's declaration says
    read   makes the setting's value of the text, or texts; by default its type does. Raises click.BadParameter
    """
    setting = by_name()[name]
    shape = plain(setting.shape)
    flag = flags[0] if flags else "--" + name.replace("_", "-")
    is_list = isinstance(shape, shapes.VarTupleType)
    keywords: dict[str, Any] = {}  # Any: click's own
    if isinstance(shape, shapes.BoolType):
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    elif read is not None:
        keywords["callback"] = lambda _context, _parameter, given: None if given in (None, ()) else read(given)
    elif is_list:
        keywords["callback"] = lambda _context, _parameter, given: tuple(given) or None
    else:
        keywords["type"] = _SettingType(setting)
    if not isinstance(shape, shapes.BoolType):
        keywords |= {"metavar": metavar or _metavar(setting), "multiple": multiple or is_list}
    return click.option(
        flag,
        name,
        cls=SettingOption,
        group=group,
        default=None,
        help=_help(help or _sentence(setting), setting),
        **keywords,
    )


def options(*decorators: Callable[[Any], Any]) -> Callable[[Function], Function]:  # Any: as above
    """Several options as one decorator, in the order in which the help shows them."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


class _SettingType(click.ParamType[Any]):  # Any: a value of the setting
    """A text, read as the environment's are."""

    name = "setting"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # Any: click's own
        if not isinstance(value, str):
            return value
        setting = self._setting
        try:
            return read_text(value, setting.annotation, key=setting.key, base=Path.cwd())
        except WrongValue as wrong:
            self.fail(f"it {wrong}.", param, ctx)


def _metavar(setting: Setting) -> str:
    named = choices(setting.annotation)
    if named:
        return f"[{'|'.join(named)}]"
    match plain(setting.shape):
        case shapes.IntType() if "bytes" in setting.key:
            return "SIZE"
        case shapes.IntType():
            return "NUMBER"
        case shapes.FloatType():
            return "TIME"
        case shapes.CustomType():
            return {"file": "FILE", "folder": "FOLDER"}.get(setting.extra.get("exists", ""), "PATH")
        case _:
            return "TEXT"


def _sentence(setting: Setting) -> str:
    text = setting.text.replace("None: ", "not given: ")
    return f"{text[:1].upper()}{text[1:]}."


def _help(text: str, setting: Setting) -> str:
    default = setting.default
    if default is None or default in ((), {}) or isinstance(default, bool) or setting.extra.get("is_secret"):
        return text
    shown = encode_value(default, key=setting.key, shape=setting.shape).replace("_", "").strip('"')
    return f"{text}  [default: {shown}]"
