"""Whole answers come out of event streams, or an error does."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from deepserve.core.answer import Answer, collect
from deepserve.core.errors import BackendFailure, EngineFailure
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    ReasoningBlock,
    ServerToolCallBlock,
    ServerToolResultBlock,
    Started,
    TextBlock,
    ToolCallBlock,
    UsageReported,
)
from deepserve.core.messages import Reasoning, ServerToolCall, ServerToolResult, Text, ToolCall
from deepserve.core.provider import ServedBy
from deepserve.core.server_tool import SearchResults
from deepserve.core.usage import Usage

STARTED = Started(served_by=ServedBy(provider="p", model="m", fingerprint="f"))


def _collected(events: Sequence[Event]) -> Answer:
    async def stream() -> AsyncIterator[Event]:
        for event in events:
            yield event

    return asyncio.run(collect(stream()))


FOUND = SearchResults(query="q")


def test_every_kind_of_block_becomes_its_part() -> None:
    answer = _collected(
        [
            STARTED,
            BlockOpened(index=0, block=ReasoningBlock()),
            BlockDelta(index=0, text="hm"),
            BlockDelta(index=0, text="m"),
            BlockClosed(index=0, signature="s"),
            BlockOpened(index=1, block=TextBlock()),
            BlockDelta(index=1, text="hi"),
            BlockClosed(index=1),
            BlockOpened(index=2, block=ToolCallBlock(id="c", name="t")),
            BlockDelta(index=2, text="{}"),
            BlockClosed(index=2),
            BlockOpened(index=3, block=ServerToolCallBlock(id="s", tool="web_search", name="search")),
            BlockDelta(index=3, text='{"q": 1}'),
            BlockClosed(index=3),
            BlockOpened(index=4, block=ServerToolResultBlock(call_id="s", tool="web_search", output=FOUND)),
            BlockClosed(index=4),
            UsageReported(usage=Usage(miss_tokens=3)),
            Finished(reason="stop"),
        ]
    )
    assert answer.results[0].parts == (
        Reasoning(text="hmm", signature="s"),
        Text("hi"),
        ToolCall(id="c", name="t", arguments="{}"),
        ServerToolCall(id="s", tool="web_search", name="search", arguments='{"q": 1}'),
        ServerToolResult(call_id="s", tool="web_search", output=FOUND),
    )
    assert answer.usage.prompt_tokens == 3


def test_interleaved_results_are_told_apart() -> None:
    answer = _collected(
        [
            STARTED,
            BlockOpened(index=0, block=TextBlock(), result=1),
            BlockOpened(index=0, block=TextBlock(), result=0),
            BlockDelta(index=0, text="b", result=1),
            BlockDelta(index=0, text="a", result=0),
            BlockClosed(index=0, result=0),
            BlockClosed(index=0, result=1),
            Finished(reason="stop", result=1),
            Finished(reason="length", result=0),
        ]
    )
    assert [result.parts for result in answer.results] == [(Text("a"),), (Text("b"),)]
    assert [result.finished.reason for result in answer.results] == ["length", "stop"]


def test_a_failure_is_raised_whole() -> None:
    with pytest.raises(EngineFailure):
        _collected([STARTED, Failed(error=EngineFailure("no"))])


def test_an_answer_without_an_end_is_a_fault() -> None:
    with pytest.raises(BackendFailure, match="without a finish"):
        _collected([STARTED, BlockOpened(index=0, block=TextBlock())])
