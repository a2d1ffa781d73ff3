"""A whole answer survives being kept as bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import get_args

import msgspec
import pytest

from deepserve.core.attempt import FailedAttempt
from deepserve.core.cost import Cost
from deepserve.core.events import (
    Block,
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Checked,
    Event,
    Failed,
    Finished,
    PastReasoning,
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
from deepserve.core.recorded_events import decode_events, encode_events
from deepserve.core.server_tool import SearchHit, SearchResults, ToolFault, ToolOutput
from deepserve.core.usage import Usage

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
USAGE = Usage(hit_tokens=1, miss_tokens=2, reasoning_tokens=3, answer_tokens=4, server_tool_calls=(("mcp", 1),))
LOGPROB = TokenLogprob(token="�", logprob=float("-inf"), bytes=b"\xe2", top=())
BLOCKS: tuple[Block, ...] = (
    ReasoningBlock(),
    TextBlock(),
    ToolCallBlock(id="call_1", name="f"),
    ServerToolCallBlock(id="call_2", tool="web_search", name="search"),
    ServerToolResultBlock(
        call_id="call_2",
        tool="web_search",
        output=SearchResults(query="q", hits=(SearchHit(url="u", title="t", snippet="s"),)),
    ),
    ServerToolResultBlock(call_id="call_3", tool="web_search", output=ToolFault(code="failed", message="no")),
)
EVENTS: tuple[Event, ...] = (
    Started(
        served_by=ServedBy(provider="p", model="m", fingerprint="f"),
        prompt_usage=USAGE,
        past_reasoning=PastReasoning(sent=1),
        relaxed=("a", "b"),
        checked=Checked(verdict="repaired", repairs=("fences",)),
        route="rule",
        earlier=(FailedAttempt(provider="p", model="m", code="overloaded", began_at=NOON, ended_at=NOON, usage=USAGE),),
    ),
    *(BlockOpened(index=index, block=block) for index, block in enumerate(BLOCKS)),
    BlockDelta(index=1, text="Grüße 猫", logprobs=(LOGPROB,), citations=(Citation(url="u", start=0, end=3),)),
    BlockClosed(index=0, signature="s", sealed="t"),
    UsageReported(usage=USAGE, cost=Cost(hit_usd=Decimal("0.000000000001"), price="p@2026")),
    Finished(reason="stop", seed=2**63, output=USAGE, result=1),
)


def test_every_kind_of_event_comes_back_as_it_was() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event)) - {Failed}, "none is forgotten here"
    assert decode_events(encode_events(EVENTS)) == list(EVENTS)


def test_every_kind_of_block_and_of_output_can_be_kept() -> None:
    assert {type(block) for block in BLOCKS} == set(get_args(Block))
    tags = [kind.__struct_config__.tag for kind in get_args(ToolOutput)]
    assert len(set(tags)) == len(tags)
    assert None not in tags


def test_what_cannot_be_read_is_said_to_be_so() -> None:
    for recorded in (b"\xc1", b"", b"\x91\x92\xa1x\x80"):
        with pytest.raises(ValueError, match="cannot be read"):
            decode_events(recorded)


def test_a_field_that_a_newer_release_added_is_no_harm() -> None:
    recorded = msgspec.msgpack.encode([("Finished", {"reason": "stop", "new": 1})])
    assert decode_events(recorded) == [Finished(reason="stop")]
