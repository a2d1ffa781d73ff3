"""Whatever form is asked for, in whatever dialect, thinking or not, streamed or whole: the answer has it.

Of the model that ships, and of one with random weights, which writes noise without end wherever nothing holds it: drawn
from its distribution where the dialect knows seeds, and the likeliest token where it does not.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest
from bench.random_weights import write_checkpoint

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.config import Settings
from deepserve.core.messages import Message, Text
from deepserve.core.request import Effort, ResponseFormat, Tool, ToolChoice
from deepserve.engine.native.shared_library import find_library
from tests.conftest import MINI_FLASH
from tests.dialects.speakers import SPEAKERS, Conversation, Speaker, Told, frames, wishes
from tests.server.live import LiveServer, live_server

NUM_AT_ONCE = 8
TIMEOUT_S = 120
MAX_TOKENS = 120
EFFORTS: tuple[Effort | None, ...] = (None, "low", "high", "max")
MARKUP = ("｜", "DSML", "<think>", "</think>")

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "large"]},
        "rivers": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2},
        "founded": {"type": ["integer", "null"], "minimum": -2000, "maximum": 2030},
    },
    "required": ["name", "size", "rivers"],
    "additionalProperties": False,
}
PATTERN = "(sunny|rainy), [0-9]{1,2} degrees( in [A-Z][a-z]{2,9})?"
WEATHER = Tool(
    name="get_weather",
    description="The weather of a city.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "unit": {"enum": ["c", "f"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
)
WAIT = Tool(
    name="wait",
    description="Do nothing for a while.",
    parameters={
        "type": "object",
        "properties": {"seconds": {"type": "number", "minimum": 0, "maximum": 60}},
        "required": ["seconds"],
        "additionalProperties": False,
    },
)
TOOLS = (WEATHER, WAIT)
STRICT_TOOLS = tuple(msgspec.structs.replace(tool, strict=True) for tool in TOOLS)
QUESTION = Message(role="user", parts=(Text("What is the weather in Paris? Answer as json."),))
ASKED = Conversation(messages=(QUESTION,), max_tokens=MAX_TOKENS)


def asking(**changes: Any) -> Conversation:  # Any: fields of Conversation
    return msgspec.structs.replace(ASKED, **changes)


WISHES: Mapping[str, Conversation] = {
    "JSON mode": asking(form=ResponseFormat(kind="json_object")),
    "a schema": asking(form=ResponseFormat(kind="json_schema", schema=CITY, strict=True)),
    "a pattern": asking(form=ResponseFormat(kind="regex", pattern=PATTERN)),
    "one of some texts": asking(form=ResponseFormat(kind="choice", choices=("yes", "no", "perhaps not"))),
    "a schema beside tools": asking(tools=TOOLS, form=ResponseFormat(kind="json_schema", schema=CITY, strict=True)),
    "strict tools": asking(tools=STRICT_TOOLS),
    "strict tools, required": asking(tools=STRICT_TOOLS, choice=ToolChoice(mode="required")),
    "required": asking(tools=TOOLS, choice=ToolChoice(mode="required")),
    "any, one at a time": asking(tools=TOOLS, choice=ToolChoice(mode="required", is_parallel=False)),
    "named": asking(tools=TOOLS, choice=ToolChoice(mode="named", names=("wait",))),
    "none": asking(tools=TOOLS, choice=ToolChoice(mode="none")),
    "an allowed list": asking(tools=TOOLS, choice=ToolChoice(names=("wait",))),
    "an allowed list, required": asking(tools=TOOLS, choice=ToolChoice(mode="required", names=("wait",))),
}


@pytest.fixture(scope="module", params=["the shipped model", "random weights"])
def weights(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def live(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    if find_library() is None:
        pytest.importorskip("torch", reason="the shipped model needs the native core or deepserve[reference]")
    settings = Settings()
    if weights == "random weights":
        settings = msgspec.structs.replace(settings, model_path=random_model(tmp_path_factory.mktemp("models")))
    with live_server(EmbeddedBackend.load(settings), settings) as server:
        yield server


def random_model(folder: Path) -> Path:
    """A checkpoint of noise that reads and writes the shipped model's tokens."""
    model = folder / "mini-random"
    model.mkdir()
    write_checkpoint(model, json.loads((MINI_FLASH / "config.json").read_text()))
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(MINI_FLASH / name, model / name)
    return model


def faults(conversation: Conversation, told: Told) -> Iterator[str]:
    """What is wrong with an answer."""
    asked_for = wishes(conversation)
    choice, form = conversation.choice, conversation.form
    if told.calls and conversation.tools:
        form = ResponseFormat()  # a call is an answer, too
        if conversation.form.kind != "text" and told.text:
            yield f"{told.text!r} beside a call"
    if not told.text and not told.calls:
        yield "nothing was answered"
    if any(mark in told.text + "".join(arguments for _, arguments in told.calls) for mark in MARKUP):
        yield "markup leaked"
    if conversation.effort is None and told.trace:
        yield "it thought"
    if told.calls and told.finish != "tool_calls":
        yield f"calls that end by {told.finish}"
    match form.kind:
        case "json_object":
            yield from json_faults(told.text, {"type": "object"})
        case "json_schema":
            yield from json_faults(told.text, form.schema)
        case "regex" if not re.fullmatch(PATTERN, told.text):
            yield f"{told.text!r} does not match"
        case "choice" if told.text not in form.choices:
            yield f"{told.text!r} is no choice"
    if form.kind != "text" and told.finish != "stop":
        yield f"ended by {told.finish}"
    tools = {tool.name: tool for tool in conversation.tools if not choice.names or tool.name in choice.names}
    if choice.mode == "none":
        tools = {}
    for name, arguments in told.calls:
        if name not in tools:
            yield f"{name} must not be called"
        else:
            yield from json_faults(arguments, tools[name].parameters)
    if asked_for & {"required", "named"} and not told.calls:
        yield "no call was made"
    if not choice.is_parallel and len(told.calls) > 1:
        yield f"{len(told.calls)} calls at a time"


def json_faults(text: str, schema: Any) -> Iterator[str]:  # Any: JSON
    try:
        jsonschema_rs.validator_for(schema).validate(json.loads(text))
    except (ValueError, jsonschema_rs.ValidationError) as error:
        yield f"{text!r}: {error}"


async def ask(client: httpx.AsyncClient, speaker: Speaker, conversation: Conversation, *, is_stream: bool) -> list[str]:
    answer = await client.post(speaker.path, json=speaker.body(conversation, is_stream=is_stream))
    if answer.status_code != 200:
        return [answer.text]
    told = speaker.read_stream(frames(answer.text)) if is_stream else speaker.read(answer.json())
    return list(faults(conversation, told))


def cells(speaker: Speaker, *, is_drawn: bool) -> dict[str, tuple[Conversation, bool]]:
    """What to ask, and whether streamed. is_drawn: each answer by a seed of its own."""
    has_seeds = is_drawn and "seed" not in speaker.unsayable
    found: dict[str, tuple[Conversation, bool]] = {}
    for (name, conversation), effort, is_stream in product(WISHES.items(), EFFORTS, (False, True)):
        if not wishes(conversation) & speaker.unsayable:
            seed = len(found) if has_seeds else None
            asked = msgspec.structs.replace(conversation, effort=effort, seed=seed)
            found[f"{name}, effort {effort}, {'streamed' if is_stream else 'whole'}"] = (asked, is_stream)
    return found


UNENFORCEABLE: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}},
    "required": ["a"],
    "additionalProperties": False,
}
WRITTEN_AT: Mapping[str, tuple[str, str]] = {
    "chat": ("response_format.json_schema.schema", "tools[0].function.parameters"),
    "openrouter": ("response_format.json_schema.schema", "tools[0].function.parameters"),
    "oxen": ("response_format.json_schema.schema", "tools[0].function.parameters"),
    "messages": ("output_config.format.schema", "tools[0].input_schema"),
    "responses": ("text.format.schema", "tools[0].parameters"),
    "runware": ("jsonSchema", "tools.0.schema"),
}
"""Where each dialect has the schemas of the answer and of a tool's arguments."""


@pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda speaker: speaker.name)
def test_what_cannot_be_enforced_is_refused_where_the_client_wrote_it(live: LiveServer, speaker: Speaker) -> None:
    of_answer, of_tool = WRITTEN_AT[speaker.name]
    tool = Tool(name="f", parameters=UNENFORCEABLE, strict=True)
    form = ResponseFormat(kind="json_schema", schema=UNENFORCEABLE, strict=True)
    for conversation, path in ((asking(form=form), of_answer), (asking(tools=(tool,)), of_tool)):
        if not wishes(conversation) & speaker.unsayable:
            body = speaker.body(conversation, is_stream=False)
            answer = httpx.post(live.address + speaker.path, json=body, timeout=TIMEOUT_S)
            assert answer.status_code == 400, answer.text
            assert path in answer.text
            assert "uniqueItems" in answer.text
            assert "/properties/a" in answer.text


@pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda speaker: speaker.name)
def test_every_answer_has_the_form_that_was_asked_for(live: LiveServer, weights: str, speaker: Speaker) -> None:
    asked_for = cells(speaker, is_drawn=weights == "random weights")

    async def run() -> list[list[str]]:
        limits = httpx.Limits(max_connections=NUM_AT_ONCE)
        async with httpx.AsyncClient(base_url=live.address, limits=limits, timeout=TIMEOUT_S) as client:
            return await asyncio.gather(
                *(ask(client, speaker, one, is_stream=is_stream) for one, is_stream in asked_for.values())
            )

    assert len(asked_for) >= len(EFFORTS) * 2 * 5
    assert {name: wrong for name, wrong in zip(asked_for, asyncio.run(run()), strict=True) if wrong} == {}
