"""Tools that the server runs, which the caller never sees."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.core.answer import collect
from deepserve.core.errors import UnsupportedFeature
from deepserve.core.events import Event
from deepserve.core.request import ServerTool, ToolChoice
from deepserve.dialects.runware.response import encode_ended
from deepserve.dialects.runware.stream import DONE, StreamEncoder
from deepserve.dialects.runware.wire import encode
from deepserve.gateway import Gateway
from deepserve.tools.tool_loop import ToolLoop
from deepserve.tools.toolbox import EMPTY, Toolbox
from tests.dialects.runware.decoding import decode
from tests.dialects.runware.exchange import METER
from tests.tools.scripted_tool import ScriptedTool, ran

TOOLS = [{"type": "search"}, {"type": "codeInterpreter"}]
FUNCTION = {"type": "function", "name": "weather", "schema": {}}


def _gateway(tool: ScriptedTool, *calls: ScriptedCall, toolbox: Toolbox | None = None) -> Gateway:
    rules = (
        Rule(when=When(last_role="user"), reply=Reply(text="I look.", tool_calls=calls)),
        Rule(reply=Reply(text="It rains.")),
    )
    toolbox = toolbox or Toolbox({"web_search": tool, "code_interpreter": ScriptedTool(ran)})
    return Gateway(ScriptedBackend(Script(rules=rules)), tools=ToolLoop(toolbox), meter=METER)


SEARCH = ScriptedCall(name="search", arguments='{"query": "rain"}')


def _item(**task: Any) -> dict[str, Any]:  # Any: JSON
    inference = decode(**task)
    answer = asyncio.run(collect(_gateway(ScriptedTool(), SEARCH).answer(inference.request)))
    item: dict[str, Any] = json.loads(encode(encode_ended(inference, answer.results, answer.usage, answer.cost)))[
        "items"
    ][0]
    return item


def test_the_examples_of_the_documentation_are_read() -> None:
    for kind, tool in (("search", "web_search"), ("codeInterpreter", "code_interpreter")):
        request = decode(tools=[{"type": kind}]).request
        assert request.server_tools == (ServerTool(tool=tool, name=kind),)  # type: ignore[arg-type]  # of the table
    forced = decode(tools=[*TOOLS, FUNCTION], toolChoice={"type": "tool", "name": "search"}).request
    assert forced.tool_choice == ToolChoice(mode="named", names=("search",))


def test_the_answer_is_written_with_what_was_found_and_shows_no_calls() -> None:
    item = _item(tools=TOOLS, includeUsage=True)
    assert (item["text"], item["finishReason"]) == ("I look.\n\nIt rains.", "stop")
    assert "toolCalls" not in item
    assert item["usage"]["promptTokens"] > 20, "of both rounds"


def test_streamed_is_whole() -> None:
    inference = decode(tools=TOOLS, deliveryMethod="stream", includeUsage=True, includeCost=True)
    gateway, writer = _gateway(ScriptedTool(), SEARCH), StreamEncoder(inference)

    async def run() -> list[Event]:
        return [event async for event in gateway.answer(inference.request)]

    frames = b"".join(map(writer.encode, asyncio.run(run())))
    chunks = [json.loads(frame.removeprefix(b"data: ")) for frame in frames.split(b"\n\n")[:-1]]
    whole = _item(tools=TOOLS, includeUsage=True, includeCost=True)
    assert "".join(chunk["delta"].get("text", "") for chunk in chunks) == whole["text"]
    assert [chunks[-1][name] for name in ("finishReason", "usage", "cost")] == [
        whole[name] for name in ("finishReason", "usage", "cost")
    ]
    assert not any("toolCalls" in chunk["delta"] for chunk in chunks)
    assert writer.finish() == DONE


def test_a_call_of_the_callers_own_function_is_shown() -> None:
    inference = decode(tools=[*TOOLS, FUNCTION])
    gateway = _gateway(ScriptedTool(), SEARCH, ScriptedCall(name="weather"))
    answer = asyncio.run(collect(gateway.answer(inference.request)))
    item = json.loads(encode(encode_ended(inference, answer.results, answer.usage, answer.cost)))["items"][0]
    assert [call["name"] for call in item["toolCalls"]] == ["weather"]
    assert item["finishReason"] == "tool_calls"


def test_a_server_without_the_tool_refuses_the_task() -> None:
    gateway = _gateway(ScriptedTool(), toolbox=EMPTY)
    with pytest.raises(UnsupportedFeature, match="cannot be run by this server"):
        asyncio.run(collect(gateway.answer(decode(tools=TOOLS).request)))
