"""The choice among the tools of a request: the checks it must pass whatever the dialect calls it, and how the dialects
that OpenAI began write it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Literal

import msgspec

from deepserve.core.errors import InvalidField
from deepserve.core.request import Thinking, ToolChoice
from deepserve.dialects.node import Node
from deepserve.dialects.reading import Reading

_FIELD = "tool_choice"


def decode_tool_choice(
    reading: Reading, thinking: Thinking, offered: Collection[str], *, read_object: Callable[[Node], ToolChoice]
) -> ToolChoice:
    """The members `tool_choice` and `parallel_tool_calls` of a body.

    offered      the names of all tools
    read_object  reads a choice that is more than a word
    """
    parallel = reading.extension("parallel_tool_calls")
    is_parallel = parallel is None or parallel.boolean()
    node = reading.root.optional(_FIELD)
    if node is None:
        return ToolChoice(is_parallel=is_parallel)
    choice = _choice_by_word(node, offered) if isinstance(node.value, str) else read_object(node)
    if choice.mode in ("required", "named") and reading.is_strict and thinking.enabled:
        raise InvalidField("Thinking mode does not support this tool_choice", field=_FIELD)
    return msgspec.structs.replace(choice, is_parallel=is_parallel)


def _choice_by_word(node: Node, offered: Collection[str]) -> ToolChoice:
    match node.variant(("none", "auto", "required")):
        case "none":
            return ToolChoice(mode="none")
        case "auto":
            return ToolChoice()
        case _:
            return required_choice(offered)


def decode_allowed_mode(allowed: Node) -> Literal["auto", "required"]:
    """Whether a list of allowed tools demands a call of one of them."""
    return "auto" if allowed.required("mode").variant(("auto", "required")) == "auto" else "required"


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
