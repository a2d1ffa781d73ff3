"""A conversation made shorter: the request that asks for a summary, and the item that carries it.

The item is opaque to clients and nothing is kept for it: it holds the summary itself, sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from deepserve.core.errors import InvalidField
from deepserve.core.messages import Json, Message, Text
from deepserve.dialects.node import Node

_INSTRUCTION = (
    "The conversation above is about to be replaced by a summary of it, written by you now. Another turn will go on "
    "from the summary alone. Write down everything needed for that: what the user wants and every constraint they "
    "set; what was decided and why; what was done, with the names of files, functions, commands and their outcomes; "
    "what failed; what is open, and the next step. Quote exact names, numbers and error texts. Call no tools. Write "
    "only the summary."
)

_BEFORE = "Summary of the conversation so far:\n\n"

MAX_KEPT_CHARACTERS = 80_000
"""Of what the user said; some 20,000 tokens of English."""


def ask_for_summary(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same conversation with one more turn, so that what is cached of it stays valid."""
    return (*messages, Message(role="user", parts=(Text(_INSTRUCTION),)))


def open_summary(node: Node, unseal: Callable[[str], str | None]) -> str:
    """What the model reads instead of the conversation. Raises InvalidField for what did not come from here."""
    summary = unseal(node.string())
    if summary is None:
        raise InvalidField(
            "This compaction item cannot be read. Only what `/responses/compact` of this server gave to the same "
            "account can be, unaltered.",
            field=node.field,
        )
    return _BEFORE + summary


def kept_messages(items: Sequence[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """Messages that a summary does not replace: all instructions, and the latest of what the user said."""
    kept: list[Mapping[str, Json]] = []
    room = MAX_KEPT_CHARACTERS
    for item in reversed(items):
        role = item.get("role")
        if item.get("type") != "message" or role == "assistant":
            continue
        if role == "user":
            room -= sum(len(text) for part in item["content"] if isinstance(text := part.get("text"), str))
            if room < 0:
                continue
        kept.append(item)
    return kept[::-1]
