"""Items of tools that the server runs: streamed, whole, and sent back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.core.answer import collect
from deepserve.core.events import Event
from deepserve.core.server_tool import PlainOutput, ToolFault
from deepserve.core.tool import Tool
from deepserve.gateway import Gateway
from deepserve.tools.runner import ToolRunner
from deepserve.tools.tool_loop import ToolLoop
from deepserve.tools.toolbox import Toolbox
from tests.dialects.responses.decoding import HEAD, WEATHER, body, exchange, frames_of
from tests.tools.scripted_tool import ScriptedTool, ran

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)  # Any: the union of all events

ALL = [
    {"type": "web_search"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "mcp", "server_label": "docs"},
    WEATHER,
]
INCLUDE = ["web_search_call.action.sources", "code_interpreter_call.outputs"]


class Docs:
    """A server of the operator's with two functions, one of which is broken."""

    def __init__(self) -> None:
        broken = ScriptedTool(lambda _: ToolFault(code="failed", message="It is broken."))
        self._runners: list[tuple[Tool, ToolRunner]] = [
            (Tool(name="mcp__docs__look"), ScriptedTool(lambda _: PlainOutput(text="Seen."))),
            (Tool(name="mcp__docs__fail"), broken),
        ]

    def functions(self) -> list[tuple[Tool, ToolRunner]]:
        return self._runners


TOOLBOX = Toolbox({"web_search": ScriptedTool(), "code_interpreter": ScriptedTool(ran)}, sources={"docs": Docs()})

SCRIPT = Script(
    rules=(
        Rule(
            when=When(last_role="user"),
            reply=Reply(
                reasoning="I look.",
                text="Wait.",
                tool_calls=(
                    ScriptedCall(name="web_search", arguments='{"query": "q"}'),
                    ScriptedCall(name="code_interpreter", arguments='{"code": "1 + 1"}'),
                    ScriptedCall(name="mcp__docs__look", arguments='{"x": 1}'),
                    ScriptedCall(name="mcp__docs__fail"),
                ),
            ),
        ),
        Rule(reply=Reply(text="As https://example.org/a says.")),
    )
)


def _loop() -> ToolLoop:
    return ToolLoop(TOOLBOX)


def _play(value: Mapping[str, object], script: Script = SCRIPT, loop: ToolLoop | None = None) -> bytes:
    asked = exchange(value)
    gateway = Gateway(ScriptedBackend(script), tools=loop or _loop())

    async def run() -> list[Event]:
        return [event async for event in gateway.answer(asked.request)]

    if not asked.is_stream:
        return asked.encode_answer(asyncio.run(collect(gateway.answer(asked.request))), HEAD)
    writer = asked.open_stream(HEAD)
    return b"".join(map(writer.encode, asyncio.run(run()))) + writer.finish()


def _frames(**fields: object) -> list[dict[str, Any]]:  # Any: JSON
    return frames_of(_play(body(stream=True, tools=ALL, **fields)))


def test_each_call_is_an_item_with_its_events_in_order() -> None:
    frames = _frames(include=INCLUDE)
    of_items: dict[int, list[str]] = {}
    for frame in frames:
        if "output_index" in frame:
            of_items.setdefault(frame["output_index"], []).append(frame["type"].removeprefix("response."))
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    kinds = [item["type"] for item in frames[-1]["response"]["output"]]
    assert kinds == [
        *("reasoning", "message", "web_search_call", "code_interpreter_call", "mcp_call", "mcp_call", "message")
    ]
    assert of_items[2] == [
        "output_item.added",
        "web_search_call.in_progress",
        "web_search_call.searching",
        "web_search_call.completed",
        "output_item.done",
    ]
    assert of_items[3] == [
        "output_item.added",
        "code_interpreter_call.in_progress",
        "code_interpreter_call_code.delta",
        "code_interpreter_call_code.done",
        "code_interpreter_call.interpreting",
        "code_interpreter_call.completed",
        "output_item.done",
    ]
    assert of_items[4][-2:] == ["mcp_call.completed", "output_item.done"]
    assert of_items[5][-2:] == ["mcp_call.failed", "output_item.done"]
    assert "output_text.annotation.added" in of_items[6]


def test_the_official_types_accept_every_event_and_the_whole() -> None:
    for frame in _frames(include=INCLUDE):
        _EVENT.validate_python(frame)
    Response.model_validate_json(_play(body(tools=ALL, include=INCLUDE)))


@pytest.mark.parametrize("fields", [{}, {"include": INCLUDE}, {"max_tool_calls": 1}, {"max_output_tokens": 6}])
def test_streamed_is_whole(fields: dict[str, Any]) -> None:  # Any: JSON
    last = _frames(**fields)[-1]
    assert last["response"] == json.loads(_play(body(tools=ALL, **fields)))


def test_items_show_what_was_asked_for() -> None:
    response = json.loads(_play(body(tools=ALL, include=[*INCLUDE, "web_search_call.results"])))
    _, _, search, code, look, fail, said = response["output"]
    assert search["action"] == {
        "type": "search",
        "query": "q",
        "queries": ["q"],
        "sources": [{"type": "url", "url": url} for url in ("https://example.org/a", "https://example.org/a/b")],
    }
    assert search["results"][0]["snippet"] == "It is so."
    assert code["outputs"] == [
        {"type": "logs", "logs": "one\n2\na warning"},
        {"type": "image", "url": "data:image/svg+xml;base64,PHN2Zy8+"},
    ]
    assert (look["server_label"], look["name"], look["output"], look["error"]) == ("docs", "look", "Seen.", None)
    assert (fail["output"], fail["status"]) == (None, "failed")
    assert fail["error"]["content"] == [{"type": "text", "text": "It is broken."}]
    [annotation] = said["content"][0]["annotations"]
    text = said["content"][0]["text"]
    assert text[annotation["start_index"] : annotation["end_index"]] == annotation["url"] == "https://example.org/a"
    plain = json.loads(_play(body(tools=ALL)))["output"]
    assert "results" not in plain[2]
    assert "sources" not in plain[2]["action"]
    assert plain[3]["outputs"] is None


def test_a_call_that_was_not_carried_out_is_incomplete() -> None:
    response = json.loads(_play(body(tools=ALL, max_output_tokens=6)))
    assert (response["status"], response["output"][-1]["status"]) == ("incomplete", "incomplete")
    assert response["output"][-1]["type"] == "code_interpreter_call"


def test_the_next_turn_shows_the_model_what_was_found() -> None:
    """The client sends no results back, as it never saw them."""
    loop = _loop()
    first = json.loads(_play(body(tools=ALL), loop=loop))
    items = [{"role": "user", "content": "Hello!"}, *first["output"], {"role": "user", "content": "Go on."}]
    prepared = loop.prepare(exchange(body(tools=ALL, input=items)).asked.request).request
    roles = [message.role for message in prepared.messages]
    assert roles == ["user", "assistant", "tool", "tool", "tool", "tool", "assistant", "user"]
    shown = str(prepared.messages)
    assert "It is so." in shown
    assert "no longer known" not in shown
    calls = prepared.messages[1].tool_calls
    assert [call.arguments for call in calls] == ['{"query": "q"}', '{"code": "1 + 1"}', '{"x": 1}', "{}"]


def test_a_forced_search_is_made() -> None:
    value = body(tools=ALL, tool_choice={"type": "web_search"})
    assert exchange(value).asked.request.tool_choice.names == ("web_search",)


def test_odd_arguments_of_the_models_are_shown_all_the_same() -> None:
    odd = ScriptedCall(name="web_search", arguments="no json")
    rules = (Rule(when=When(last_role="user"), reply=Reply(tool_calls=(odd,))), Rule(reply=Reply(text="x")))
    response = json.loads(_play(body(tools=ALL), Script(rules=rules)))
    call = response["output"][0]
    assert (call["status"], call["action"]["query"]) == ("failed", "")
    msgspec.json.encode(response)
