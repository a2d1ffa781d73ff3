"""A configuration file with every setting and its default, in comments, made from the declarations themselves."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final, assert_never

import msgspec
from msgspec.inspect import LiteralType

from deepserve.config import LIVE
from deepserve.configuration.declarations import Group, Items, Names, Setting, root
from deepserve.configuration.toml_text import encode_value
from deepserve.configuration.values import describe, plain

_WIDTH: Final = 118

_HEAD: Final = """\
deepserve's configuration: every setting with its default. Uncomment what you change.

Sizes and times are numbers of bytes and seconds, or texts such as "64m" and "7d". Relative paths begin beside this
file. Each setting is a variable of the environment, too, and most are options of `deepserve serve`: options go before
variables, variables before this file. `deepserve config check` reads it without starting anything.

A running server reads this file again when it changes, or on SIGHUP. What is marked with * waits for the next start.

Keys are never written here: name a file that holds them, or keep them in the environment.\
"""


def example() -> str:
    """Reads back as the default settings."""
    return "\n".join([*_comment(_HEAD), *_group(root(), level=0)]) + "\n"


def _group(group: Group, *, level: int) -> Iterator[str]:
    for node in group.members.values():
        match node:
            case Setting():
                yield from ["", *_setting(node)]
            case Group():
                yield from ["", *_title(node, level), f"[{node.name}]", *_group(node, level=level + 1)]
            case Items():
                yield from ["", *_comment(_sentence(node.setting)), f"# [[{node.item.name}]]"]
                yield from _group(node.item, level=level + 1)
            case Names() if level > 0:  # a head of its own would end the table that it stands in
                yield from [
                    "",
                    *_comment(_sentence(node.setting)),
                    f"# {node.setting.key} = {{ NAME = {_sample(node)} }}",
                ]
            case Names():
                yield from ["", *_comment(_sentence(node.setting)), f"# [{node.setting.key}]"]
                yield f"# NAME = {_sample(node)}"
            case _:
                assert_never(node)


def _title(group: Group, level: int) -> Iterable[str]:
    text = group.title[:1].upper() + group.title[1:]
    return [f"# --- {text} ".ljust(_WIDTH, "-")] if level == 0 else _comment(text)


def _setting(setting: Setting) -> Iterator[str]:
    yield from _comment(_sentence(setting))
    hint = describe(setting.key, setting.annotation)
    if setting.default is msgspec.NODEFAULT:
        yield f"# {setting.key} = ...  # must be given"
    elif setting.default is None:
        yield f"# {setting.key} =  # not set; {hint}"
    elif setting.extra.get("is_secret"):
        yield f"# {setting.key}: only in {setting.variable}"
    else:
        line = f"# {setting.key} = {encode_value(setting.default, key=setting.key, shape=setting.shape)}"
        yield f"{line}  # {hint}" if isinstance(plain(setting.shape), LiteralType) else line


def _sentence(setting: Setting) -> str:
    """The description, and whether it waits for a restart."""
    return ("" if is_live(setting.name) else "* ") + re.sub(r"\bNone\b", "not set", setting.text)


def is_live(name: str) -> bool:
    """Whether a running server takes a change of this setting."""
    return name in LIVE or name.partition(".")[0] in LIVE


def _sample(names: Names) -> str:
    return "[…]" if "tuple" in str(names.annotation) else '"…"'


def _comment(text: str) -> list[str]:
    paragraphs = [textwrap.wrap(one, _WIDTH - 2, break_on_hyphens=False) for one in text.split("\n\n")]
    return [f"# {line}".rstrip() for paragraph in paragraphs for line in ("", *paragraph)][1:]
