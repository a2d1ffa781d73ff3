"""The page on enforced output says what each dialect has words for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from deepserve.core.messages import Message, Text
from deepserve.core.request import ResponseFormat, Tool, ToolChoice
from tests.dialects.speakers import SPEAKERS, Conversation, Json, wishes

PAGE = Path(__file__).parents[2] / "docs" / "enforced-output.md"
COLUMNS = {"Chat, OpenRouter, Oxen": "chat", "Messages": "messages", "Responses": "responses", "Runware": "runware"}
SILENCE = "no word for it"
TOOL = Tool(name="f", parameters={"type": "object"})
ASKED = (Message(role="user", parts=(Text("?"),)),)


def asked(
    form: ResponseFormat | None = None, choice: ToolChoice | None = None, *, strict: bool = False
) -> Conversation:
    tool = Tool(name="f", parameters=TOOL.parameters, strict=strict)
    return Conversation(
        messages=ASKED,
        tools=(tool,) if choice or strict else (),
        choice=choice or ToolChoice(),
        form=form or ResponseFormat(),
    )


ROWS: Mapping[str, Conversation] = {
    "a JSON object": asked(ResponseFormat(kind="json_object")),
    "JSON by a schema": asked(ResponseFormat(kind="json_schema", schema={"type": "object"}, strict=True)),
    "text by a pattern": asked(ResponseFormat(kind="regex", pattern="a")),
    "one of some texts": asked(ResponseFormat(kind="choice", choices=("a",))),
    "strict arguments": asked(strict=True),
    "at least one call": asked(choice=ToolChoice(mode="required")),
    "a call of one tool": asked(choice=ToolChoice(mode="named", names=("f",))),
    "no call": asked(choice=ToolChoice(mode="none")),
    "calls of some tools only": asked(choice=ToolChoice(names=("f",))),
    "one call at a time": asked(choice=ToolChoice(is_parallel=False)),
}


def table() -> dict[str, dict[str, str]]:
    """Row -> column -> cell, of the page's table."""
    section = PAGE.read_text().split("## In each dialect")[1].split("\n## ")[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    header = lines[0][1:]
    return {line[0]: dict(zip(header, line[1:], strict=True)) for line in lines[2:]}


def words(body: Json) -> set[str]:
    """Every name and every text in a body."""
    match body:
        case dict():
            return {word for name, value in body.items() if value is not None for word in (name, *words(value))}
        case list():
            return {word for item in body for word in words(item)}
        case str():
            return {body}
        case _:
            return set()


def test_every_wish_is_spelled_as_the_page_says_or_has_no_word() -> None:
    found = table()
    assert found.keys() == ROWS.keys()
    speakers = {speaker.name: speaker for speaker in SPEAKERS}
    for row, conversation in ROWS.items():
        assert found[row].keys() == COLUMNS.keys()
        for column, name in COLUMNS.items():
            cell, speaker = found[row][column], speakers[name]
            is_silent = bool(wishes(conversation) & speaker.unsayable)
            assert (cell == SILENCE) == is_silent, (row, column)
            if not is_silent:
                spelled = {word for code in re.findall(r"`([^`]+)`", cell) for word in re.findall(r"\w+", code)}
                assert spelled <= words(speaker.body(conversation, is_stream=False)), (row, column)
