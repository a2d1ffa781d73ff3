"""What a body of the Messages API means."""

import json
from typing import Any

import msgspec
import pytest

from deepserve.config import Limits
from deepserve.core.errors import InvalidField, MalformedBody, MissingField, UnknownModel, UnsupportedFeature
from deepserve.core.messages import (
    File,
    Image,
    Message,
    OtherPart,
    Part,
    Reasoning,
    ServerToolCall,
    ServerToolResult,
    Text,
    ToolCall,
    ToolResult,
)
from deepserve.core.request import ResponseFormat, ServerTool, Thinking, ToolChoice
from deepserve.core.server_tool import (
    CodeOutput,
    PlainOutput,
    SearchHit,
    SearchResults,
    ToolFault,
    ToolKind,
    ToolOutput,
)
from deepserve.core.web_tools import FetchOptions, SearchOptions
from deepserve.core.web_tools import decode as decode_options
from deepserve.dialects.messages.fields import IGNORED, REFUSED, REFUSED_BLOCKS
from deepserve.dialects.messages.server_tools import encode_call, encode_result
from deepserve.prompt.tool_text import tool_output_text
from tests.dialects.messages.decoding import ARRIVED_AT, HELLO, SEARCH, WEATHER, body, decode, refusal
from tests.tools.scripted_tool import found, page, ran

_CALL: dict[str, Any] = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Rome"}}  # Any: JSON
_RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "t1", "content": "21 C"}


def _conversation(*contents: Any) -> list[dict[str, Any]]:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(contents)]


def _messages(*contents: Any, **fields: Any) -> tuple[Message, ...]:
    return decode(body(messages=_conversation(*contents), **fields)).request.messages


def _user_parts(*blocks: Any) -> tuple[Part, ...]:
    [message] = _messages(list(blocks))
    return message.parts


# Names of models.


@pytest.mark.parametrize(
    ("requested", "canonical"),
    [
        ("deepseek-v4-pro", "deepseek-v4-pro"),
        ("deepseek-v4-pro[1m]", "deepseek-v4-pro"),
        ("DeepSeek-V4-Flash[1M] ", "deepseek-v4-flash"),
        ("claude-opus-4-8[1m]", "deepseek-v4-pro"),
        ("claude-sonnet-5", "deepseek-v4-flash"),
        ("claude-haiku-4-5-20251001", "deepseek-v4-flash"),
        ("claude-fable", "deepseek-v4-flash"),
    ],
)
def test_names_of_models(requested: str, canonical: str) -> None:
    decoded = decode(body(model=requested))
    assert (decoded.request.model, decoded.model.requested) == (canonical, requested)


def test_an_unknown_model_is_refused_not_replaced() -> None:
    assert isinstance(refusal(body(model="gpt-5")), UnknownModel)
    assert isinstance(refusal(body(model="deepseek-chat"), is_strict=True), UnknownModel)


# The system prompt.


def test_the_system_prompt_is_a_string_or_blocks() -> None:
    [system, _] = decode(body(system="Be brief.")).request.messages
    assert system == Message(role="system", parts=(Text("Be brief."),))
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]
    decoded = decode(body(system=blocks))
    assert decoded.request.messages[0].parts == (Text("a"), Text("b"))
    assert decoded.ignored == ("system[].cache_control",)


def test_a_line_that_changes_with_every_session_does_not_reach_the_prompt() -> None:
    """Claude Code begins the system prompt with one; no two sessions could share a cached prefix."""

    def prompt(suffix: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        line = f"x-anthropic-billing-header: cc_version=2.1.197.{suffix}; cc_entrypoint=cli;"
        decoded = decode(body(system=[{"type": "text", "text": line}, {"type": "text", "text": "You are."}]))
        return decoded.request.messages, decoded.ignored

    assert prompt("a1b") == prompt("c2d")
    messages, ignored = prompt("e3f")
    assert messages[0].parts == (Text("You are."),)
    assert ignored == ("system[0]",)
    decoded = decode(body(system="x-anthropic-billing-header: a\nx-anthropic-billing-header: b"))
    assert decoded.request.messages[0].text == "x-anthropic-billing-header: b", "only the first line is one"
    assert decoded.ignored == ("system",)
    said = decode(body(messages=_conversation("x-anthropic-billing-header: what is this?"))).request.messages
    assert said[0].text.startswith("x-anthropic"), "what people write is not touched"


def test_system_messages_may_stand_in_the_history() -> None:
    messages = [*HELLO, {"role": "system", "content": "Now be brief."}, {"role": "developer", "content": "Really."}]
    roles = [(message.role, message.text) for message in decode(body(messages=messages)).request.messages]
    assert roles == [("user", "Hello!"), ("system", "Now be brief."), ("system", "Really.")]
    assert isinstance(refusal(body(messages=messages), is_strict=True), InvalidField)


# Content.


def test_a_tool_loop() -> None:
    thinking = {"type": "thinking", "thinking": "I need it.", "signature": "sig"}
    messages = _messages("?", [thinking, {"type": "text", "text": "Let me see."}, _CALL], [_RESULT], tools=[WEATHER])
    assert messages[1].parts == (
        Reasoning(text="I need it.", signature="sig"),
        Text("Let me see."),
        ToolCall(id="t1", name="get_weather", arguments='{"city":"Rome"}'),
    )
    assert messages[2] == Message(role="tool", parts=(ToolResult(call_id="t1", content=(Text("21 C"),)),))


def test_results_and_what_is_said_beside_them_are_messages_of_their_own() -> None:
    other = {**_CALL, "id": "t2"}
    shown = {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "x"}], "is_error": True}
    messages = _messages("?", [_CALL, other], [_RESULT, shown, {"type": "text", "text": "and?"}])
    assert [message.role for message in messages[2:]] == ["tool", "tool", "user"]
    assert messages[3].tool_results == (ToolResult(call_id="t2", content=(Text("x"),), is_error=True),)
    decoded = decode(body(messages=_conversation("?", [_CALL, other], [_RESULT, shown])))
    assert decoded.ignored == ("messages[].content[].is_error",)


def test_a_result_may_be_empty() -> None:
    empty = {"type": "tool_result", "tool_use_id": "t1"}
    assert _messages("?", [_CALL], [empty])[2].tool_results == (ToolResult(call_id="t1"),)


def test_turns_of_the_assistant_in_a_row_are_one() -> None:
    messages = [
        *HELLO,
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": [_CALL]},
        {"role": "user", "content": [_RESULT]},
    ]
    decoded = decode(body(messages=messages)).request.messages
    assert [message.role for message in decoded] == ["user", "assistant", "tool"]
    assert decoded[1].parts == (Text("a"), ToolCall(id="t1", name="get_weather", arguments='{"city":"Rome"}'))


def test_a_last_turn_of_the_assistant_is_continued() -> None:
    messages = _messages("?", "It is")
    assert messages[-1] == Message(role="assistant", parts=(Text("It is"),), prefix=True)


def test_text_that_stood_for_broken_arguments_is_that_text_again() -> None:
    call = {**_CALL, "input": {"INVALID_JSON": '{"city": "Ro'}}
    assert _messages("?", [call], [_RESULT])[1].tool_calls[0].arguments == '{"city": "Ro'


def test_sealed_thinking_is_kept_for_whoever_can_open_it() -> None:
    messages = _messages("?", [{"type": "redacted_thinking", "data": "abc"}, {"type": "text", "text": "x"}], "!")
    assert messages[1].parts[0] == Reasoning(sealed="abc")


def test_images_and_files_are_placeholders_and_said_to_be() -> None:
    base64 = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    url = {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}
    file = {"type": "image", "source": {"type": "file", "file_id": "f"}}
    pdf = {"type": "document", "title": "T", "source": {"type": "base64", "media_type": "application/pdf", "data": "x"}}
    decoded = decode(body(messages=_conversation([base64, url, file, pdf, {"type": "container_upload"}])))
    assert decoded.request.messages[0].parts == (
        Image(url="data:image/png;base64,aGk=", media_type="image/png"),
        Image(url="https://example.org/x.png"),
        Image(file_id="f"),
        Text("T"),
        File(data="x", media_type="application/pdf"),
        OtherPart(kind="container_upload", value={"type": "container_upload"}),
    )
    assert decoded.ignored == (
        "messages[].content[].image",
        "messages[].content[].document",
        "messages[].content[].container_upload",
    )


def test_documents_and_search_results_of_text_are_read() -> None:
    text = {"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "body"}}
    blocks = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "part"}]}}
    found = {"type": "search_result", "title": "R", "source": "url", "content": [{"type": "text", "text": "cited"}]}
    said = [part.text for part in _user_parts(text, blocks, found) if isinstance(part, Text)]
    assert said == ["T", "C", "body", "part", "R", "url", "cited"]


def test_results_of_servers_tools_lose_what_is_sealed_by_others() -> None:
    call = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}}
    page = {"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "xxx", "page_age": None}
    result = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [page]}
    error = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    failed = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": error}
    assert _messages("?", [call, result, {"type": "text", "text": "."}], "!")[1].parts[:2] == (
        ServerToolCall(id="s1", tool="web_search", name="web_search", arguments='{"query":"q"}'),
        ServerToolResult(
            call_id="s1",
            tool="web_search",
            output=SearchResults(query="", hits=(SearchHit(url="u", title="t", snippet=""),)),
        ),
    )
    paused = _messages("?", [call, failed])[-1]
    fault = ToolFault(code="unavailable", message="unavailable")
    assert paused.parts[-1] == ServerToolResult(call_id="s1", tool="web_search", output=fault)
    assert not paused.prefix, "the model goes on with a turn of its own"


@pytest.mark.parametrize("kind", REFUSED_BLOCKS)
def test_blocks_without_which_the_conversation_changes_are_refused(kind: str) -> None:
    error = refusal(body(messages=_conversation([{"type": kind}])))
    assert isinstance(error, UnsupportedFeature)
    assert error.field == "messages[0].content[0]"
    assert REFUSED_BLOCKS[kind] in error.message


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (([_RESULT],), "unexpected `tool_use_id` found in `tool_result` blocks: t1"),
        (("?", [_CALL], [_RESULT, _RESULT]), "unexpected `tool_use_id`"),
        (("?", [_CALL]), "`tool_use` ids were found without `tool_result` blocks immediately after: t1"),
        (("?", [_CALL], "no result", "so"), "`tool_use` ids were found without"),
    ],
)
def test_calls_and_results_belong_together(contents: tuple[Any, ...], said: str) -> None:
    assert said in refusal(body(messages=_conversation(*contents))).message


def test_strict_mode_demands_the_trace_of_a_call() -> None:
    value = body(messages=_conversation("?", [_CALL], [_RESULT]), tools=[WEATHER])
    assert decode(value).past_reasoning.missing == 1
    assert "`content[].thinking`" in refusal(value, is_strict=True).message
    decode({**value, "thinking": {"type": "disabled"}}, is_strict=True)


# Thinking.


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Thinking()),
        ({"thinking": None}, Thinking()),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Thinking(budget_tokens=2000)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, Thinking(effort="max")),
        ({"output_config": {"effort": "low"}}, Thinking(effort="low")),
        ({"output_config": {"effort": "medium"}}, Thinking(effort="high")),
        ({"output_config": {"effort": "xhigh"}}, Thinking(effort="high")),
        ({"output_config": {"effort": "none"}}, Thinking(enabled=False)),
        ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Thinking(exclude=True)),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, Thinking()),
    ],
)
def test_thinking(fields: dict[str, Any], expected: Thinking) -> None:
    decoded = decode(body(**fields))
    assert decoded.request.thinking == expected
    assert decoded.ignored == ()


def test_off_wins_and_the_loser_is_named() -> None:
    decoded = decode(body(thinking={"type": "disabled"}, output_config={"effort": "max"}))
    assert not decoded.request.thinking.enabled
    assert decoded.ignored == ("output_config.effort",)
    assert not decode(body(model="deepseek-chat", output_config={"effort": "high"})).request.thinking.enabled


def test_unknown_words_for_thinking_are_refused() -> None:
    assert "unknown variant `very`" in refusal(body(output_config={"effort": "very"})).message
    assert "unknown variant `on`" in refusal(body(thinking={"type": "on"})).message
    assert isinstance(refusal(body(thinking={})), MissingField)


def test_strict_mode_draws_like_the_vendor() -> None:
    value = body(temperature=0.5, top_p=0.9, top_k=5, thinking={"type": "enabled", "budget_tokens": 5})
    tolerant, strict = decode(value), decode(value, is_strict=True)
    sampling = tolerant.request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 5)
    assert tolerant.ignored == ()
    assert strict.request.sampling.temperature is None
    assert strict.request.sampling.top_k is None
    assert strict.request.thinking.budget_tokens is None
    assert set(strict.ignored) == {"temperature", "top_p", "top_k", "thinking.budget_tokens"}


# Tools.


def test_tools() -> None:
    value = body(tools=[{**WEATHER, "strict": True, "type": "custom", "cache_control": {}, "defer_loading": True}])
    decoded = decode(value)
    [tool] = decoded.request.tools
    assert (tool.name, tool.description, tool.strict) == ("get_weather", "weather", True)
    assert tool.parameters == WEATHER["input_schema"]
    assert set(decoded.ignored) == {"tools[].cache_control", "tools[].defer_loading"}


def test_a_servers_tool_is_read_with_its_options() -> None:
    place = {"type": "approximate", "city": "Hangzhou", "country": "CN"}
    declared = {**SEARCH, "name": "WebSearch", "allowed_domains": ["example.org"], "user_location": place}
    decoded = decode(body(tools=[declared, WEATHER]))
    assert [tool.name for tool in decoded.request.tools] == ["get_weather"]
    [search] = decoded.request.server_tools
    assert (search.tool, search.name, search.max_uses, search.if_missing) == ("web_search", "WebSearch", 8, "fault")
    options = decode_options(search.options, SearchOptions)
    assert options.domains.allowed == ("example.org",)
    assert (options.location.city, options.location.country) == ("Hangzhou", "CN")
    assert decoded.ignored == ()
    [fetch, code] = decode(
        body(
            tools=[
                {"type": "web_fetch_20250910", "name": "web_fetch", "max_content_tokens": 100},
                {"type": "code_execution_20250825", "name": "code_execution"},
            ]
        )
    ).request.server_tools
    assert (fetch.tool, decode_options(fetch.options, FetchOptions).max_characters) == ("web_fetch", 400)
    assert (code.tool, code.options) == ("code_interpreter", {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_uses": 0},
        {"max_uses": "3"},
        {"allowed_domains": "example.org"},
        {"allowed_domains": ["https://example.org"]},
        {"allowed_domains": ["a.org"], "blocked_domains": ["b.org"]},
        {"user_location": {"type": "exact"}},
        {"name": "web search"},
    ],
)
def test_a_servers_tool_with_senseless_options_is_refused(wrong: dict[str, Any]) -> None:  # Any: JSON
    error = refusal(body(tools=[{**SEARCH, **wrong}]))
    assert isinstance(error, InvalidField)
    assert error.field is not None
    assert error.field.startswith("tools[0]")


def test_servers_of_the_operators_are_asked_for_by_name() -> None:
    given = {"type": "url", "name": "docs", "url": "https://evil.example", "authorization_token": "secret"}
    decoded = decode(body(mcp_servers=[given]))
    assert decoded.request.server_tools == (ServerTool(tool="mcp", name="docs", if_missing="skip"),)
    assert decoded.ignored == ("mcp_servers[].url", "mcp_servers[].authorization_token")
    assert isinstance(refusal(body(mcp_servers=[given, given])), InvalidField)


def test_functions_of_an_operators_server_can_be_left_out() -> None:
    """All of them were offered, and the client was told in a header."""
    narrowed = {"type": "url", "name": "docs", "tool_configuration": {"enabled": True, "allowed_tools": ["find"]}}
    disabled = {"type": "url", "name": "wiki", "tool_configuration": {"enabled": False}}
    decoded = decode(body(mcp_servers=[narrowed, disabled]))
    assert decoded.request.server_tools == (
        ServerTool(tool="mcp", name="docs", functions=("find",), if_missing="skip"),
        ServerTool(tool="mcp", name="wiki", functions=(), if_missing="skip"),
    )
    assert decoded.ignored == ()


@pytest.mark.parametrize(
    ("tool", "output"),
    [
        ("web_search", found({"query": "q"})),
        ("web_search", SearchResults(query="q")),
        ("web_fetch", page({"url": "https://example.org/a"})),
        ("code_interpreter", ran({"code": "1"})),
        ("code_interpreter", CodeOutput(code="", stderr="no\n", exit_code=1, stopped_by="time")),
        ("mcp", PlainOutput(text="<b>x</b>")),
        ("mcp", ToolFault(code="failed", message="It broke.")),
    ],
)
def test_a_result_that_comes_back_says_the_same_to_the_model(tool: ToolKind, output: ToolOutput) -> None:
    """Otherwise the cached prefix of a conversation would end there."""
    sent = encode_result(ServerToolResult(call_id="c", tool=tool, output=output), ARRIVED_AT)
    call = encode_call("c", tool, "mcp__a__b" if tool == "mcp" else tool, {})
    blocks = [json.loads(msgspec.json.encode(block)) for block in (call, sent)]
    read_call, read = _messages("?", [*blocks, {"type": "text", "text": "."}], "!")[1].parts[:2]
    assert isinstance(read, ServerToolResult)
    assert isinstance(read_call, ServerToolCall)
    assert (read.call_id, read.tool, read_call.id, read_call.tool) == ("c", tool, "c", tool)
    assert read.output is not None
    assert tool_output_text(read.output) == tool_output_text(output)


def test_what_an_operators_server_did_is_read_again() -> None:
    call = {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "look", "server_name": "docs", "input": {"x": 1}}
    text = [{"type": "text", "text": "found"}]
    result = {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": text}
    parts = _messages("?", [call, result, {"type": "text", "text": "."}], "!")[1].parts
    assert parts[:2] == (
        ServerToolCall(id="1", tool="mcp", name="mcp__docs__look", arguments='{"x":1}'),
        ServerToolResult(call_id="1", tool="mcp", output=PlainOutput(text="found")),
    )


def test_tools_that_nobody_here_knows() -> None:
    error = refusal(body(tools=[{"type": "bash_20250124", "name": "bash"}]))
    assert isinstance(error, UnsupportedFeature)
    assert error.field == "tools[0].type"
    described = decode(body(tools=[{**WEATHER, "type": "mystery_20300101"}]))
    assert described.request.tools[0].name == "get_weather"
    assert described.ignored == ("tools[].type",)
    searching = decode(body(tools=[{"type": "tool_search_tool_regex_20251119", "name": "tool_search"}, WEATHER]))
    assert [tool.name for tool in searching.request.tools] == ["get_weather"]
    assert searching.ignored == ("tools[].tool_search_tool_regex_20251119",)


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([WEATHER, WEATHER], "must be unique"),
        ([{**WEATHER, "name": "a b"}], "does not match pattern"),
        ([{**WEATHER, "name": "a" * 129}], "maximum length 128"),
        ([WEATHER] * 129, "array too long"),
        ([{"input_schema": {}}], "missing field `name`"),
    ],
)
def test_tools_that_are_refused(tools: list[Any], said: str) -> None:
    assert said in refusal(body(tools=tools)).message


def test_a_tool_needs_a_schema_in_strict_mode_only() -> None:
    bare = body(tools=[{"name": "now"}])
    assert decode(bare).request.tools[0].parameters is None
    assert "missing field `input_schema`" in refusal(bare, is_strict=True).message


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(is_parallel=False)),
        ({"type": "none"}, ToolChoice(mode="none")),
        ({"type": "any"}, ToolChoice(mode="required")),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice(mode="required", is_parallel=False)),
        ({"type": "tool", "name": "get_weather"}, ToolChoice(mode="named", names=("get_weather",))),
    ],
)
def test_tool_choice(choice: dict[str, Any], expected: ToolChoice) -> None:
    assert decode(body(tools=[WEATHER], tool_choice=choice)).request.tool_choice == expected


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_strict_mode_forces_a_call_only_without_thinking(choice: dict[str, Any]) -> None:
    forced = body(tools=[WEATHER], tool_choice=choice)
    assert refusal(forced, is_strict=True).message == "Thinking mode does not support this tool_choice"
    unthinking = forced | {"thinking": {"type": "disabled"}}
    assert decode(unthinking, is_strict=True).request.tool_choice == decode(forced).request.tool_choice


def test_a_choice_needs_the_tools_it_is_among() -> None:
    error = refusal(body(tools=[WEATHER], tool_choice={"type": "tool", "name": "f"}))
    assert "Tool 'f' not found" in error.message
    assert "no tools are offered" in refusal(body(tool_choice={"type": "any"})).message


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "schema": SCHEMA}


@pytest.mark.parametrize("fields", [{"output_config": {"format": FORMAT}}, {"output_format": FORMAT}])
def test_both_places_of_the_format_mean_the_same(fields: dict[str, Any]) -> None:
    decoded = decode(body(**fields))
    assert decoded.request.response_format == ResponseFormat(kind="json_schema", schema=SCHEMA, strict=True)
    assert decoded.ignored == ()
    # The vendor's own service knows neither.
    strict = decode(body(**fields), is_strict=True)
    assert strict.request.response_format == ResponseFormat()
    assert strict.ignored in (("output_config.format",), ("output_format",))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"output_config": {"format": FORMAT}, "output_format": FORMAT}, "output_format"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": {"type": "json_schema", "schema": "x"}}, "output_format.schema"),
    ],
)
def test_a_format_that_asks_for_nothing_is_refused(fields: dict[str, Any], field: str) -> None:
    assert refusal(body(**fields)).field == field


def test_strict_tools_are_strict_but_for_the_vendors_own_service() -> None:
    tool = {**WEATHER, "strict": True}
    assert decode(body(tools=[tool])).request.tools[0].strict
    strict = decode(body(tools=[tool]), is_strict=True)
    assert (strict.request.tools[0].strict, strict.ignored) == (False, ("tools[].strict",))


# Everything else.


def test_limits_and_sampling() -> None:
    request = decode(body(max_tokens=7, stop_sequences=["a", "b"], temperature=0, stream=True)).request
    assert (request.max_output_tokens, request.stop, request.sampling.temperature) == (7, ("a", "b"), 0)
    absent = body()
    del absent["max_tokens"]
    assert decode(absent).request.max_output_tokens is None
    assert decode(absent).request.default_output_tokens == 65_536


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": 0}, "valid range of max_tokens is [1, 393216]"),
        ({"max_tokens": 393_217}, "valid range of max_tokens"),
        ({"temperature": 2.1}, "valid range of temperature is [0, 2]"),
        ({"top_p": 0}, "valid range of top_p is (0, 1.0]"),
        ({"stop_sequences": ["x"] * 17}, "Stop string array too long: 17"),
        ({"stop_sequences": [""]}, "Invalid stop_sequences: an empty string"),
        ({"messages": []}, "Empty input messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, "unknown variant `robot`"),
        ({"messages": [{"role": "user"}]}, "missing field `content`"),
        ({"messages": [{"role": "user", "content": 3}]}, "expected a sequence"),
        ({"system": [{"type": "image"}]}, "unknown variant `image`"),
        ({"stream": "yes"}, "expected a boolean"),
    ],
)
def test_values_that_are_refused(fields: dict[str, Any], said: str) -> None:
    error = refusal(body(**fields))
    assert said in error.message
    assert error.field is not None


def test_what_is_no_json() -> None:
    assert isinstance(refusal(b"{"), MalformedBody)
    assert isinstance(refusal(b'{"model": "a", "model": "b"}'), MalformedBody)
    error = refusal(body(messages=HELLO * 3), limits=Limits(messages=2))
    assert "Too many messages" in error.message


def test_refused_fields_say_what_to_do() -> None:
    for path, instead in REFUSED.items():
        name, _, inner = path.partition(".")
        error = refusal(body(**{name: {inner: {"x": 1}} if inner else {"x": 1}}))
        assert isinstance(error, UnsupportedFeature)
        assert (error.field, instead in error.message) == (path, True)


def test_ignored_fields_are_named_and_change_nothing() -> None:
    plain = decode(body()).request
    for path in IGNORED:
        if "[" in path:
            continue
        decoded = decode(body(**{path: {"x": 1}}))
        assert decoded.ignored == (path,)
        assert decoded.request == plain
    assert decode(body(surprise=1)).ignored == ("surprise",)
    assert decode(body(surprise=None)).ignored == ()


def test_ignored_members_of_tools_and_blocks_are_named_too() -> None:
    members = [path.removeprefix("tools[].") for path in IGNORED if path.startswith("tools[].") and "*" not in path]
    assert members
    for member in members:
        decoded = decode(body(tools=[{**WEATHER, member: [1]}]))
        assert decoded.ignored == (f"tools[].{member}",)
        assert decoded.request == decode(body(tools=[WEATHER])).request
    cited = [{"type": "text", "text": "Hello!", "citations": [{"type": "char_location"}]}]
    decoded = decode(body(messages=_conversation(cited)))
    assert decoded.ignored == ("messages[].content[].citations",)
    assert "messages[].content[].citations" in IGNORED
    assert decoded.request == decode(body()).request


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user_ab_account__session_0123456789ab", "user_ab_account__session_ba9876543210"),
        (
            json.dumps({"device_id": "d", "account_uuid": "a", "session_id": "s1"}),
            json.dumps({"session_id": "s2", "account_uuid": "a", "device_id": "d"}),
        ),
    ],
)
def test_sessions_of_one_person_share_their_cache(one: str, other: str) -> None:
    """Claude Code names the session beside the person, and each session would begin with an empty cache."""
    first, second = (decode(body(metadata={"user_id": text})).request.user_id for text in (one, other))
    assert first == second
    assert first is not None


def test_any_text_may_name_a_user() -> None:
    def user(text: str) -> str | None:
        return decode(body(metadata={"user_id": text})).request.user_id

    assert user("alice-1") == "alice-1"
    odd = [user(text) for text in ("ä", "{", "[1]", "x" * 100_000, '{"device_id": "d"}', '{"device_id": "e"}')]
    assert all(name is not None and len(name) < 100 for name in odd)
    assert len(set(odd)) == len(odd)
    assert user('{"session_id": "s"}') is None
    assert decode(body(metadata={"team": "x"})).ignored == ("metadata.team",)
