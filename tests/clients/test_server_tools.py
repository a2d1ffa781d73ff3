"""Tools that the server runs, as official clients see them; what is searched is a folder, so that it works offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import anthropic
import httpx
import pytest
from anthropic import Anthropic
from anthropic.types import MessageParam, ToolUnionParam
from openai import OpenAI
from openrouter import OpenRouter

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.config import Settings
from deepserve.engine.native.shared_library import find_library
from deepserve.tools.opening import open_tools
from deepserve.tools.toolbox import Toolbox
from tests.server.live import LiveServer, live_server
from tests.tools.scripted_tool import ScriptedTool, ran

MODEL = "deepseek-v4-flash"
FOUND = "doc://notes/rivers.md"

SCRIPT = Script(
    rules=(
        Rule(
            when=When(contains="river", last_role="user"),
            reply=Reply(
                reasoning="I search.",
                tool_calls=(ScriptedCall(name="web_search", arguments='{"query": "Isar Munich"}'),),
            ),
        ),
        Rule(
            when=When(contains="sum", last_role="user"),
            reply=Reply(tool_calls=(ScriptedCall(name="code_interpreter", arguments='{"code": "1 + 1"}'),)),
        ),
        Rule(
            when=When(contains="total", last_role="user"),
            reply=Reply(tool_calls=(ScriptedCall(name="code_execution", arguments='{"code": "1 + 1"}'),)),
        ),
        Rule(
            when=When(contains="lake", last_role="user"),
            reply=Reply(
                tool_calls=(
                    ScriptedCall(name="search", arguments='{"query": "Isar Munich"}'),
                    ScriptedCall(name="codeInterpreter", arguments='{"code": "1 + 1"}'),
                ),
            ),
        ),
        Rule(reply=Reply(text=f"The Isar, says {FOUND}.")),
    )
)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("notes")
    (folder / "rivers.md").write_text("# Rivers\n\nThe Isar flows through Munich.\n")
    (folder / "hills.md").write_text("# Hills\n\nThe Harz is a range of hills.\n")
    opened = open_tools(Settings(search_folders={"notes": folder}), environment={})
    search = opened.toolbox.runner("web_search")
    assert search is not None
    toolbox = Toolbox({"web_search": search, "code_interpreter": ScriptedTool(ran)})
    with live_server(ScriptedBackend(SCRIPT), toolbox=toolbox, alive=opened) as server:
        yield server


@pytest.fixture
def claude(live: LiveServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=f"{live.address}/anthropic", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def openai_client(live: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.address}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_claude_codes_separate_request_for_a_search_works_offline(claude: Anthropic) -> None:
    """Its shape as recorded from the client: one typed tool, no thinking field, a short system text, streamed."""
    with claude.messages.stream(
        model=MODEL,
        max_tokens=32_000,
        system=[{"type": "text", "text": "You are an assistant for performing a web search tool use"}],
        messages=[{"role": "user", "content": "Perform a web search for the query: river Munich"}],
        tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        tool_choice={"type": "auto"},
    ) as stream:
        kinds = [event.content_block.type for event in stream if event.type == "content_block_start"]
        answer = stream.get_final_message()
    assert kinds == ["thinking", "server_tool_use", "web_search_tool_result", "text"]
    _, call, result, text = answer.content
    assert call.type == "server_tool_use"
    assert call.input == {"query": "Isar Munich"}
    assert result.type == "web_search_tool_result"
    assert result.tool_use_id == call.id
    assert isinstance(result.content, list)
    assert [hit.url.partition("#")[0] for hit in result.content] == [FOUND]
    assert text.type == "text"
    assert text.text == f"The Isar, says {FOUND}."
    assert answer.stop_reason == "end_turn"
    assert answer.usage.server_tool_use is not None
    assert answer.usage.server_tool_use.web_search_requests == 1


def test_a_search_turn_can_be_sent_back_as_the_sdk_gives_it(claude: Anthropic) -> None:
    tools: list[anthropic.types.ToolUnionParam] = [{"type": "web_search_20250305", "name": "web_search"}]
    question: anthropic.types.MessageParam = {"role": "user", "content": "Which river?"}
    answer = claude.messages.create(model=MODEL, max_tokens=500, messages=[question], tools=tools)
    blocks = [block.model_dump(exclude_none=True) for block in answer.content]
    again = claude.messages.create(
        model=MODEL,
        max_tokens=500,
        messages=[
            question,
            cast(Any, {"role": "assistant", "content": blocks}),
            {"role": "user", "content": "And then?"},
        ],
        tools=tools,
    )
    assert again.content[-1].type == "text"


def test_a_program_is_run_for_claudes_clients(claude: Anthropic) -> None:
    answer = claude.messages.create(
        model=MODEL,
        max_tokens=500,
        messages=[{"role": "user", "content": "What is the total?"}],
        tools=[{"type": "code_execution_20250522", "name": "code_execution"}],
    )
    call, result, _ = answer.content
    assert call.type == "server_tool_use"
    assert call.name == "code_execution"
    assert result.type == "code_execution_tool_result"
    assert result.content.type == "code_execution_result"
    assert (result.content.stdout, result.content.return_code) == ("one\n2", 0)
    assert [file.file_id for file in result.content.content] == ["plot.svg"]


def test_openais_client_streams_a_search(openai_client: OpenAI) -> None:
    with openai_client.responses.stream(
        model=MODEL, input="Which river?", tools=[{"type": "web_search"}], include=["web_search_call.action.sources"]
    ) as stream:
        kinds = [event.type for event in stream if event.type.startswith("response.web_search_call")]
        response = stream.get_final_response()
    assert kinds == [f"response.web_search_call.{moment}" for moment in ("in_progress", "searching", "completed")]
    search = next(item for item in response.output if item.type == "web_search_call")
    assert search.action.type == "search"
    assert search.action.sources is not None
    assert [source.url.partition("#")[0] for source in search.action.sources] == [FOUND]
    assert response.output_text == f"The Isar, says {FOUND}."


def test_a_kept_response_goes_on_with_what_was_found(openai_client: OpenAI) -> None:
    first = openai_client.responses.create(model=MODEL, input="Which river?", tools=[{"type": "web_search"}])
    second = openai_client.responses.create(
        model=MODEL, input="And then?", tools=[{"type": "web_search"}], previous_response_id=first.id
    )
    items = [item.to_dict() for item in first.output]
    strange = [item | {"id": "ws_foreign"} if item["type"] == "web_search_call" else item for item in items]
    asked, more = {"role": "user", "content": "Which river?"}, {"role": "user", "content": "And then?"}
    prompts = [
        openai_client.responses.create(
            model=MODEL, tools=[{"type": "web_search"}], input=cast(Any, [asked, *sent, more])
        )
        for sent in (items, strange)
    ]
    assert second.usage is not None
    sent_back, unknown = (one.usage.input_tokens for one in prompts if one.usage is not None)
    assert second.usage.input_tokens == sent_back > unknown


def test_what_was_found_in_the_background_is_found_again(openai_client: OpenAI) -> None:
    tools: Any = [{"type": "web_search"}]
    later = openai_client.responses.create(model=MODEL, input="Which river?", tools=tools, background=True)
    while later.status in ("queued", "in_progress"):
        later = openai_client.responses.retrieve(later.id)
    at_once = openai_client.responses.create(model=MODEL, input="Which river?", tools=tools)
    sizes = [
        openai_client.responses.create(model=MODEL, input="And then?", tools=tools, previous_response_id=one.id).usage
        for one in (later, at_once)
    ]
    assert sizes[0] is not None
    assert sizes[0] == sizes[1]


def test_openais_client_reads_a_program(openai_client: OpenAI) -> None:
    response = openai_client.responses.create(
        model=MODEL,
        input="What is the sum?",
        tools=[{"type": "code_interpreter", "container": {"type": "auto"}}],
        include=["code_interpreter_call.outputs"],
    )
    call = next(item for item in response.output if item.type == "code_interpreter_call")
    assert (call.code, call.status) == ("1 + 1", "completed")
    assert call.outputs is not None
    assert [output.type for output in call.outputs] == ["logs", "image"]


def test_a_tool_that_the_server_lacks_is_named(openai_client: OpenAI) -> None:
    raw = openai_client.responses.with_raw_response.create(
        model=MODEL, input="x", tools=[{"type": "mcp", "server_label": "docs", "server_url": "https://mcp.example"}]
    )
    assert set(raw.headers["x-deepserve-ignored"].split(", ")) == {"tools[].server_url", "tools[].mcp"}


@pytest.fixture
def router(live: LiveServer) -> Iterator[OpenRouter]:
    with OpenRouter(api_key="any", server_url=f"{live.address}/api/v1", retry_config=None) as client:
        yield client


def test_openrouters_client_reads_a_search_whole_and_streamed(router: OpenRouter) -> None:
    tools: Any = [{"type": "openrouter:web_search"}]  # Any: as in the SDK's own examples
    messages: Any = [{"role": "user", "content": "Which river?"}]
    answer = router.chat.send(model="deepseek/deepseek-v4-pro", messages=messages, tools=tools)
    message = answer.choices[0].message
    assert message.content == f"The Isar, says {FOUND}."
    assert message.reasoning_details is not None
    assert {detail.type for detail in message.reasoning_details} == {"reasoning.text", "reasoning.server_tool_call"}
    assert answer.usage is not None
    details = answer.usage.server_tool_use_details
    assert details
    assert details.web_search_requests == 1
    with router.chat.send(model="deepseek/deepseek-v4-pro", messages=messages, tools=tools, stream=True) as events:
        told = "".join(event.choices[0].delta.content or "" for event in events)
    assert told == f"The Isar, says {FOUND}."


def test_openrouters_web_plugin_searches_before_the_answer(router: OpenRouter) -> None:
    answer = router.chat.send(
        model="deepseek/deepseek-v4-pro",
        messages=cast(Any, [{"role": "user", "content": "Isar Munich?"}]),
        plugins=cast(Any, [{"id": "web"}]),
    )
    assert answer.usage is not None
    assert answer.usage.server_tool_use_details
    assert answer.usage.server_tool_use_details.web_search_requests == 1


def test_the_shipped_model_searches_a_folder_and_its_next_turn_is_cached(tmp_path: Path) -> None:
    """Forced to call, the model writes a whole call; what it found is in the cached prefix of the next turn."""
    if find_library() is None:
        pytest.importorskip("torch", reason="the shipped model needs the native core or deepserve[reference]")
    (tmp_path / "rivers.md").write_text("# Rivers\n\nThe Isar flows through Munich.\n")
    settings = Settings(search_folders={"notes": tmp_path})
    opened = open_tools(settings, environment={})
    with (
        live_server(EmbeddedBackend.load(settings), toolbox=opened.toolbox, alive=opened) as server,
        Anthropic(base_url=f"{server.address}/anthropic", api_key="any", max_retries=0) as client,
    ):
        tools: list[ToolUnionParam] = [{"type": "web_search_20250305", "name": "web_search"}]
        question: MessageParam = {"role": "user", "content": "Which river flows through Munich?"}
        answer = client.messages.create(
            model=MODEL,
            max_tokens=300,
            messages=[question],
            tools=tools,
            tool_choice={"type": "tool", "name": "web_search"},
            thinking={"type": "enabled", "budget_tokens": 64},
        )
        found = [block for block in answer.content if block.type == "web_search_tool_result"]
        assert len(found) == 1
        assert isinstance(found[0].content, list)
        assert answer.content[-1].type == "text"
        assert answer.usage.cache_read_input_tokens, "the second round's prompt begins as the first's"
        blocks = [block.model_dump(exclude_none=True) for block in answer.content]
        again = client.messages.create(
            model=MODEL,
            max_tokens=300,
            messages=[
                question,
                cast(Any, {"role": "assistant", "content": blocks}),
                {"role": "user", "content": "Thanks."},
            ],
            tools=tools,
            thinking={"type": "enabled", "budget_tokens": 64},
        )
        counted = client.messages.count_tokens(model=MODEL, messages=[question], tools=tools).input_tokens
        assert again.usage.cache_read_input_tokens is not None
        # More than the question: the call, what it found and what was said of it.
        assert again.usage.cache_read_input_tokens > counted + 60


@pytest.mark.parametrize("kind", ["search", "codeInterpreter"])
def test_runwares_examples_of_tools_are_answered(live: LiveServer, kind: str) -> None:
    """The examples of its documentation for V4: a tool that the provider runs, and no call to be answered."""
    task = {
        "taskType": "textInference",
        "taskUUID": str(uuid4()),
        "model": "deepseek:v4@pro",
        "messages": [{"role": "user", "content": "Which lake?"}],
        "tools": [{"type": "search"}, {"type": "codeInterpreter"}],
        "toolChoice": {"type": "tool", "name": kind},
        "includeUsage": True,
    }
    answer = httpx.post(f"{live.address}/v1", json=[task], headers={"authorization": "Bearer any"}, timeout=10)
    [item] = answer.json()["data"]
    assert (item["text"], item["finishReason"]) == (f"The Isar, says {FOUND}.", "stop")
    assert "toolCalls" not in item
