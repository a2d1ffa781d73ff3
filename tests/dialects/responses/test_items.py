"""Flat items become the turns of a conversation."""

from typing import Any

import pytest

from deepserve.config import Limits
from deepserve.core.events import PastReasoning
from deepserve.core.messages import Message, Reasoning, ServerToolCall, ServerToolResult, Text, ToolCall
from deepserve.core.server_tool import CodeOutput, SearchHit, SearchResults, ToolFault
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.dialects.responses.compaction import ask_for_summary
from tests.dialects.responses.decoding import (
    DIGITS,
    SEALER,
    WEATHER,
    Shelf,
    body,
    compaction,
    decode,
    refusal,
)

USER = {"role": "user", "content": "hi"}
TRACE = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]}
CALL = {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"x"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "21"}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def messages(*items: dict[str, Any], **fields: object) -> tuple[Message, ...]:
    return decode(body(input=list(items), **fields)).request.messages


def test_a_string_is_a_message_of_the_user() -> None:
    asked = decode(body(input="Hello!"))
    assert asked.request.messages == (Message(role="user", parts=(Text("Hello!"),)),)
    assert asked.items == [
        {
            "id": f"msg_{DIGITS}_in0",
            "status": "completed",
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hello!"}],
        }
    ]


def test_the_items_of_one_turn_are_one_message() -> None:
    second = {**CALL, "call_id": "c2"}
    found = messages(USER, TRACE, said("let me see"), CALL, second, RESULT, {**RESULT, "call_id": "c2"}, said("done"))
    assert [message.role for message in found] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [type(part) for part in found[1].parts] == [Reasoning, Text, ToolCall, ToolCall]
    assert found[1].reasoning == "t"


def test_two_texts_in_a_row_are_two_turns() -> None:
    assert [message.text for message in messages(USER, said("one"), TRACE, said("two"), said("three"))] == [
        "hi",
        "one",
        "two",
        "three",
    ]


def test_traces_between_parallel_calls_stay_in_their_turn() -> None:
    found = messages(
        USER, TRACE, CALL, TRACE, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2"}, said("x")
    )
    assert [message.role for message in found] == ["user", "assistant", "tool", "tool", "assistant"]
    assert found[1].reasoning == "tt"


def test_instructions_and_leading_developer_texts_are_system_texts_and_later_ones_keep_their_place() -> None:
    developer = {"role": "developer", "content": [{"type": "input_text", "text": "rule"}]}
    found = messages(developer, developer, USER, said("x"), developer, instructions="be kind")
    assert [message.role for message in found] == ["system", "system", "system", "user", "assistant", "user"]
    assert found[0].text == "be kind"
    strict = decode(body(input=[developer, USER]), is_strict=True).request.messages
    assert [message.role for message in strict] == ["user", "user"]


@pytest.mark.parametrize(
    ("output", "texts"),
    [
        ("21", ["21"]),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], ["a", "b"]),
        ({"content": "x", "success": True}, ['{"content":"x","success":true}']),
        ([], []),
    ],
)
def test_tool_outputs_may_be_text_parts_or_an_object(output: object, texts: list[str]) -> None:
    found = messages(USER, CALL, {**RESULT, "output": output})
    [result] = found[-1].tool_results
    assert [part.text for part in result.content if isinstance(part, Text)] == texts


def test_images_and_unknown_parts_are_kept_for_the_prompt_to_name_and_told_to_the_client() -> None:
    parts = [{"type": "input_image", "image_url": "data:x"}, {"type": "input_file", "file_id": "f"}, {"type": "odd"}]
    asked = decode(body(input=[{"role": "user", "content": parts}]))
    assert [type(part).__name__ for part in asked.request.messages[0].parts] == ["Image", "File", "OtherPart"]
    assert asked.ignored == (
        "input[].content[].input_image",
        "input[].content[].input_file",
        "input[].content[].odd",
    )


def test_a_trace_comes_back_as_text_sealed_or_as_its_summary() -> None:
    def trace(**fields: object) -> Reasoning | None:
        found = messages(USER, {"type": "reasoning", "id": "r", **fields}, said("x"))[1].parts
        return found[0] if isinstance(found[0], Reasoning) else None

    text = [{"type": "reasoning_text", "text": "t"}]
    summary = [{"type": "summary_text", "text": "s"}]
    assert trace(content=text, encrypted_content="e") == Reasoning(text="t", id="r", sealed="e")
    assert trace(content=None, summary=summary, encrypted_content="e") == Reasoning(id="r", sealed="e")
    assert trace(content=[], summary=summary) == Reasoning(text="s", id="r")
    assert trace(content=[{"type": "reasoning_text", "text": ""}]) == Reasoning(text="", id="r")
    assert trace(summary=[]) is None


def test_what_became_of_past_traces_is_counted() -> None:
    tools = [WEATHER]
    with_trace = decode(body(input=[USER, TRACE, CALL, RESULT], tools=tools)).past_reasoning
    without = decode(body(input=[USER, CALL, RESULT], tools=tools)).past_reasoning
    assert (with_trace.sent, with_trace.missing) == (1, 0)
    assert (without.sent, without.missing) == (0, 1)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([USER, CALL], "No tool output found for function call c1."),
        ([USER, RESULT], "No tool call found for function call output with call_id c1."),
        ([USER, CALL, RESULT, RESULT], "No tool call found for function call output with call_id c1."),
        ([], "Empty input"),
        ([{"type": "reasoning", "summary": []}], "Empty input"),
        ([{"type": "item_reference", "id": "msg_1"}], "Item with id 'msg_1' not found."),
        ([{"id": f"msg_{'0' * 32}_0"}], "not found"),
        ([{"type": "message", "content": "x"}], "missing field `role`"),
        ([{"role": "robot", "content": "x"}], "unknown variant `robot`"),
        ([{}], "missing field `type`"),
        (["x"], "expected a map"),
    ],
)
def test_items_that_make_no_conversation_are_refused(items: list[Any], text: str) -> None:
    assert text in refusal(body(input=items)).message


def test_an_id_may_be_used_again_once_its_call_is_answered() -> None:
    assert len(messages(USER, CALL, RESULT, CALL, RESULT)) == 5


def test_items_of_other_services_are_passed_over_by_name() -> None:
    search = {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"]}
    asked = decode(body(input=[USER, search]))
    assert len(asked.request.messages) == 1
    assert asked.ignored == ("input[].file_search_call",)


def test_calls_of_the_servers_tools_are_read_again() -> None:
    shown = "0123456789abcdef0123456789abcdef_s3"
    hit = {"url": "u", "title": "t", "snippet": "s", "age": None}
    items = [
        {"type": "web_search_call", "id": f"ws_{shown}", "action": {"type": "search", "query": "q"}},
        {"type": "web_search_call", "id": "ws_foreign", "action": {"type": "search", "query": "q"}, "results": [hit]},
        {
            "type": "code_interpreter_call",
            "id": "ci_foreign",
            "code": "1+1",
            "container_id": "c",
            "outputs": [{"type": "logs", "logs": "2"}],
        },
        {
            "type": "mcp_call",
            "id": "mcp_foreign",
            "server_label": "docs",
            "name": "look",
            "arguments": "{}",
            "error": "broken",
        },
    ]
    asked = decode(body(input=[USER, *items, said("So it is.")]))
    assert asked.ignored == ()
    parts = asked.request.messages[1].parts
    assert parts == (
        ServerToolCall(id=shown, tool="web_search", name="web_search", arguments='{"query":"q"}'),
        ServerToolResult(call_id=shown, tool="web_search"),
        ServerToolCall(id="ws_foreign", tool="web_search", name="web_search", arguments='{"query":"q"}'),
        ServerToolResult(
            call_id="ws_foreign",
            tool="web_search",
            output=SearchResults(query="", hits=(SearchHit(url="u", title="t", snippet="s"),)),
        ),
        ServerToolCall(id="ci_foreign", tool="code_interpreter", name="code_interpreter", arguments='{"code":"1+1"}'),
        ServerToolResult(call_id="ci_foreign", tool="code_interpreter", output=CodeOutput(code="", stdout="2")),
        ServerToolCall(id="mcp_foreign", tool="mcp", name="mcp__docs__look"),
        ServerToolResult(call_id="mcp_foreign", tool="mcp", output=ToolFault(code="failed", message="broken")),
    )


def kept(shelf: Shelf, name: str, *, previous: str | None = None, status: str = "completed") -> None:
    output = [{"id": f"msg_{name[5:]}_0", **said(f"answer of {name[-1]}")}]
    shelf.put(
        {"id": name, "status": status, "previous_response_id": previous, "output": output},
        [{"id": f"msg_{name[5:]}_in0", "type": "message", **USER}],
    )


ONE, TWO = "resp_" + "1" * 32, "resp_" + "2" * 32


def test_a_response_is_continued_with_everything_before_it_but_not_its_instructions() -> None:
    shelf = Shelf()
    kept(shelf, ONE)
    kept(shelf, TWO, previous=ONE)
    asked = decode(body(previous_response_id=TWO, instructions="new", input="more"), shelf=shelf)
    texts = [message.text for message in asked.request.messages]
    assert texts == ["new", "hi", "answer of 1", "hi", "answer of 2", "more"]
    assert [item["id"] for item in asked.items] == [f"msg_{DIGITS}_in0"]
    assert asked.echo.previous_response_id == TWO


def test_a_continued_response_needs_no_new_input() -> None:
    shelf = Shelf()
    kept(shelf, ONE)
    asked = decode({"model": "deepseek-v4-flash", "previous_response_id": ONE}, shelf=shelf)
    assert len(asked.request.messages) == 2


def test_a_missing_or_unfinished_link_is_refused_by_name() -> None:
    shelf = Shelf()
    kept(shelf, TWO, previous=ONE)
    error = refusal(body(previous_response_id=TWO), shelf=shelf)
    assert (error.message, error.field) == (f"Previous response with id '{ONE}' not found.", "previous_response_id")
    kept(shelf, ONE, status="in_progress")
    assert "has not ended yet" in refusal(body(previous_response_id=TWO), shelf=shelf).message


def test_a_conversation_that_leads_back_to_itself_ends() -> None:
    shelf = Shelf()
    kept(shelf, ONE, previous=ONE)
    assert "more than" in refusal(body(previous_response_id=ONE), shelf=shelf).message


def test_references_lead_to_sent_and_to_answered_items() -> None:
    shelf = Shelf()
    kept(shelf, ONE)
    items = [{"type": "item_reference", "id": f"msg_{'1' * 32}_in0"}, {"id": f"msg_{'1' * 32}_0"}]
    asked = decode(body(input=items), shelf=shelf)
    assert [message.text for message in asked.request.messages] == ["hi", "answer of 1"]
    assert [item["type"] for item in asked.items] == ["message", "message"]


@pytest.mark.parametrize(
    "trace", [{"content": [{"type": "reasoning_text", "text": "why"}]}, {"encrypted_content": "x"}]
)
@pytest.mark.parametrize("names_response", [True, False])
def test_a_trace_that_is_named_counts_as_restored_and_not_as_sent(
    trace: dict[str, Any], *, names_response: bool
) -> None:
    shelf = Shelf()
    name = f"rs_{'1' * 32}_0"
    output = [{"id": name, "type": "reasoning", "summary": [], **trace}, {"id": f"fc_{'1' * 32}_1", **CALL}]
    shelf.put({"id": ONE, "status": "completed", "output": output}, [])
    if names_response:
        asked = decode(body(previous_response_id=ONE, input=[RESULT], tools=[WEATHER]), shelf=shelf)
    else:
        items = [{"type": "item_reference", "id": name}, CALL, RESULT]
        asked = decode(body(input=items, tools=[WEATHER]), shelf=shelf)
    assert asked.past_reasoning == PastReasoning(restored=1)
    sent = decode(body(input=[{"type": "reasoning", "summary": [], **trace}, CALL, RESULT], tools=[WEATHER]))
    assert sent.past_reasoning == PastReasoning(sent=1)


def test_a_few_references_cannot_bring_in_more_than_a_body_may_hold() -> None:
    """A hundred bytes each, they named one large item again and again: a request of a kilobyte took the server's
    memory. Each is counted, whether it leads to the same item or not, and so is every response of a chain."""
    shelf = Shelf()
    kept(shelf, ONE)
    limits = Limits(body_bytes=1000)
    reference = {"type": "item_reference", "id": f"msg_{'1' * 32}_in0"}
    assert decode(body(input=[reference]), shelf=shelf, limits=limits).request.messages
    assert "more than 1000 bytes" in refusal(body(input=[reference] * 100), shelf=shelf, limits=limits).message
    chained = body(previous_response_id=ONE)
    assert "more than 100 bytes" in refusal(chained, shelf=shelf, limits=Limits(body_bytes=100)).message


def test_strict_mode_is_stateless() -> None:
    asked = decode(body(previous_response_id=ONE, store=True), is_strict=True)
    assert (asked.is_kept, asked.echo.previous_response_id) == (False, None)
    assert {"previous_response_id", "store"} <= set(asked.ignored)


def test_a_summary_stands_for_the_conversation_and_only_ours_is_read() -> None:
    item = {"type": "compaction", "encrypted_content": SEALER.seal(LOCAL_TENANT.id, "they want tea")}
    [summary, _] = messages(item, USER)
    assert (summary.role, summary.text) == ("user", "Summary of the conversation so far:\n\nthey want tea")
    foreign = {**item, "encrypted_content": "gAAAA"}
    assert "cannot be read" in refusal(body(input=[foreign, USER])).message


def test_a_compaction_asks_the_same_conversation_for_a_summary() -> None:
    items = [USER, CALL, RESULT]
    plain, compact = decode(body(input=items, tools=[WEATHER])).request, compaction(body(input=items, tools=[WEATHER]))
    assert compact.request.messages == ask_for_summary(plain.messages)
    assert (compact.request.tools, compact.request.thinking) == (plain.tools, plain.thinking)
