"""The checks that every choice among the tools of a request must pass, whatever the dialect calls it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from deepserve.core.errors import InvalidField
from deepserve.core.request import ToolChoice

_FIELD = "tool_choice"


def required_choice(offered: Collection[str]) -> ToolChoice:
    """At least one call. Raises InvalidField where there is nothing to call."""
    if not offered:
        raise InvalidField("tool_choice demands a call, but no tools are offered: fill `tools`.", field=_FIELD)
    return ToolChoice(mode="required")


def named_choice(name: str, offered: Collection[str]) -> ToolChoice:
    """A call of one tool. Raises InvalidField where it is not offered."""
    check_offered(name, offered)
    return ToolChoice(mode="named", names=(name,))


def allowed_choice(mode: Literal["auto", "required"], names: Iterable[str], offered: Collection[str]) -> ToolChoice:
    """Only some of the tools may be called; all of them stay in the prompt, so that its prefix is not another one.

    Raises InvalidField for an empty list: `none` says that.
    """
    allowed = tuple(dict.fromkeys(names))
    for name in allowed:
        check_offered(name, offered)
    if not allowed:
        raise InvalidField("tool_choice allows no tool at all: name some, or send `none`.", field=_FIELD)
    return ToolChoice(mode=mode, names=allowed)


def check_offered(name: str, offered: Collection[str]) -> None:
    if name not in offered:
        raise InvalidField(f"tool_choice names `{name[:64]}`, which is not in tools.", field=_FIELD)
