"""The unmodified OpenRouter SDK for Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openrouter import OpenRouter, errors

from tests.server.live import LiveServer, live_server, scripted

MODEL = "deepseek/deepseek-v4-pro"
DATED = "deepseek/deepseek-v4-pro-20260423"
MESSAGES: Any = [{"role": "user", "content": "weather please"}]  # Any: as in the SDK's own examples
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def client_of(live: LiveServer) -> OpenRouter:
    return OpenRouter(api_key="sk-or-local", server_url=live.address + "/api/v1", retry_config=None)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(live: LiveServer) -> Iterator[OpenRouter]:
    with client_of(live) as client:
        yield client


def test_a_question_and_its_answer(client: OpenRouter) -> None:
    answer = client.chat.send(model=MODEL, messages=MESSAGES)
    assert answer.model == DATED
    assert answer.id.startswith("gen-")
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == "You said: weather please"
    assert isinstance(choice.message.reasoning, str)
    assert choice.message.reasoning.startswith("The user said")
    assert choice.message.reasoning_details is not None
    assert choice.message.reasoning_details[0].type == "reasoning.text"
    usage = answer.usage
    assert usage is not None
    assert isinstance(usage.cost, float)
    assert usage.cost > 0
    assert usage.cost_details is not None


def test_a_stream_says_what_the_whole_answer_says(client: OpenRouter) -> None:
    whole = client.chat.send(model=MODEL, messages=MESSAGES)
    text, reasoning, usages, finishes = "", "", [], []
    with client.chat.send(model=MODEL, messages=MESSAGES, stream=True) as stream:
        for chunk in stream:
            assert chunk.model == DATED
            delta = chunk.choices[0].delta
            text += delta.content or ""
            reasoning += delta.reasoning or ""
            finishes.append(chunk.choices[0].finish_reason)
            usages.append(chunk.usage)
    assert text == whole.choices[0].message.content
    assert reasoning == whole.choices[0].message.reasoning
    assert finishes[-2:] == ["stop", "stop"]
    assert finishes[:-2] == [None] * (len(finishes) - 2)
    assert usages[-1] is not None
    assert usages[-1] == whole.usage


def test_a_tool_loop_keeps_the_reasoning(client: OpenRouter) -> None:
    first = client.chat.send(model=MODEL, messages=MESSAGES, tools=TOOLS)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls
    call = message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "example"}
    history = [*MESSAGES, message, {"role": "tool", "tool_call_id": call.id, "content": "21 C"}]
    second = client.chat.send(model=MODEL, messages=history, tools=TOOLS)
    assert second.choices[0].message.content == "The tool answered: 21 C"


def test_errors_are_the_sdks_own(client: OpenRouter) -> None:
    with pytest.raises(errors.BadRequestResponseError, match="nobody/nothing is not a valid model ID"):
        client.chat.send(model="nobody/nothing", messages=MESSAGES)
    with pytest.raises(errors.BadRequestResponseError, match="temperature"):
        client.chat.send(model=MODEL, messages=MESSAGES, temperature=3)
    with pytest.raises(errors.NotFoundResponseError, match="No allowed providers"):
        client.chat.send(model=MODEL, messages=MESSAGES, provider={"only": ["fireworks"]})


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("too_many_requests", errors.TooManyRequestsResponseError),
        ("overloaded", errors.ServiceUnavailableResponseError),
        ("engine_failure", errors.InternalServerResponseError),
        ("backend_failure", errors.BadGatewayResponseError),
    ],
)
def test_failures_have_their_own_classes(failure: str, error: type[Exception]) -> None:
    with live_server(scripted(failure=failure)) as live, client_of(live) as client, pytest.raises(error):
        client.chat.send(model=MODEL, messages=MESSAGES)


def test_a_failure_in_the_middle_is_an_event() -> None:
    backend = scripted(text="a b c", failure="backend_failure", fail_after_pieces=2)
    with (
        live_server(backend) as live,
        client_of(live) as client,
        client.chat.send(model=MODEL, messages=MESSAGES, stream=True) as stream,
    ):
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b"
    error = chunks[-1].error
    assert error is not None
    assert error.code == 502
    assert chunks[-1].choices[0].finish_reason == "error"
