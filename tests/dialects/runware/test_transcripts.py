"""Recorded exchanges, replayed; and read back as clients do."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepserve.backends.script import Reply, Rule, Script
from deepserve.core.answer import Result
from deepserve.core.cost import Cost
from deepserve.core.errors import EngineFailure
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Failed,
    Finished,
    FinishReason,
    ServerToolCallBlock,
    Started,
    UsageReported,
)
from deepserve.core.messages import Text
from deepserve.core.provider import ServedBy
from deepserve.core.usage import Usage
from deepserve.dialects.runware.response import FINISH_WORDS, announced_items, encode_ended, polled_items
from deepserve.dialects.runware.stream import DONE, StreamEncoder
from deepserve.dialects.runware.wire import WireEnded, encode
from tests.dialects.runware.decoding import TASK_UUID, decode
from tests.dialects.runware.exchange import events_of, play

COST = Cost(miss_usd=Decimal("0.000001305"), output_usd=Decimal("0.00000087"))

_RECORDED = {
    file.stem: json.loads(file.read_text())
    for file in sorted((Path(__file__).parents[2] / "transcripts" / "runware").glob("*.json"))
}
_STREAMS = [name for name, one in _RECORDED.items() if one["task"].get("deliveryMethod") == "stream"]


def test_all_situations_are_recorded() -> None:
    assert {"plain", "streamed", "thinking", "tool_calls", "error", "error_mid_stream"} <= set(_RECORDED)


@pytest.mark.parametrize("name", _RECORDED)
def test_the_recorded_answer_is_still_given(name: str) -> None:
    recorded = _RECORDED[name]
    status, text = play(recorded)
    assert status == recorded["status"]
    if name in _STREAMS:
        assert text.split("\n\n") == [*recorded["response"], ""]
    else:
        assert json.loads(text) == recorded["response"]


@pytest.mark.parametrize("name", ["streamed_thinking", "streamed_tool_calls"])
def test_a_streamed_answer_is_the_whole_answer_in_pieces(name: str) -> None:
    recorded = _RECORDED[name]
    _, text = play(recorded)
    events = [json.loads(frame.removeprefix("data: ")) for frame in text.split("\n\n")[:-2]]
    _, whole = play({**recorded, "task": {**recorded["task"], "deliveryMethod": "sync"}})
    (item,) = json.loads(whole)["items"]
    deltas = [event["delta"] for event in events]
    assert "".join(delta.get("text", "") for delta in deltas) == item["text"]
    assert "".join(delta.get("reasoningContent", "") for delta in deltas) == "".join(item.get("reasoningContent", ()))
    end = {key: value for key, value in events[-1].items() if key != "delta"}
    assert end == {key: value for key, value in item.items() if key not in ("text", "reasoningContent")}
    assert all("finishReason" not in event for event in events[:-1])


def _items(**task: Any) -> list[dict[str, Any]]:  # Any: JSON
    script = {"rules": [{"reply": {"text": "one two three", "reasoning": "hm", "hit_tokens": 1}}]}
    items: list[dict[str, Any]] = json.loads(play({"task": task, "script": script})[1])["items"]
    return items


def test_several_results_are_numbered_and_each_has_its_own_seed() -> None:
    items = _items(numberResults=4, seed=9)
    assert [item["resultIndex"] for item in items] == [0, 1, 2, 3]
    assert [item["seed"] for item in items] == [9, 10, 11, 12]
    assert "resultIndex" not in _items()[0]


def test_the_prompt_of_several_results_is_billed_once() -> None:
    one = _items(includeCost=True, includeUsage=True)
    three = _items(numberResults=3, includeCost=True, includeUsage=True)
    output = one[0]["usage"]["costBreakdown"]["tokens"]["completion"]["cost"]
    assert three[0]["cost"] == one[0]["cost"]
    assert [item["cost"] for item in three[1:]] == [output, output]
    assert all(item["usage"]["totalTokens"] == one[0]["usage"]["totalTokens"] for item in three)


def test_usage_and_cost_are_told_only_when_asked_for() -> None:
    assert not {"cost", "usage"} & _items()[0].keys()
    assert "cost" in _items(includeCost=True)[0]
    assert "usage" not in _items(includeCost=True)[0]
    assert "cost" not in _items(includeUsage=True)[0]


def test_no_cost_is_told_where_no_price_is_known() -> None:
    inference = decode(includeCost=True, includeUsage=True)
    ended = encode_ended(inference, [_result("x")], Usage(miss_tokens=1, answer_tokens=1), None)
    assert (ended.items[0].cost, ended.items[0].usage and ended.items[0].usage.cost_breakdown) == (None, None)


def _result(text: str, reason: FinishReason = "stop") -> Result:
    return Result(parts=(Text(text),), finished=Finished(reason=reason, output=Usage(answer_tokens=1)))


def test_a_failed_result_stands_beside_those_that_succeeded() -> None:
    inference = decode(numberResults=2)
    ended = encode_ended(inference, [EngineFailure("broke"), _result("fine")], Usage(miss_tokens=3), COST)
    assert [item.result_index for item in ended.items] == [1]
    assert [error.result_index for error in ended.errors] == [0]
    polled = json.loads(encode(polled_items(ended)))
    assert [(item["resultIndex"], item["status"]) for item in polled] == [(0, "error"), (1, "success")]
    assert polled[0]["error"] == {"code": "internalServerError", "message": "broke"}
    announced = {number: json.loads(encode(item)) for number, item in announced_items(ended).items()}
    assert announced[0]["code"] == "internalServerError"
    assert announced[1]["text"] == "fine"


def test_a_pure_tool_call_has_an_empty_text() -> None:
    """Clients wait for ever for the text of an item that has none."""
    script = {"rules": [{"reply": {"tool_calls": [{"name": "f", "arguments": "{}"}]}}]}
    tool = {"type": "function", "name": "f", "schema": {}}
    (item,) = json.loads(play({"task": {"tools": [tool]}, "script": script})[1])["items"]
    assert (item["text"], item["toolCalls"][0]["input"], item["finishReason"]) == ("", {}, "tool_calls")


def test_what_is_kept_of_a_task_survives_being_written_down() -> None:
    inference = decode(includeCost=True, includeUsage=True, numberResults=2)
    ended = encode_ended(inference, [_result("x"), EngineFailure("y")], Usage(miss_tokens=3, answer_tokens=1), COST)
    assert msgspec.json.decode(encode(ended), type=WireEnded) == ended
    assert isinstance(ended.items[0].cost, Decimal)


def test_every_reason_to_finish_has_a_word() -> None:
    (reasons,) = [FinishReason.__args__]  # type: ignore[attr-defined]  # a Literal
    assert set(reasons) == set(FINISH_WORDS)


def test_every_event_can_be_written() -> None:
    """Also those that no back end sends in this dialect yet."""
    writer = StreamEncoder(decode(deliveryMethod="stream"))
    served_by = ServedBy(provider="p", model="m", fingerprint="f")
    block = ServerToolCallBlock(id="s", tool="web_search", name="web_search")
    for event in (
        Started(served_by=served_by),
        BlockOpened(index=0, block=block),
        BlockDelta(index=0, text="{}"),
        BlockClosed(index=0),
        UsageReported(usage=Usage()),
    ):
        assert writer.encode(event) == b""
    assert b'"finishReason":"stop"' in writer.encode(Finished(reason="stop"))
    assert writer.finish() == DONE


def test_an_error_after_the_first_byte_is_an_event_that_either_kind_of_client_reads() -> None:
    writer = StreamEncoder(decode(deliveryMethod="stream"))
    writer.encode(Failed(error=EngineFailure("broke")))
    error, done = writer.finish().split(b"\n\n", 1)
    told = json.loads(error.removeprefix(b"data: "))
    assert told["errors"] == [told["error"]]
    assert (told["error"]["taskUUID"], told["error"]["message"]) == (TASK_UUID, "broke")
    assert done == DONE


def test_the_shares_of_several_results_sum_to_the_whole() -> None:
    events = events_of(decode(numberResults=3).request, Script(rules=(Rule(reply=Reply(text="a b c")),)))
    shares = [event.output for event in events if isinstance(event, Finished) and event.output is not None]
    last = [event.usage for event in events if isinstance(event, UsageReported)][-1]
    assert len(shares) == 3
    assert sum(share.output_tokens for share in shares) == last.output_tokens
