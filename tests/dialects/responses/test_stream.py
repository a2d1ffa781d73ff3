"""The order and the shape of events, and what happens when a stream goes wrong."""

import json
from typing import Any, get_args

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from deepserve.backends.script import Reply, Rule, Script, ScriptedCall
from deepserve.core.errors import EngineFailure, Overloaded
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningBlock,
    ServerToolCallBlock,
    ServerToolResultBlock,
    Started,
    TextBlock,
    TokenLogprob,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.messages import Citation
from deepserve.core.provider import ServedBy
from deepserve.core.server_tool import SearchResults
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.core.usage import Usage
from deepserve.dialects.responses.response import OUTCOMES
from deepserve.dialects.responses.stream import StreamEncoder
from tests.dialects.responses.decoding import HEAD, WEATHER, Shelf, body, exchange, frames_of, streamed, whole

STARTED = Started(served_by=ServedBy(provider="p", model="m", fingerprint="f"), prompt_usage=Usage(miss_tokens=2))
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)  # Any: the union of all events

FULL = Script(
    rules=(
        Rule(
            reply=Reply(
                reasoning="I think so.",
                text="The answer is",
                tool_calls=(ScriptedCall(name="get_weather", arguments='{"city": "x"}'), ScriptedCall(name="patch")),
                hit_tokens=1,
            )
        ),
    )
)
TOOLS = [WEATHER, {"type": "custom", "name": "patch"}]


def _encoder(**fields: Any) -> StreamEncoder:  # Any: JSON
    return exchange(body(stream=True, **fields)).open_stream(HEAD)


_BLOCKS: dict[type, Block] = {
    ReasoningBlock: ReasoningBlock(),
    TextBlock: TextBlock(),
    ToolCallBlock: ToolCallBlock(id="c", name="t"),
    ServerToolCallBlock: ServerToolCallBlock(id="s", tool="web_search", name="web_search"),
    ServerToolResultBlock: ServerToolResultBlock(call_id="s", tool="web_search", output=SearchResults(query="q")),
}


def test_every_kind_of_block_and_event_can_be_encoded() -> None:
    """Fails when a kind is added to the core and forgotten here."""
    assert set(_BLOCKS) == set(get_args(Block))
    encoder = _encoder()
    seen: set[type] = {Started, Failed}
    encoder.encode(STARTED)
    for index, block in enumerate(_BLOCKS.values()):
        events: list[Event] = [BlockOpened(index=index, block=block), BlockDelta(index=index, text="x")]
        for event in (*events, BlockClosed(index=index)):
            encoder.encode(event)
            seen.add(type(event))
    for event in (UsageReported(usage=Usage()), Finished(reason="stop")):
        encoder.encode(event)
        seen.add(type(event))
    assert seen == set(get_args(Event))


def test_every_finish_reason_has_an_outcome() -> None:
    assert set(OUTCOMES) == set(get_args(FinishReason))


def test_the_events_of_an_answer_stand_in_order_and_are_numbered() -> None:
    frames = frames_of(streamed(exchange(body(tools=TOOLS, stream=True)), FULL))
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    kinds = [frame["type"].removeprefix("response.") for frame in frames]
    told = [kind for place, kind in enumerate(kinds) if kind != kinds[place - 1]]  # runs of deltas as one
    assert told == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"),
        "completed",
    ]


def test_the_official_types_accept_every_event() -> None:
    fields = {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"], "top_logprobs": 2}
    for frame in frames_of(streamed(exchange(body(tools=TOOLS, stream=True, **fields)), FULL)):
        _EVENT.validate_python(frame)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": TOOLS},
        {"max_output_tokens": 4},
        {"tools": TOOLS, "max_output_tokens": 7},
        {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "none"}},
        {"top_logprobs": 1, "metadata": {"a": "b"}, "instructions": "x"},
    ],
)
def test_the_terminal_event_has_the_very_response_of_a_whole_answer(fields: dict[str, Any]) -> None:
    last = frames_of(streamed(exchange(body(stream=True, **fields)), FULL))[-1]
    response = json.loads(whole(exchange(body(**fields)), FULL))
    assert last["response"] == response
    assert last["type"] == f"response.{response['status']}"
    Response.model_validate(response)


def test_items_add_up_to_the_final_output() -> None:
    frames = frames_of(streamed(exchange(body(tools=TOOLS, stream=True)), FULL))
    done = {frame["output_index"]: frame["item"] for frame in frames if frame["type"] == "response.output_item.done"}
    assert [done[index] for index in sorted(done)] == frames[-1]["response"]["output"]
    for index, item in done.items():
        own = [frame for frame in frames if frame.get("output_index") == index]
        assert {frame.get("item_id", item["id"]) for frame in own} == {item["id"]}
        deltas = "".join(frame["delta"] for frame in own if frame["type"].endswith(".delta"))
        match item["type"]:
            case "function_call":
                assert deltas == item["arguments"]
            case "custom_tool_call":
                assert deltas == item["input"]
            case _:
                assert deltas == item["content"][0]["text"]


def test_an_answer_that_was_cut_is_incomplete_and_so_is_its_last_item() -> None:
    response = frames_of(streamed(exchange(body(stream=True, max_output_tokens=4)), FULL))[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert response["completed_at"] is None


def test_a_failure_in_the_middle_is_the_terminal_event() -> None:
    script = Script(rules=(Rule(reply=Reply(text="a b c", failure="engine_failure", fail_after_pieces=2)),))
    frames = frames_of(streamed(exchange(body(stream=True)), script))
    assert [frame["type"] for frame in frames[-2:]] == ["response.output_item.done", "response.failed"]
    response = frames[-1]["response"]
    assert response["error"] == {"code": "server_error", "message": "Scripted: the engine failed."}
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == "a b"
    _EVENT.validate_python(frames[-1])


def test_an_error_before_the_first_event_still_gives_a_response_that_failed() -> None:
    frames = frames_of(_encoder().finish(Overloaded("full")))
    assert [frame["type"] for frame in frames] == ["response.created", "response.in_progress", "response.failed"]
    assert frames[-1]["response"]["error"] == {"code": "server_is_overloaded", "message": "full"}


def test_a_stream_has_one_end() -> None:
    encoder = _encoder()
    encoder.encode(STARTED)
    assert frames_of(encoder.encode(Failed(error=EngineFailure("x"))))[-1]["type"] == "response.failed"
    assert encoder.finish() == b""
    silent = _encoder()
    silent.encode(STARTED)
    assert frames_of(silent.finish())[-1]["type"] == "response.failed"


def test_the_sealed_trace_is_sent_only_where_it_was_asked_for() -> None:
    def trace(**fields: Any) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(whole(exchange(body(**fields)), FULL))["output"][0]
        return value

    assert "encrypted_content" not in trace()
    assert trace(include=["reasoning.encrypted_content"])["encrypted_content"]
    assert trace()["content"] == [{"type": "reasoning_text", "text": "I think so."}]


def test_citations_become_annotations() -> None:
    encoder = _encoder()
    citation = Citation(url="https://example.org", title="t", start=0, end=3)
    events: list[Event] = [
        STARTED,
        BlockOpened(index=0, block=TextBlock()),
        BlockDelta(index=0, text="abc", citations=(citation,)),
        BlockClosed(index=0),
        Finished(reason="stop"),
    ]
    frames = frames_of(b"".join(encoder.encode(event) for event in events))
    wanted = {"type": "url_citation", "start_index": 0, "end_index": 3, "url": "https://example.org", "title": "t"}
    [added] = [frame for frame in frames if frame["type"] == "response.output_text.annotation.added"]
    assert added["annotation"] == wanted
    assert frames[-1]["response"]["output"][0]["content"][0]["annotations"] == [wanted]


def test_minus_infinity_is_written_as_a_number() -> None:
    encoder = _encoder(top_logprobs=1)
    encoder.encode(STARTED)
    encoder.encode(BlockOpened(index=0, block=TextBlock()))
    token = TokenLogprob(token="x", logprob=float("-inf"), bytes=b"\xff")
    [frame] = frames_of(encoder.encode(BlockDelta(index=0, text="x", logprobs=(token,))))
    assert frame["logprobs"] == [{"token": "x", "logprob": -9999.0, "bytes": [255], "top_logprobs": []}]


def test_text_with_line_ends_stays_in_one_frame() -> None:
    encoder = _encoder()
    encoder.encode(STARTED)
    encoder.encode(BlockOpened(index=0, block=TextBlock()))
    [frame] = frames_of(encoder.encode(BlockDelta(index=0, text="a\n\ndata: b\r\n")))
    assert frame["delta"] == "a\n\ndata: b\r\n"


def test_a_form_that_was_asked_for_is_judged_at_the_end() -> None:
    strict = [{**WEATHER, "strict": True}]
    good, bad = '{"city": "x"}', '{"city": 3}'
    for arguments, verdict in ((good, "valid"), (bad, "invalid")):
        reply = Reply(tool_calls=(ScriptedCall(name="get_weather", arguments=arguments),))
        script = Script(rules=(Rule(reply=reply),))
        last = frames_of(streamed(exchange(body(stream=True, tools=strict)), script))[-1]
        assert last["response"]["x_deepserve_validated"] == f"tool:get_weather={verdict}"


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_was_answered_is_kept_with_what_was_asked_unless_told_not_to(is_stream: bool) -> None:
    shelf = Shelf()
    one = exchange(body(stream=is_stream), shelf=shelf)
    told = streamed(one, FULL) if is_stream else whole(one, FULL)
    record = json.loads(shelf.records[LOCAL_TENANT.id, f"resp_{HEAD.id.replace('-', '')}"])
    assert record["response"] == (frames_of(told)[-1]["response"] if is_stream else json.loads(told))
    assert record["input"][0]["content"] == [{"type": "input_text", "text": "Hello!"}]
    silent = Shelf()
    unkept = exchange(body(stream=is_stream, store=False), shelf=silent)
    streamed(unkept, FULL) if is_stream else whole(unkept, FULL)
    assert silent.records == {}
