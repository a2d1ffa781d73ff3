"""Tools by the names that clients and the model have for them."""

import json
from typing import Any

import pytest

from deepserve.backends.script import Reply, Rule, Script, ScriptedCall
from deepserve.core.errors import InvalidField, UnsupportedFeature
from deepserve.core.request import ServerTool, ToolBudget, ToolChoice
from deepserve.core.web_tools import SearchOptions
from deepserve.core.web_tools import decode as decode_options
from tests.dialects.responses.decoding import WEATHER, body, decode, exchange, frames_of, refusal, streamed, whole

SPACE = {"type": "namespace", "name": "mcp__git", "description": "git", "tools": [WEATHER, {**WEATHER, "name": "log"}]}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}


def calling(name: str, arguments: str) -> Script:
    return Script(rules=(Rule(reply=Reply(tool_calls=(ScriptedCall(name=name, arguments=arguments),))),))


def test_a_namespace_is_flattened_for_the_model_and_split_again_for_the_client() -> None:
    one = exchange(body(tools=[WEATHER, SPACE]))
    assert [tool.name for tool in one.request.tools] == ["get_weather", "mcp__git__get_weather", "mcp__git__log"]
    script = calling("mcp__git__log", '{"city":"x"}')
    [item] = json.loads(whole(one, script))["output"]
    assert (item["name"], item["namespace"], item["arguments"]) == ("log", "mcp__git", '{"city":"x"}')
    added = next(frame for frame in frames_of(streamed(one, script)) if frame["type"] == "response.output_item.added")
    assert (added["item"]["name"], added["item"]["namespace"]) == ("log", "mcp__git")
    assert "namespace" not in json.loads(whole(one, calling("get_weather", "{}")))["output"][0]


def test_a_call_in_a_namespace_comes_back_under_the_name_the_model_wrote() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "log", "namespace": "mcp__git", "arguments": "{}"}
    items = [{"role": "user", "content": "x"}, call, {"type": "function_call_output", "call_id": "c", "output": "y"}]
    [part] = decode(body(input=items, tools=[SPACE])).request.messages[1].parts
    assert getattr(part, "name", None) == "mcp__git__log"


def test_a_name_the_model_made_up_is_passed_on() -> None:
    [item] = json.loads(whole(exchange(body(tools=[SPACE])), calling("nothing__known", "{}")))["output"]
    assert (item["type"], item["name"]) == ("function_call", "nothing__known")


@pytest.mark.parametrize("arguments", ['{"input": "*** Begin\\n\\"x\\" \\ud83d\\ude00"}', "not json", '{"other": 1}'])
def test_a_custom_tool_gets_plain_text_whole_and_streamed(arguments: str) -> None:
    one = exchange(body(tools=[PATCH]))
    script = calling("apply_patch", arguments)
    [item] = json.loads(whole(one, script))["output"]
    expected = '*** Begin\n"x" 😀' if "Begin" in arguments else arguments
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", expected)
    frames = frames_of(streamed(one, script))
    deltas = [frame["delta"] for frame in frames if frame["type"] == "response.custom_tool_call_input.delta"]
    [done] = [frame["input"] for frame in frames if frame["type"] == "response.custom_tool_call_input.done"]
    assert ("".join(deltas), done) == (expected, expected)


def test_a_grammar_is_shown_to_the_model_and_named_as_not_enforced() -> None:
    asked = decode(body(tools=[{**PATCH, "format": GRAMMAR}]))
    assert asked.request.tools[0].description.endswith("follows this lark grammar:\nstart: /x/")
    assert asked.ignored == ("tools[].format",)
    assert decode(body(tools=[{**PATCH, "format": {"type": "text"}}])).ignored == ()


def test_a_custom_call_comes_back_as_the_text_it_was() -> None:
    call = {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin"}
    result = {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"}
    items = [{"role": "user", "content": "x"}, call, result]
    [part] = decode(body(input=items, tools=[PATCH])).request.messages[1].parts
    assert (getattr(part, "kind", None), getattr(part, "arguments", None)) == ("custom", "*** Begin")


@pytest.mark.parametrize("kind", ["web_search", "web_search_2025_08_26", "web_search_preview"])
def test_a_search_is_asked_of_the_server(kind: str) -> None:
    declared = {
        "type": kind,
        "external_web_access": True,
        "search_context_size": "low",
        "filters": {"allowed_domains": ["example.org"]},
        "user_location": {"type": "approximate", "country": "DE"},
    }
    asked = decode(body(tools=[declared, WEATHER]))
    assert [tool.name for tool in asked.request.tools] == ["get_weather"]
    [search] = asked.request.server_tools
    assert (search.tool, search.name, search.if_missing) == ("web_search", "web_search", "skip")
    options = decode_options(search.options, SearchOptions)
    assert (options.max_results, options.domains.allowed, options.location.country) == (3, ("example.org",), "DE")
    assert asked.ignored == ("tools[].external_web_access",)


def test_programs_and_operators_servers_are_asked_of_the_server() -> None:
    container = {"type": "auto", "file_ids": ["f"]}
    tools = [{"type": "code_interpreter", "container": container}, {"type": "mcp", "server_label": "docs"}]
    asked = decode(body(tools=tools, max_tool_calls=3))
    assert asked.request.server_tools == (
        ServerTool(tool="code_interpreter", name="code_interpreter", if_missing="skip"),
        ServerTool(tool="mcp", name="docs", if_missing="skip"),
    )
    assert asked.request.tool_budget == ToolBudget(max_calls=3)
    assert asked.ignored == ("tools[].container.file_ids",)
    assert decode(body(tools=tools), is_strict=True).request.server_tools == ()


def test_functions_of_an_operators_server_can_be_left_out() -> None:
    server = {"type": "mcp", "server_label": "docs", "require_approval": "never"}
    for allowed in (["find"], {"tool_names": ["find"]}):
        asked = decode(body(tools=[{**server, "allowed_tools": allowed}]))
        assert [tool.functions for tool in asked.request.server_tools] == [("find",)]
        assert asked.ignored == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"require_approval": "always"},
        {"require_approval": {"never": {"tool_names": ["find"]}}},
        {"allowed_tools": {"read_only": True}},
    ],
)
def test_conditions_of_calls_that_cannot_be_kept_are_refused(fields: dict[str, Any]) -> None:  # Any: JSON
    """Calls that the client wanted to be asked about were made without asking."""
    error = refusal(body(tools=[{"type": "mcp", "server_label": "docs", **fields}]))
    assert isinstance(error, UnsupportedFeature)
    assert error.field is not None
    assert error.field.startswith(f"tools[0].{next(iter(fields))}")


def test_a_tool_of_the_servers_is_declared_once() -> None:
    assert "twice" in refusal(body(tools=[{"type": "web_search"}, {"type": "web_search_preview"}])).message


def test_other_hosted_tools_are_named() -> None:
    assert decode(body(tools=[{"type": "image_generation"}])).ignored == ("tools[].image_generation",)


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ([WEATHER, WEATHER], "unique"),
        ([{**SPACE, "name": "get", "tools": [{**WEATHER, "name": "x"}]}, {**WEATHER, "name": "get__x"}], "unique"),
        ([{**WEATHER, "name": "a b"}], "pattern"),
        ([{**WEATHER, "name": "a" * 129}], "too long"),
        ([{**SPACE, "name": "a" * 100, "tools": [{**WEATHER, "name": "b" * 30}]}], "with its namespace"),
        ([{**WEATHER, "name": f"t{number}"} for number in range(129)], "array too long"),
        ([{"type": "function"}], "missing field `name`"),
    ],
)
def test_tools_that_cannot_be_told_apart_or_called_are_refused(tools: list[Any], text: str) -> None:
    assert text in refusal(body(tools=tools)).message


def test_strict_mode_knows_one_custom_tool_and_no_namespaces() -> None:
    assert "apply_patch" in refusal(body(tools=[{**PATCH, "name": "other"}]), is_strict=True).message
    asked = decode(body(tools=[PATCH, SPACE]), is_strict=True)
    assert [tool.name for tool in asked.request.tools] == ["apply_patch"]
    assert asked.ignored == ("tools[].namespace",)


LOG = {"type": "function", "name": "log", "namespace": "mcp__git"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", ToolChoice(mode="none")),
        ("auto", ToolChoice()),
        ("required", ToolChoice(mode="required")),
        ({"type": "function", "name": "get_weather"}, ToolChoice(mode="named", names=("get_weather",))),
        (LOG, ToolChoice(mode="named", names=("mcp__git__log",))),
        ({"type": "custom", "name": "apply_patch"}, ToolChoice(mode="named", names=("apply_patch",))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [LOG, {"type": "web_search"}]},
            ToolChoice(names=("mcp__git__log",)),
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [LOG]},
            ToolChoice(mode="required", names=("mcp__git__log",)),
        ),
    ],
)
def test_every_choice_among_tools_is_understood(choice: object, expected: ToolChoice) -> None:
    request = decode(body(tools=[WEATHER, SPACE, PATCH], tool_choice=choice)).request
    assert request.tool_choice == expected
    assert len(request.tools) == 4, "a list of allowed tools takes none out of the prompt"


def test_calls_one_at_a_time_go_with_every_choice() -> None:
    asked = decode(body(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False))
    assert asked.request.tool_choice == ToolChoice(mode="required", is_parallel=False)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}, {"type": "web_search"}])
def test_strict_mode_forces_no_call_while_thinking(choice: object) -> None:
    forced = body(tools=[WEATHER, {"type": "web_search"}], tool_choice=choice)
    assert refusal(forced, is_strict=True).message == "Thinking mode does not support this tool_choice"


def test_a_tool_of_the_servers_is_forced_by_its_type() -> None:
    tools = [WEATHER, {"type": "web_search_preview"}, {"type": "code_interpreter"}]
    for kind, name in (("web_search_preview", "web_search"), ("code_interpreter", "code_interpreter")):
        choice = decode(body(tools=tools, tool_choice={"type": kind})).request.tool_choice
        assert choice == ToolChoice(mode="named", names=(name,))
    error = refusal(body(tools=[WEATHER], tool_choice={"type": "web_search"}))
    assert (type(error), error.field) == (InvalidField, "tool_choice")
    strange = refusal(body(tools=[WEATHER], tool_choice={"type": "image_generation"}))
    assert (type(strange), strange.field) == (UnsupportedFeature, "tool_choice")


def test_a_choice_of_what_is_not_offered_is_refused() -> None:
    error = refusal(body(tools=[WEATHER], tool_choice={"type": "function", "name": "other"}))
    assert error.message == "tool_choice names `other`, which is not in tools."
