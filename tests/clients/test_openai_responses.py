"""The Responses API through the unmodified OpenAI SDK, and a request as Codex sends it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import ResponseInputParam, ToolParam
from pydantic import BaseModel

from deepserve.config import Settings
from tests.server.live import LiveServer, live_server, scripted

MODEL = "deepseek-v4-pro"
TOOLS: list[ToolParam] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
]


class City(BaseModel):
    name: str


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


@pytest.fixture(params=["", "/v1", "/beta", "/api/v1"], scope="module")
def client(live: LiveServer, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.address + request.param, api_key="sk-local", max_retries=0) as client:
        yield client


def test_a_question_and_its_answer(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="hello", reasoning={"effort": "high"})
    assert response.output_text == "You said: hello"
    assert (response.status, response.model, response.store) == ("completed", MODEL, True)  # type: ignore[attr-defined]  # sent, yet not declared by the SDK
    reasoning = response.output[0]
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert reasoning.content[0].text == "The user said: hello I will answer that."
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert response.usage.output_tokens_details.reasoning_tokens == 8
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_thinking_can_be_switched_off(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="hello", reasoning={"effort": "none"})
    assert [item.type for item in response.output] == ["message"]


def test_a_stream(client: OpenAI) -> None:
    text, trace, kinds = "", "", []
    for event in client.responses.create(model=MODEL, input="hello", stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.reasoning_text.delta":
            trace += event.delta
        elif event.type == "response.completed":
            assert event.response.output_text == text
    assert (text, trace) == ("You said: hello", "The user said: hello I will answer that.")
    assert (kinds[0], kinds[1], kinds[-1]) == ("response.created", "response.in_progress", "response.completed")


def test_the_streaming_helper(client: OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="hello", tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    [call] = [item for item in final.output if item.type == "function_call"]
    assert call.parsed_arguments == {"city": "example"}


@pytest.mark.parametrize("keeps_trace", [True, False])
def test_a_tool_loop_with_the_output_sent_back(client: OpenAI, keeps_trace: bool) -> None:
    items: ResponseInputParam = [{"role": "user", "content": "weather?"}]
    first = client.responses.create(model=MODEL, input=items, tools=TOOLS)
    call = first.output[-1]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "example"}
    kept = [item for item in first.output if keeps_trace or item.type != "reasoning"]
    items += [item.model_dump(exclude_none=True) for item in kept]  # type: ignore[misc]  # as the SDK's own guide does
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "21 C"})
    raw = client.responses.with_raw_response.create(model=MODEL, input=items, tools=TOOLS)
    assert raw.headers["x-deepserve-reasoning"].startswith("sent=1" if keeps_trace else "sent=0")
    assert raw.parse().output_text == "The tool answered: 21 C"


def test_a_trace_comes_back_sealed_and_is_understood(client: OpenAI) -> None:
    items: ResponseInputParam = [{"role": "user", "content": "weather?"}]
    first = client.responses.create(
        model=MODEL, input=items, tools=TOOLS, include=["reasoning.encrypted_content"], store=False
    )
    reasoning, call = first.output
    assert reasoning.type == "reasoning"
    assert reasoning.encrypted_content
    assert call.type == "function_call"
    items.append(
        {"type": "reasoning", "id": reasoning.id, "summary": [], "encrypted_content": reasoning.encrypted_content}
    )
    items.append({"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments})
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "21 C"})
    with_trace = client.responses.create(model=MODEL, input=items, tools=TOOLS)
    without = client.responses.create(model=MODEL, input=[items[0], *items[2:]], tools=TOOLS)
    assert with_trace.usage is not None
    assert without.usage is not None
    # The trace, unsealed, is part of the prompt: eight words of it.
    assert with_trace.usage.input_tokens - without.usage.input_tokens == 8


def test_a_conversation_that_the_server_remembers(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="my name is Ada", metadata={"topic": "names"})
    second = client.responses.create(model=MODEL, input="and now?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.type for item in items] == ["message", "reasoning", "message", "message"]
    assert next(iter(client.responses.input_items.list(second.id))).id == items[-1].id
    again = client.responses.retrieve(first.id)
    assert (again.output_text, again.metadata) == (first.output_text, {"topic": "names"})
    reference: Any = [{"type": "item_reference", "id": first.output[-1].id}, {"role": "user", "content": "x"}]
    assert client.responses.create(model=MODEL, input=reference).status == "completed"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="?", previous_response_id=second.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_response_that_may_not_be_kept_is_not_found(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="hello", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_only_work_in_the_background_can_be_cancelled(client: OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="hello")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_" + "0" * 32)


def test_work_in_the_background_is_followed_in_a_stream(client: OpenAI) -> None:
    first, second, *_, last = client.responses.create(model=MODEL, input="hello", stream=True, background=True)
    assert (first.type, second.type) == ("response.created", "response.queued")
    assert last.type == "response.completed"
    assert last.response.output_text == "You said: hello"
    assert client.responses.retrieve(last.response.id).output_text == last.response.output_text


def test_tokens_are_counted_as_they_are_billed(client: OpenAI) -> None:
    counted = client.responses.input_tokens.count(model=MODEL, input="one two three", tools=TOOLS)
    billed = client.responses.create(model=MODEL, input="one two three", tools=TOOLS).usage
    assert billed is not None
    assert counted.input_tokens == billed.input_tokens


def test_a_long_conversation_is_made_shorter_and_goes_on(client: OpenAI) -> None:
    items: ResponseInputParam = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi " * 500}]
    compacted = client.responses.compact(model=MODEL, input=items)
    shorter: Any = json.loads(compacted.model_dump_json(exclude_none=True, warnings=False))["output"]
    assert [item["type"] for item in shorter] == ["message", "compaction"]
    before = client.responses.input_tokens.count(model=MODEL, input=items)
    after = client.responses.create(model=MODEL, input=[*shorter, {"role": "user", "content": "go on"}])
    assert after.output_text == "You said: go on"
    assert after.usage is not None
    assert after.usage.input_tokens < before.input_tokens


def test_a_schema_is_parsed_by_the_sdk(client: OpenAI) -> None:
    parsed = client.responses.parse(model=MODEL, input="a city", text_format=City).output_parsed
    assert isinstance(parsed, City)


def test_errors_are_the_sdks_own(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="hello", tool_choice="required")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "tool_choice")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="gpt-6", input="hello")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="hello", max_output_tokens=200_000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call c1"):
        client.responses.create(
            model=MODEL, input=[{"type": "function_call", "call_id": "c1", "name": "x", "arguments": "{}"}]
        )


def test_json_mode_and_log_probabilities(client: OpenAI) -> None:
    response = client.responses.create(
        model=MODEL,
        input="as json",
        text={"format": {"type": "json_object"}},
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    assert json.loads(response.output_text) == {"echo": "as json"}
    message = response.output[-1]
    assert message.type == "message"
    [content] = message.content
    assert content.type == "output_text"
    assert content.logprobs is not None
    assert [len(token.top_logprobs) for token in content.logprobs] == [2, 2, 2]


def test_the_asynchronous_client(live: LiveServer) -> None:
    async def run() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=live.address, api_key="sk-local", max_retries=0) as client:
            response = await client.responses.create(model=MODEL, input="hello")
            text = ""
            async for event in await client.responses.create(model=MODEL, input="hello", stream=True):
                if event.type == "response.output_text.delta":
                    text += event.delta
            return response.output_text, text

    assert asyncio.run(run()) == ("You said: hello",) * 2


def test_a_failure_in_the_middle_of_a_stream_is_a_response_that_failed() -> None:
    backend = scripted(text="this breaks off", failure="engine_failure", fail_after_pieces=2)
    with live_server(backend) as server, OpenAI(base_url=server.address, api_key="x", max_retries=0) as client:
        *_, last = client.responses.create(model=MODEL, input="hello", stream=True)
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert last.response.error.code == "server_error"
        assert last.response.output_text == "this breaks"
        assert client.responses.retrieve(last.response.id).status == "failed"


def test_tenants_do_not_find_each_others_responses() -> None:
    with (
        live_server(settings=Settings(api_keys=("alice", "bob"))) as server,
        OpenAI(base_url=server.address, api_key="alice", max_retries=0) as alice,
        OpenAI(base_url=server.address, api_key="bob", max_retries=0) as bob,
        OpenAI(base_url=server.address, api_key="eve", max_retries=0) as eve,
    ):
        kept = alice.responses.create(model=MODEL, input="secret")
        for call in (bob.responses.retrieve, bob.responses.delete, bob.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                call(kept.id)
        with pytest.raises(openai.BadRequestError, match="not found"):
            bob.responses.create(model=MODEL, input="?", previous_response_id=kept.id)
        with pytest.raises(openai.AuthenticationError) as caught:
            eve.responses.retrieve(kept.id)
        assert caught.value.code == "invalid_api_key"
        assert alice.responses.retrieve(kept.id).output_text == "You said: secret"


CODEX = json.loads((Path(__file__).parents[1] / "transcripts" / "responses" / "codex.json").read_text())["request"]


def test_a_request_as_codex_sends_it_runs_on_the_shipped_model(mini_server: str) -> None:
    headers = {"session-id": "s", "thread-id": "t", "x-codex-beta-features": "remote_compaction_v2"}
    body = {**CODEX, "max_output_tokens": 24}
    with httpx.stream("POST", f"{mini_server}/v1/responses", json=body, headers=headers, timeout=60) as answer:
        frames = answer.read().decode().split("\n\n")[:-1]
        assert answer.status_code == 200
        assert set(answer.headers["x-deepserve-ignored"].split(", ")) == {
            "tools[].web_search",
            "tools[].external_web_access",
            "reasoning.summary",
            "prompt_cache_key",
            "client_metadata",
        }
        assert answer.headers["x-deepserve-reasoning"] == "sent=1 restored=0 missing=0"
    events = [json.loads(frame.partition("data: ")[2]) for frame in frames if frame.startswith("event: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    last = events[-1]["response"]
    assert last["store"] is False
    assert last["output"][0]["type"] == "reasoning"
    assert last["usage"]["output_tokens"] > 0


def test_a_remembered_conversation_is_found_in_the_prefix_cache(mini_server: str) -> None:
    with OpenAI(base_url=f"{mini_server}/v1", api_key="x", max_retries=0) as client:
        said = "Tell me about tea. " * 40
        off: Any = {"effort": "none"}
        first = client.responses.create(model=MODEL, input=said, reasoning=off, max_output_tokens=8)
        second = client.responses.create(
            model=MODEL, input="More.", reasoning=off, max_output_tokens=8, previous_response_id=first.id
        )
        assert first.usage is not None
        assert second.usage is not None
        assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 128 > 0
