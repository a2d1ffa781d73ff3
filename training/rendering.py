"""Conversations as text in the V4 prompt grammar (our `mini` wording), cut where special tokens stand.

This is the same grammar as `deepserve.prompt` with the profile `mini`; a test holds the two equal on thousands of
conversations. It exists beside it because training needs to know which characters are answers to be learned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from training.conversations import Call, Conversation, Tool, Turn

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK = "<think>"
THINK_END = "</think>"
DSML = "｜DSML｜"

EFFORT_PREFIX = {"low": "", "high": "Think carefully.\n\n", "max": "Think as long as needed.\n\n"}
JSON_INSTRUCTION = "## Response Format\n\nJSON only."


class Piece(msgspec.Struct, frozen=True):
    """A run of text, or one special token; `learned` if the model is to write it."""

    text: str
    special: bool = False
    learned: bool = False


def tools_section(tools: tuple[Tool, ...]) -> str:
    """The part of the system text that describes the tools."""
    lines = [
        json.dumps({"name": tool.name, "description": tool.description, "parameters": tool.parameters}, ensure_ascii=False)
        for tool in tools
    ]
    return "## Tools\n\n" + "\n".join(lines) + "\n\nCall a tool only when it fits.\n"


def _value(value: Any) -> tuple[str, str]:
    """The `string` attribute and the text of an argument (any JSON value, hence Any)."""
    return ("true", value) if isinstance(value, str) else ("false", json.dumps(value, ensure_ascii=False))


def _calls(calls: tuple[Call, ...]) -> Iterator[Piece]:
    """The tool block, every `｜DSML｜` a special token of its own."""

    def tag(before: str, after: str) -> Iterator[Piece]:
        yield Piece(before, learned=True)
        yield Piece(DSML, special=True, learned=True)
        yield Piece(after, learned=True)

    yield from tag("\n\n<", "tool_calls>\n")
    for call in calls:
        yield from tag("<", f'invoke name="{call.name}">\n')
        for key, value in call.arguments.items():
            is_string, text = _value(value)
            yield from tag("<", f'parameter name="{key}" string="{is_string}">{text}')
            yield from tag("</", "parameter>\n")
        yield from tag("</", "invoke>\n")
    yield from tag("</", "tool_calls>")


def _assistant(turn: Turn, *, thinks: bool) -> Iterator[Piece]:
    yield Piece(ASSISTANT, special=True)
    yield Piece(THINK if thinks else THINK_END, special=True)
    if thinks:
        yield Piece(turn.reasoning, learned=True)
        yield Piece(THINK_END, special=True, learned=True)
    yield Piece(turn.content, learned=True)
    if turn.calls:
        yield from _calls(turn.calls)
    yield Piece(EOS, special=True, learned=True)


def system_text(conversation: Conversation) -> str:
    """Everything between the start of the sequence and the first turn, without the effort prefix."""
    text = conversation.system or ""
    if conversation.tools:
        text += "\n\n" + tools_section(conversation.tools)
    if conversation.json_object:
        text += "\n\n" + JSON_INSTRUCTION
    return text


def render(conversation: Conversation) -> list[Piece]:
    """The whole conversation, answers included; adjacent text is joined, empty text dropped."""
    return _merged(_pieces(conversation))


def _pieces(conversation: Conversation) -> Iterator[Piece]:
    thinking, turns = conversation.thinking, conversation.turns
    last_user = max(i for i, turn in enumerate(turns) if turn.role == "user")
    yield Piece(BOS, special=True)
    if thinking:
        yield Piece(EFFORT_PREFIX[conversation.effort])
    yield Piece(system_text(conversation))
    for i, turn in enumerate(turns):
        if turn.role == "assistant":
            yield from _assistant(turn, thinks=thinking and (bool(conversation.tools) or i > last_user))
            continue
        if i == 0 or turns[i - 1].role == "assistant":
            yield Piece(USER, special=True)
        else:
            yield Piece("\n\n")
        yield Piece(f"<tool_result>{turn.content}</tool_result>" if turn.role == "tool" else turn.content)


def prompt(conversation: Conversation) -> list[Piece]:
    """What the model is given: everything before the last answer, its opener included."""
    shortened = msgspec.structs.replace(conversation, turns=conversation.turns[:-1])
    thinking = conversation.thinking
    opener = THINK if thinking else THINK_END
    # Without tools the reasoning of turns before the last user turn is dropped either way, so both renderings agree.
    return _merged([*_pieces(shortened), Piece(ASSISTANT, special=True), Piece(opener, special=True)])


def _merged(pieces: Iterator[Piece] | list[Piece]) -> list[Piece]:
    found: list[Piece] = []
    for piece in pieces:
        if not piece.text:
            continue
        last = found[-1] if found else None
        if last is not None and not last.special and not piece.special and last.learned == piece.learned:
            found[-1] = Piece(last.text + piece.text, learned=last.learned)
        else:
            found.append(piece)
    return found


def text_of(pieces: list[Piece]) -> str:
    """The plain rendering."""
    return "".join(piece.text for piece in pieces)
