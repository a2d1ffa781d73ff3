"""One deepserve in front of another that is spoken to in Runware's tasks: the conversation stays the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from deepserve.backends.scripted import ScriptedBackend
from deepserve.core.errors import BackendFailure, Overloaded, RequestError, TooManyRequests, UnsupportedFeature
from deepserve.core.events import BlockDelta, BlockOpened, Failed, Finished, ToolCallBlock, UsageReported
from deepserve.core.messages import Image, Message, Text, ToolCall, ToolResult
from deepserve.core.request import Request, ResponseFormat, Thinking, Tool, ToolChoice
from deepserve.core.sampling import Sampling
from deepserve.core.usage import Usage
from deepserve.dialects.runware.upstream_answer import AnswerDecoder
from deepserve.dialects.runware.upstream_request import encode_upstream_request
from tests.backends.upstream.setup import request
from tests.dialects.chains import HELD, KEYS, check_every_dialect, check_refusal, in_front, shipped_model, without_hits
from tests.server.live import LiveServer, live_server


@pytest.fixture(scope="module")
def origin() -> Iterator[LiveServer]:
    with shipped_model() as live:
        yield live


@pytest.fixture(scope="module")
def front(origin: LiveServer) -> Iterator[LiveServer]:
    with in_front(f"deepserve-runware={origin.address}/v1", api_keys=KEYS) as live:
        yield live


@pytest.mark.parametrize("name", HELD)
def test_an_answer_is_the_same_through_tasks(origin: LiveServer, front: LiveServer, name: str) -> None:
    """Tasks have no users, so that all that comes from a front hits what others left."""
    check_every_dialect(origin, front, name, without_hits)


@pytest.fixture
def scripted_front() -> Iterator[LiveServer]:
    with live_server(ScriptedBackend()) as behind, in_front(f"deepserve-runware={behind.address}/v1") as live:
        yield live


def test_what_tasks_cannot_ask_for_is_named_or_refused(scripted_front: LiveServer) -> None:
    relaxed = scripted_front.post(logprobs=True, temperature=0.5, presence_penalty=1.0)
    assert relaxed.status_code == 200, relaxed.text
    assert "logprobs" in relaxed.headers["x-deepserve-relaxed"]
    assert "presence_penalty" not in relaxed.headers["x-deepserve-relaxed"]
    refused = scripted_front.post(n=2)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "n"


def test_refusals_come_through_in_the_words_of_the_server_behind(scripted_front: LiveServer) -> None:
    check_refusal(scripted_front)


def test_the_server_that_really_answers_is_named() -> None:
    with live_server(ScriptedBackend()) as behind, in_front(f"deepserve-runware={behind.address}/v1") as live:
        answer = live.post()
        assert answer.headers["x-deepserve-served-by"] == behind.post().headers["x-deepserve-served-by"]


# --- bodies -----------------------------------------------------------------------------------------------------------


def body(asked: Request, **options: Any) -> dict[str, Any]:
    encoded = encode_upstream_request(asked, model="m", task_uuid=str(uuid4()), **options)
    [task] = json.loads(encoded.body)
    assert isinstance(task, dict)
    return task


def test_every_attempt_is_asked_with_usage_and_cost() -> None:
    task = body(request())
    assert (task["deliveryMethod"], task["includeUsage"], task["includeCost"]) == ("stream", True, True)
    assert body(request(), is_stream=False)["deliveryMethod"] == "sync"


def test_results_of_tools_become_messages_of_their_own_and_calls_keep_their_arguments() -> None:
    calls = (ToolCall(id="a", name="f", arguments='{"x": 1.50}'), ToolCall(id="b", name="f", arguments="{oops"))
    results = (
        ToolResult(call_id="a", content=(Text("1"),)),
        ToolResult(call_id="b", content=(Text("2"),)),
        Text("So?"),
    )
    messages = (
        Message(role="user", parts=(Text("q"),)),
        Message(role="assistant", parts=calls),
        Message(role="user", parts=results),
    )
    told = body(request(messages=messages))["messages"]
    assert [one["role"] for one in told] == ["user", "assistant", "tool", "tool", "user"]
    assert [call["input"] for call in told[1]["tools"]] == [{"x": 1.5}, "{oops"]
    assert [one.get("id") for one in told[2:]] == ["a", "b", None]


def test_thinking_is_always_said_and_what_has_no_member_is_named() -> None:
    assert body(request(thinking=Thinking(enabled=False)))["settings"]["thinkingLevel"] == "off"
    assert body(request(thinking=Thinking(effort="max")))["settings"]["thinkingLevel"] == "max"
    asked = request(thinking=Thinking(effort="low", budget_tokens=9), sampling=Sampling(top_k=3, logit_bias={1: 2.0}))
    left_out = encode_upstream_request(asked, model="m", task_uuid="u").left_out
    assert set(left_out) == {"top_k", "logit_bias", "thinking.budget_tokens", "thinking.effort low"}


def test_forms_that_a_model_does_not_take_are_asked_for_in_words() -> None:
    asked = request(response_format=ResponseFormat(kind="json_object"))
    assert body(asked)["outputFormat"] == "JSON"
    in_words = body(asked, has_forms=False)
    assert "outputFormat" not in in_words
    assert "JSON object" in in_words["messages"][0]["content"]


def test_tools_that_are_not_allowed_are_not_offered() -> None:
    tools = tuple(Tool(name=name) for name in "abc")
    task = body(request(tools=tools, tool_choice=ToolChoice(mode="required", names=("a", "c"))))
    assert [tool["name"] for tool in task["tools"]] == ["a", "c"]
    assert task["toolChoice"] == {"type": "any"}
    assert body(request(tools=tools, tool_choice=ToolChoice(mode="named", names=("b",))))["toolChoice"] == {
        "type": "tool",
        "name": "b",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"num_results": 2},
        {"stop": tuple("abcdef")},
        {"max_output_tokens": 100_001},
        {"messages": (Message(role="assistant", parts=(Text("x"),), prefix=True),)},
        {"messages": (Message(role="user", parts=(Image(url="http://x"),)),)},
        {"messages": ()},
    ],
)
def test_what_would_be_another_answer_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFeature):
        body(request(**fields))


# --- answers ----------------------------------------------------------------------------------------------------------


def decoder() -> AnswerDecoder:
    return AnswerDecoder(provider="p", title="Upstream", model="m", call_id=lambda number: f"own{number}")


def chunk(**members: Any) -> bytes:
    return json.dumps({"taskType": "textInference", "taskUUID": "u", **members}).encode()


USAGE = {"promptTokens": 9, "completionTokens": 5, "totalTokens": 14, "thinkingTokens": 2, "cachedInputTokens": 4}


def test_calls_that_come_only_with_the_end_are_told() -> None:
    reader = decoder()
    call = {"id": "c", "name": "look", "input": {"at": 1}}
    events = reader.chunk(chunk(delta={}, finishReason="tool_calls", toolCalls=[call], usage=USAGE, cost=0.25))
    last = reader.finish()
    assert [event.block for event in events if isinstance(event, BlockOpened)] == [ToolCallBlock(id="c", name="look")]
    assert [event.text for event in events if isinstance(event, BlockDelta)] == ['{"at":1}']
    [usage, finished] = last
    assert isinstance(usage, UsageReported)
    assert usage.usage == Usage(hit_tokens=4, miss_tokens=5, reasoning_tokens=2, answer_tokens=3)
    assert usage.cost is not None
    assert usage.cost.stated_usd == Decimal("0.25")
    assert isinstance(finished, Finished)
    assert finished.reason == "tool_calls"
    assert reader.is_complete


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("rateLimitExceeded", TooManyRequests),
        ("noAvailableServer", Overloaded),
        ("invalidMessages", RequestError),
        ("providerError", BackendFailure),
    ],
)
def test_errors_are_raised_before_and_told_after_the_beginning(code: str, kind: type[Exception]) -> None:
    error = chunk(errors=[{"code": code, "message": "no"}])
    with pytest.raises(kind):
        decoder().chunk(error)
    with pytest.raises(kind):
        decoder().whole(error)
    reader = decoder()
    reader.chunk(chunk(delta={"text": "Hi"}))
    assert reader.chunk(error) == []
    [failed] = reader.finish()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, kind)


@pytest.mark.parametrize(
    "broken", [b"<html>", b"[]", chunk(delta={"toolCalls": [{"index": 0, "inputDelta": "{"}]}), b'{"delta": 7}']
)
def test_what_cannot_be_read_is_a_failure_that_says_so(broken: bytes) -> None:
    with pytest.raises(BackendFailure, match="Upstream sent"):
        decoder().chunk(broken)


def test_an_answer_that_breaks_off_has_failed() -> None:
    reader = decoder()
    reader.chunk(chunk(delta={"text": "Hi"}))
    [failed] = reader.finish()
    assert isinstance(failed, Failed)
    with pytest.raises(BackendFailure, match="before it began"):
        decoder().finish()
    with pytest.raises(BackendFailure, match="without a result"):
        decoder().whole(b'{"data": []}')


def test_a_usage_that_cannot_be_is_doubted() -> None:
    reader = decoder()
    reader.chunk(chunk(delta={}, finishReason="stop", usage={**USAGE, "cachedInputTokens": 10}))
    assert reader.usage is None
    assert reader.doubt is not None
