"""Tools that this service runs: how they are asked for, told, cited and sent back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.core.answer import collect
from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.messages import ServerToolCall, ServerToolResult, Text
from deepserve.core.request import ServerTool, ToolBudget, ToolChoice
from deepserve.core.server_tool import PlainOutput
from deepserve.core.web_tools import FetchOptions, SearchOptions
from deepserve.core.web_tools import decode as decode_options
from deepserve.gateway import Gateway
from deepserve.tools.tool_loop import ToolLoop
from deepserve.tools.toolbox import Toolbox
from tests.dialects.chat.openrouter.setup import HEAD, decode, refusal
from tests.tools.scripted_tool import ScriptedTool, found, page

Json = Any

SEARCH: dict[str, Json] = {"type": "openrouter:web_search", "parameters": {"max_results": 3}}
ALL = [SEARCH, {"type": "openrouter:web_fetch"}, {"type": "openrouter:datetime"}]

SCRIPT = Script(
    rules=(
        Rule(
            when=When(last_role="user", has_tools=True),
            reply=Reply(
                reasoning="I look.",
                text="Wait.",
                tool_calls=(ScriptedCall(name="web_search", arguments='{"query": "q"}'),),
            ),
        ),
        Rule(reply=Reply(reasoning="Seen.", text="See https://example.org/a.")),
    )
)


def _loop() -> ToolLoop:
    return ToolLoop(
        Toolbox({"web_search": ScriptedTool(), "web_fetch": ScriptedTool(page), "datetime": ScriptedTool(found)})
    )


def _gateway(loop: ToolLoop | None = None) -> Gateway:
    return Gateway(ScriptedBackend(SCRIPT), tools=loop or _loop())


def _whole(loop: ToolLoop | None = None, **fields: Json) -> Json:
    exchange = decode(**fields)
    return json.loads(exchange.encode_answer(asyncio.run(collect(_gateway(loop).answer(exchange.request))), HEAD))


def _chunks(**fields: Json) -> list[Json]:
    exchange = decode(stream=True, **fields)
    writer = exchange.open_stream(HEAD)

    async def run() -> bytes:
        return b"".join([writer.encode(event) async for event in _gateway().answer(exchange.request)])

    return [json.loads(frame.removeprefix("data: ")) for frame in asyncio.run(run()).decode().split("\n\n")[:-1]]


def test_tools_are_read_with_their_parameters() -> None:
    place = {"type": "approximate", "city": "Rome"}
    parameters = {
        "max_results": 3,
        "max_uses": 2,
        "max_characters": 700,
        "excluded_domains": ["example.org"],
        "user_location": place,
        "engine": "exa",
    }
    asked = decode(
        tools=[
            {"type": "openrouter:web_search", "parameters": parameters},
            {"type": "openrouter:web_fetch", "parameters": {"max_content_tokens": 50, "allowed_domains": ["a.org"]}},
            {"type": "openrouter:datetime", "parameters": {"timezone": "Asia/Tokyo"}},
        ]
    )
    search, fetch, clock = asked.request.server_tools
    options = decode_options(search.options, SearchOptions)
    assert (search.tool, search.name, search.max_uses, search.if_missing) == ("web_search", "web_search", 2, "refuse")
    assert (options.max_results, options.max_characters, options.location.city) == (3, 700, "Rome")
    assert options.domains.blocked == ("example.org",)
    assert decode_options(fetch.options, FetchOptions).max_characters == 200
    assert clock.options == {"timezone": "Asia/Tokyo"}
    assert asked.ignored == ("tools[].parameters.engine",)
    assert asked.request.tools == ()


def test_the_short_form_has_the_same_members_beside_the_type() -> None:
    [search] = decode(tools=[{"type": "web_search_preview", "search_context_size": "high"}]).request.server_tools
    assert decode_options(search.options, SearchOptions).max_characters == 2_000


def test_results_in_all_bound_the_searches() -> None:
    [search] = decode(
        tools=[{"type": "openrouter:web_search", "parameters": {"max_total_results": 7, "max_results": 3}}]
    ).request.server_tools
    assert search.max_uses == 2
    [one] = decode(
        tools=[{"type": "openrouter:web_search", "parameters": {"max_total_results": 2}}]
    ).request.server_tools
    assert (one.max_uses, decode_options(one.options, SearchOptions).max_results) == (1, 2)


@pytest.mark.parametrize(
    "choice", [{"type": "openrouter:web_search"}, {"type": "function", "function": {"name": "web_search"}}]
)
def test_a_tool_of_the_services_can_be_forced(choice: Json) -> None:
    assert decode(tools=ALL, tool_choice=choice).request.tool_choice == ToolChoice(mode="named", names=("web_search",))


@pytest.mark.parametrize(
    ("fields", "budget"),
    [
        ({}, ToolBudget(max_calls=30)),
        ({"max_tool_calls": 3}, ToolBudget(max_calls=3)),
        ({"stop_server_tools_when": [{"type": "step_count_is", "step_count": 2}]}, ToolBudget(max_rounds=2)),
        (
            {"stop_server_tools_when": [{"type": "has_tool_call", "tool_name": "openrouter:web_search"}]},
            ToolBudget(last_tools=("web_search",)),
        ),
        ({"stop_server_tools_when": [{"type": "max_tokens_used", "max_tokens": 9}]}, ToolBudget(max_tokens=9)),
        ({"stop_server_tools_when": [{"type": "finish_reason_is", "reason": "length"}]}, ToolBudget()),
    ],
)
def test_what_stops_the_rounds(fields: dict[str, Json], budget: ToolBudget) -> None:
    assert decode(tools=ALL, **fields).request.tool_budget == budget


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"tools": [SEARCH, SEARCH]}, InvalidField),
        ({"tools": [{"type": "openrouter:fusion"}]}, UnsupportedFeature),
        ({"tools": [{"type": "openrouter:web_search", "parameters": {"max_results": 26}}]}, InvalidField),
        ({"max_tool_calls": 31}, InvalidField),
        ({"stop_server_tools_when": []}, InvalidField),
        ({"stop_server_tools_when": [{"type": "max_cost", "max_cost_in_dollars": 1}]}, UnsupportedFeature),
        ({"stop_server_tools_when": [{"type": "boredom"}]}, InvalidField),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields: dict[str, Json], kind: type[Exception]) -> None:
    assert type(refusal(**fields)) is kind


def test_the_plugin_and_the_variant_search_before_the_answer() -> None:
    plugin = {"id": "web", "max_results": 2, "search_prompt": "Read this:", "include_domains": ["example.org"]}
    [by_plugin] = decode(plugins=[plugin]).request.server_tools
    assert (by_plugin.is_first, by_plugin.preface) == (True, "Read this:\n\n")
    assert decode_options(by_plugin.options, SearchOptions).domains.allowed == ("example.org",)
    [by_name] = decode(model="deepseek/deepseek-v4-pro:online").request.server_tools
    assert (by_name.tool, by_name.is_first) == ("web_search", True)
    [fetch] = decode(plugins=[{"id": "web-fetch"}]).request.server_tools
    assert (fetch.tool, fetch.is_first) == ("web_fetch", False)
    [native] = decode(web_search_options={"search_context_size": "low"}).request.server_tools
    assert (native.tool, native.is_first) == ("web_search", False)
    answer = _whole(plugins=[plugin])
    message = answer["choices"][0]["message"]
    assert message["content"] == "See https://example.org/a."
    assert [one["url_citation"]["url"] for one in message["annotations"]] == [
        "https://example.org/a",
        "https://example.org/a/b",
    ]
    assert answer["usage"]["server_tool_use_details"]["web_search_requests"] == 1


def test_pages_are_cited_where_the_text_names_them_and_else_for_the_whole() -> None:
    message = _whole(tools=ALL)["choices"][0]["message"]
    text = message["content"]
    assert text == "Wait.\n\nSee https://example.org/a."
    named, other = (one["url_citation"] for one in message["annotations"])
    assert text[named["start_index"] : named["end_index"]] == named["url"] == "https://example.org/a"
    assert (other["start_index"], other["end_index"], other["content"]) == (0, len(text), "And so on.")


def test_calls_are_counted() -> None:
    assert _whole(tools=ALL)["usage"]["server_tool_use_details"] == {
        "tool_calls_requested": 1,
        "tool_calls_executed": 1,
        "web_search_requests": 1,
    }
    assert "server_tool_use_details" not in _whole()["usage"]


def test_streamed_is_whole() -> None:
    whole = _whole(tools=ALL)
    chunks = _chunks(tools=ALL)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    message = whole["choices"][0]["message"]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == message["reasoning"]
    assert [one for delta in deltas for one in delta.get("annotations", ())] == message["annotations"]
    records = [one for delta in deltas for one in delta.get("reasoning_details", ())]
    assert [one for one in records if "tool_name" in one] == [
        one for one in message["reasoning_details"] if "tool_name" in one
    ]
    assert chunks[-1]["usage"] == whole["usage"]


def test_a_turn_that_is_sent_back_shows_the_model_what_was_found() -> None:
    loop = _loop()
    message = _whole(loop, tools=ALL)["choices"][0]["message"]
    question = {"role": "user", "content": "hi"}
    asked = decode(tools=ALL, messages=[question, message, {"role": "user", "content": "more"}]).request
    kinds = [type(part).__name__ for part in asked.messages[1].parts]
    assert kinds == ["Reasoning", "ServerToolCall", "ServerToolResult", "Reasoning", "Text"]
    call, result = asked.messages[1].parts[1:3]
    assert isinstance(call, ServerToolCall)
    assert isinstance(result, ServerToolResult)
    assert result.output == found({"query": "q"})
    # Another server has nothing to remember, and needs nothing.
    prepared = _loop().prepare(asked).request
    assert [one.role for one in prepared.messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert prepared.messages[1].reasoning == "I look."
    assert prepared.messages[3].text.endswith("See https://example.org/a.")


def test_records_of_other_servers_are_read() -> None:
    record = {
        "type": "reasoning.server_tool_call",
        "tool_name": "openrouter:fusion",
        "arguments": "{}",
        "result": "Plain words.",
    }
    message = {"role": "assistant", "content": "So.", "reasoning_details": [record]}
    asked = decode(messages=[{"role": "user", "content": "a"}, message, {"role": "user", "content": "b"}]).request
    call, result, text = asked.messages[1].parts
    assert call == ServerToolCall(id="server_call_0", tool="mcp", name="fusion", arguments="{}")
    assert result == ServerToolResult(call_id="server_call_0", tool="mcp", output=PlainOutput(text="Plain words."))
    assert text == Text("So.")


def test_a_server_without_a_search_refuses_one() -> None:
    exchange = decode(tools=[SEARCH])
    with pytest.raises(UnsupportedFeature, match="cannot be run by this server"):
        asyncio.run(collect(Gateway(ScriptedBackend()).answer(exchange.request)))
    assert exchange.request.server_tools == (
        ServerTool(tool="web_search", name="web_search", options=exchange.request.server_tools[0].options),
    )
