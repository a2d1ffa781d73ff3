"""The order of chunks, and what happens when a stream goes wrong."""

import json
from typing import Any, get_args

import pytest

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
from deepserve.core.messages import Citation, ServerToolResult, Text
from deepserve.core.provider import ServedBy
from deepserve.core.server_tool import SearchResults
from deepserve.core.usage import Usage
from deepserve.dialects.chat.response import FINISH_WORDS
from deepserve.dialects.chat.stream import DONE, StreamEncoder
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.joined_text import joined_text
from tests.dialects.chat.decoding import ARRIVED_AT, WEATHER, body, decode

STARTED = Started(served_by=ServedBy(provider="p", model="m", fingerprint="f"), prompt_usage=Usage(miss_tokens=2))
HEAD = AnswerHead(id="i", created_at=ARRIVED_AT, model="deepseek-v4-flash")


def _encoder(**fields: Any) -> StreamEncoder:  # Any: JSON
    chat = decode(body(stream=True, **fields))
    return StreamEncoder(chat.request, HEAD, include_usage=chat.include_usage)


def _chunks(frames: bytes) -> list[dict[str, Any]]:
    lines = [frame.removeprefix("data: ") for frame in frames.decode().split("\n\n") if frame.startswith("data: {")]
    return [json.loads(line) for line in lines]


def _deltas(frames: bytes) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in _chunks(frames) if "choices" in chunk]


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


def test_texts_around_the_servers_tools_are_paragraphs() -> None:
    """An operator's MCP server may be called in any answer, and this dialect shows one text."""
    encoder = _encoder(thinking={"type": "disabled"})
    frames = encoder.encode(STARTED)
    for index, (block, text) in enumerate(
        (
            (TextBlock(), "I look."),
            (_BLOCKS[ServerToolCallBlock], "{}"),
            (_BLOCKS[ServerToolResultBlock], ""),
            (TextBlock(), "It is so."),
        )
    ):
        frames += encoder.encode(BlockOpened(index=index, block=block))
        if text:
            frames += encoder.encode(BlockDelta(index=index, text=text))
        frames += encoder.encode(BlockClosed(index=index))
    citations = (Citation(url="u"),)
    frames += encoder.encode(BlockOpened(index=4, block=TextBlock()))
    assert encoder.encode(BlockDelta(index=4, text="", citations=citations)) == b""
    assert "".join(delta["content"] for delta in _deltas(frames)) == "I look.\n\nIt is so."
    parts = (Text("I look."), ServerToolResult(call_id="s", tool="mcp"), Text("It is so."))
    assert joined_text(parts) == "I look.\n\nIt is so."


def test_every_finish_reason_has_a_word() -> None:
    assert set(FINISH_WORDS) == set(get_args(FinishReason))


def test_excluded_reasoning_is_thought_but_not_sent() -> None:
    encoder = _encoder(reasoning={"exclude": True})
    frames = encoder.encode(STARTED)
    frames += encoder.encode(BlockOpened(index=0, block=ReasoningBlock()))
    frames += encoder.encode(BlockDelta(index=0, text="secret"))
    assert _deltas(frames) == [{"role": "assistant", "content": ""}]


def test_reasoning_that_comes_unasked_is_still_sent() -> None:
    encoder = _encoder(thinking={"type": "disabled"})
    frames = encoder.encode(STARTED) + encoder.encode(BlockOpened(index=0, block=ReasoningBlock()))
    frames += encoder.encode(BlockDelta(index=0, text="t"))
    assert _deltas(frames)[1] == {"content": None, "reasoning_content": "t"}


def test_usage_is_null_on_every_chunk_but_the_last_when_asked_for() -> None:
    encoder = _encoder(stream_options={"include_usage": True})
    events: list[Event] = [
        STARTED,
        BlockOpened(index=0, block=TextBlock()),
        BlockDelta(index=0, text="x"),
        UsageReported(usage=Usage(miss_tokens=2, answer_tokens=1)),
        Finished(reason="stop"),
    ]
    chunks = _chunks(b"".join(encoder.encode(event) for event in events))
    assert [chunk["usage"] is None for chunk in chunks] == [True, True, False]
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert encoder.finish() == DONE


def test_an_error_before_the_first_chunk_is_the_only_frame() -> None:
    frames = _encoder().finish(Overloaded("full"))
    assert [list(chunk) for chunk in _chunks(frames)] == [["error"]]
    assert frames.endswith(DONE)


def test_an_error_from_outside_ends_every_open_result() -> None:
    encoder = _encoder(n=2)
    encoder.encode(STARTED)
    encoder.encode(Finished(reason="stop", result=1))
    frames = encoder.finish(EngineFailure("x"))
    [last, error] = _chunks(frames)
    assert (last["choices"][0]["index"], last["choices"][0]["finish_reason"]) == (0, "insufficient_system_resource")
    assert error["error"]["code"] == "internal_error"
    assert frames.endswith(DONE)


def test_one_failure_of_several_results_is_told_once_and_last() -> None:
    encoder = _encoder(n=3)
    error = EngineFailure("x")
    frames = encoder.encode(STARTED)
    frames += encoder.encode(Failed(error=error, result=0)) + encoder.encode(Failed(error=error, result=2))
    frames += encoder.encode(Finished(reason="stop", result=1)) + encoder.finish()
    chunks = _chunks(frames)
    assert [("error" in chunk) for chunk in chunks] == [False] * 6 + [True]


def test_arguments_of_strict_tools_are_judged_on_the_last_chunk() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]  # JSON
    encoder = _encoder(tools=[strict])
    events: list[Event] = [
        STARTED,
        BlockOpened(index=0, block=ToolCallBlock(id="1", name="get_weather")),
        BlockDelta(index=0, text='{"city":'),
        BlockDelta(index=0, text="3}"),
        BlockClosed(index=0),
        Finished(reason="tool_calls"),
    ]
    chunks = _chunks(b"".join(encoder.encode(event) for event in events))
    assert chunks[-1]["x_deepserve_validated"] == "tool:get_weather=invalid"
    assert all("x_deepserve_validated" not in chunk for chunk in chunks[:-1])


@pytest.mark.parametrize(("is_strict", "expected"), [(False, -5.0), (True, -9999.0)])
def test_strict_mode_hides_the_probability_of_unlikely_tokens(is_strict: bool, expected: float) -> None:
    chat = decode(body(logprobs=True, top_logprobs=20, thinking={"type": "disabled"}), is_strict=is_strict)
    encoder = StreamEncoder(chat.request, HEAD, include_usage=False)
    top = tuple(TokenLogprob(token=str(n), logprob=-1.0, bytes=b"%d" % n) for n in range(20))
    token = TokenLogprob(token="x", logprob=-5.0, bytes=b"x", top=top)
    encoder.encode(STARTED)
    encoder.encode(BlockOpened(index=0, block=TextBlock()))
    [chunk] = _chunks(encoder.encode(BlockDelta(index=0, text="x", logprobs=(token,))))
    assert chunk["choices"][0]["logprobs"]["content"][0]["logprob"] == expected


def test_minus_infinity_is_written_as_a_number() -> None:
    encoder = _encoder(logprobs=True)
    encoder.encode(STARTED)
    encoder.encode(BlockOpened(index=0, block=TextBlock()))
    token = TokenLogprob(token="x", logprob=float("-inf"), bytes=b"\xff")
    [chunk] = _chunks(encoder.encode(BlockDelta(index=0, text="", logprobs=(token,))))
    assert chunk["choices"][0]["logprobs"]["content"] == [
        {"token": "x", "logprob": -9999.0, "bytes": [255], "top_logprobs": []}
    ]


def test_text_with_line_ends_stays_in_one_frame() -> None:
    encoder = _encoder()
    encoder.encode(STARTED)
    encoder.encode(BlockOpened(index=0, block=TextBlock()))
    frames = encoder.encode(BlockDelta(index=0, text="a\n\ndata: b\r\n"))
    assert frames.count(b"\n") == 2
    assert _deltas(frames)[0]["content"] == "a\n\ndata: b\r\n"
