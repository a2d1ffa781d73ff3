"""Settings as TOML, with where each came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, assert_never

from deepserve.config import Settings
from deepserve.configuration.configuration import Configuration
from deepserve.configuration.declarations import Group, Items, Names, Setting, root
from deepserve.configuration.toml_text import encode_key, encode_value, given_fields
from deepserve.configuration.values import without_password

Note = Callable[[Setting, Any], str | None]  # Any: the setting's value
"""What stands behind a line; None leaves the line out."""


def show_settings(configuration: Configuration) -> str:
    """All settings in force."""

    def note(setting: Setting, _: Any) -> str | None:  # Any: the setting's value
        return str(configuration.origin(setting.name))

    return _document(configuration.settings, note)


def show_differences(configuration: Configuration) -> str:
    """Settings that differ from their defaults; empty where none does."""

    def note(setting: Setting, value: Any) -> str | None:  # Any: as above
        origin = configuration.origin(setting.name)
        return None if origin.layer == "default" or value == setting.default else str(origin)

    return _document(configuration.settings, note)


def _document(settings: Settings, note: Note) -> str:
    blocks = [block for node in root().members.values() if (block := "\n".join(_block(node, settings, note)))]
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _block(node: Setting | Group | Items | Names, settings: Settings, note: Note) -> Iterator[str]:
    match node:
        case Group():
            lines = [
                line
                for member in node.members.values()
                if isinstance(member, Setting)
                for line in _line(member, _value(settings, member.name), note)
            ]
            if lines:
                yield f"[{node.name}]"
                yield from lines
        case Items(setting=setting):
            value = _value(settings, setting.name)
            told = note(setting, value)
            for item in value if told is not None else ():
                yield f"[[{setting.key}]]  # {told}"
                for key, one in given_fields(item).items():
                    yield f"{encode_key(key)} = {encode_value(one, key=key)}"
        case Names(setting=setting):
            value = _value(settings, setting.name)
            told = note(setting, value)
            if value and told is not None:
                yield f"[{setting.key}]  # {told}"
                for key, one in value.items():
                    yield f"{encode_key(key)} = {encode_value(one, key=key)}"
        case Setting():
            yield from _line(node, _value(settings, node.name), note)
        case _:
            assert_never(node)


def _line(setting: Setting, value: Any, note: Note) -> Iterator[str]:  # Any: the setting's value
    told = note(setting, value)
    if told is None:
        return
    if setting.extra.get("is_secret"):
        yield f"# {setting.key}: {len(value) if value else 'none'}  # {told}"
    elif value is None:
        yield f"# {setting.key} =  # not set"
    else:
        shown = without_password(value) if isinstance(value, str) else value
        yield f"{setting.key} = {encode_value(shown, key=setting.key, shape=setting.shape)}  # {told}"


def _value(settings: Settings, name: str) -> Any:  # Any: the setting's value
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
