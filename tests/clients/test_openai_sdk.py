"""The unmodified OpenAI SDK, as users of the vendor's API call it."""

import asyncio
import json
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.server.live import LiveServer, live_server, scripted

MODEL = "deepseek-v4-pro"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "weather as json?"}]
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    }
]
OFF = {"thinking": {"type": "disabled"}}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


@pytest.fixture(params=["", "/v1", "/beta", "/beta/v1"], scope="module")
def client(live: LiveServer, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.address + request.param, api_key="sk-local", max_retries=0) as client:
        yield client


def test_a_question_and_its_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, reasoning_effort="high", extra_body={"thinking": {"type": "enabled"}}
    )
    message = answer.choices[0].message
    assert message.content == "You said: weather as json?"
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"].startswith("The user said")
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 10
    assert answer.usage.model_extra == {"prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 4}
    assert answer.system_fingerprint == "fp_deepserve_scripted_1"


def test_thinking_can_be_switched_off_through_extra_body(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body=OFF)
    assert "reasoning_content" not in (answer.choices[0].message.model_extra or {})


def test_a_stream_with_usage(client: OpenAI) -> None:
    text, reasoning, usages = "", "", []
    for chunk in client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        reasoning += (delta.model_extra or {}).get("reasoning_content") or ""
        usages.append(chunk.usage)
    assert text == "You said: weather as json?"
    assert reasoning == "The user said: weather as json? I will answer that."
    assert [usage is None for usage in usages] == [True] * (len(usages) - 1) + [False]


def test_a_tool_loop_with_the_message_sent_back_whole(client: OpenAI) -> None:
    messages = list(MESSAGES)
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "example", "unit": "c"}
    messages.append(message)  # type: ignore[arg-type]  # as the vendor's own examples do
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "21 C"})
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages, tools=TOOLS)
    assert raw.headers["x-deepserve-reasoning"] == "sent=1 restored=0 missing=0"
    assert raw.parse().choices[0].message.content == "The tool answered: 21 C"


def test_a_streamed_tool_call_through_the_typed_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.done" in kinds
    assert message.tool_calls
    assert message.tool_calls[0].function.parsed_arguments == {"city": "example", "unit": "c"}


def test_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, logprobs=True, top_logprobs=3, extra_body=OFF
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == "You said: weather as json?"
    assert [len(token.top_logprobs) for token in logprobs.content] == [3] * len(logprobs.content)


def test_several_results_and_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, n=2, response_format={"type": "json_object"}, extra_body=OFF
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert json.loads(answer.choices[1].message.content or "") == {"echo": "weather as json?"}


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["deepseek-v4-pro", "deepseek-v4-flash"]
    assert client.models.retrieve("deepseek-v4-flash").created == 1776988800


def test_errors_are_the_sdks_own(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=3)
    assert caught.value.param == "temperature"
    assert caught.value.code == "invalid_request_error"
    assert caught.value.request_id


class City(BaseModel):
    """A city."""

    name: str
    population: int


def test_a_schema_is_parsed_by_the_sdk(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=City)
    assert isinstance(answer.choices[0].message.parsed, City)


def test_a_call_is_forced_while_thinking(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="required")
    message = answer.choices[0].message
    assert [call.type for call in message.tool_calls or ()] == ["function"]
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"]


def test_the_asynchronous_client(live: LiveServer) -> None:
    async def run() -> tuple[str | None, str]:
        async with AsyncOpenAI(base_url=live.address, api_key="sk-local", max_retries=0) as client:
            answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
            text = ""
            async for chunk in await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True):
                text += chunk.choices[0].delta.content or ""
            return answer.choices[0].message.content, text

    assert asyncio.run(run()) == ("You said: weather as json?",) * 2


def test_a_failure_in_the_middle_of_a_stream_is_raised() -> None:
    with live_server(scripted(text="a b c", failure="engine_failure", fail_after_pieces=2)) as live:
        client = OpenAI(base_url=live.address, api_key="x", max_retries=0)
        stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        pieces: list[str] = []

        def read() -> None:
            pieces.extend(chunk.choices[0].delta.content or "" for chunk in stream)

        with client, pytest.raises(openai.APIError, match="the engine failed"):
            read()
    assert "".join(pieces) == "a b"


def test_a_full_server_is_retried_as_it_asks() -> None:
    with live_server(scripted(failure="too_many_requests")) as live:
        client = OpenAI(base_url=live.address, api_key="x", max_retries=0)
        with client, pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.response.headers["retry-after"] == "2"
