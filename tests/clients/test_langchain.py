"""LangChain's own classes for DeepSeek and Anthropic, unmodified, and LangChain's standard suites over them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_deepseek import ChatDeepSeek
from openai import OpenAI
from pydantic import BaseModel, SecretStr

from tests.conftest import running_server

MODEL = "deepseek-v4-pro"
QUESTION = "What is the weather in Paris?"
ANSWER = "The weather in Paris: 21 C, sunny."
KEY = SecretStr("sk-local")
TRACES = "x-deepserve-reasoning"
SUITE = Path(__file__).parent / "langchain"
TIMEOUT_S = 120.0


@pytest.fixture
def deepseek(mini_server: str) -> Iterator[Callable[..., ChatDeepSeek]]:
    """Makes such a model from the class's own fields, and closes its client.

    The class does not: a connection was left to the garbage collector, which complained of it in some later test.
    """
    made: list[ChatDeepSeek] = []

    def make(**fields: Any) -> ChatDeepSeek:  # Any: the class's own fields
        model = ChatDeepSeek(model=MODEL, api_key=KEY, base_url=mini_server, temperature=0, max_retries=0, **fields)
        made.append(model)
        return model

    yield make
    for model in made:
        model.root_client.close()


def claude(server: str, *, thinks: bool = True) -> ChatAnthropic:
    """Thinking is stated: unless told of it, this class turns the answer into a string and loses traces."""
    return ChatAnthropic(
        model_name=MODEL,
        api_key=KEY,
        base_url=f"{server}/anthropic",
        temperature=0,
        max_retries=0,
        max_tokens_to_sample=4096,
        timeout=None,
        stop=None,
        thinking={"type": "enabled", "budget_tokens": 2048} if thinks else {"type": "disabled"},
    )


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return "21 C, sunny"


def watch_traces(client: OpenAI | Anthropic) -> list[str]:
    """Notes what each answer to this client says about past traces: `sent=1 restored=0 missing=0`."""
    noted: list[str] = []

    def note(response: Any) -> None:  # Any: the response class of whichever HTTP library the SDK uses
        if TRACES in response.headers:
            noted.append(response.headers[TRACES])

    client._client.event_hooks = {"response": [note]}
    return noted


def run_tools(model: BaseChatModel, *, streams: bool) -> tuple[str, list[str]]:
    """LangChain's usual loop; returns the answer and the arguments of every call."""
    with_tools = model.bind_tools([get_weather])
    messages: list[BaseMessage] = [HumanMessage(QUESTION)]
    cities: list[str] = []
    while True:
        if streams:
            chunks = list(with_tools.stream(messages))
            message: AIMessage = sum(chunks[1:], start=chunks[0])
        else:
            message = with_tools.invoke(messages)
        messages.append(message)
        if not message.tool_calls:
            return message.text, cities
        for call in message.tool_calls:
            cities.append(call["args"]["city"])
            messages.append(get_weather.invoke(call))


def test_chat_deepseek_streams_what_it_answers_whole(deepseek: Callable[..., ChatDeepSeek]) -> None:
    model = deepseek()
    whole = model.invoke(QUESTION)
    chunks = list(model.stream(QUESTION))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    traces = [chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks]
    assert "".join(traces) == whole.additional_kwargs["reasoning_content"] != ""
    used = next(chunk.usage_metadata for chunk in chunks if chunk.usage_metadata)
    assert whole.usage_metadata is not None
    assert used["output_tokens"] == whole.usage_metadata["output_tokens"]
    assert used["output_token_details"]["reasoning"] == whole.usage_metadata["output_token_details"]["reasoning"] > 0
    # The second time the prompt is in the prefix cache.
    assert used["input_token_details"]["cache_read"] > 0


def test_chat_deepseek_can_switch_thinking_off(deepseek: Callable[..., ChatDeepSeek]) -> None:
    answer = deepseek(extra_body={"thinking": {"type": "disabled"}}).invoke(QUESTION)
    assert "reasoning_content" not in answer.additional_kwargs
    assert answer.text


@pytest.mark.parametrize("streams", [False, True])
def test_chat_deepseek_sends_no_trace_back_and_it_is_restored(
    deepseek: Callable[..., ChatDeepSeek], streams: bool
) -> None:
    model = deepseek()
    noted = watch_traces(model.root_client)
    assert run_tools(model, streams=streams) == (ANSWER, ["Paris"])
    assert noted == ["sent=0 restored=0 missing=0", "sent=0 restored=1 missing=0"]


def test_chat_anthropic_streams_what_it_answers_whole(mini_server: str) -> None:
    model = claude(mini_server)
    whole = model.invoke(QUESTION)
    chunks = list(model.stream(QUESTION))
    streamed = sum(chunks[1:], start=chunks[0])
    kinds = [block["type"] for block in whole.content_blocks]
    assert kinds == [block["type"] for block in streamed.content_blocks] == ["reasoning", "text"]
    assert streamed.text == whole.text
    assert whole.usage_metadata is not None
    assert streamed.usage_metadata is not None
    assert streamed.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


@pytest.mark.parametrize("streams", [False, True])
def test_chat_anthropic_keeps_the_trace_in_a_tool_loop(mini_server: str, streams: bool) -> None:
    model = claude(mini_server)
    noted = watch_traces(model._client)
    assert run_tools(model, streams=streams) == (ANSWER, ["Paris"])
    assert noted == ["sent=0 restored=0 missing=0", "sent=1 restored=0 missing=0"]


def test_chat_anthropic_counts_what_is_billed(mini_server: str) -> None:
    model = claude(mini_server)
    messages: list[BaseMessage] = [HumanMessage(QUESTION)]
    used = model.invoke(messages).usage_metadata
    assert used is not None
    assert model.get_num_tokens_from_messages(messages) == used["input_tokens"]


class City(BaseModel):
    """A city."""

    name: str


@pytest.mark.parametrize(("method", "thinks"), [("function_calling", False), ("json_schema", True)])
def test_chat_anthropic_fills_a_schema(mini_server: str, method: Any, thinks: bool) -> None:  # Any: a literal
    """Where thinking is stated, this class does not force a call, whatever the server could do."""
    model = claude(mini_server, thinks=thinks).with_structured_output(City, method=method, include_raw=True)
    found = model.invoke("Paris")
    assert isinstance(found, dict)
    assert isinstance(found["parsed"], City)
    assert (found["raw"].content_blocks[0]["type"] == "reasoning") == thinks


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("streams", [False, True])
def test_chat_deepseek_fills_a_schema_while_thinking(
    deepseek: Callable[..., ChatDeepSeek],
    method: Any,  # Any: a literal
    streams: bool,
) -> None:
    """JSON mode promises an object, not the schema, which the mini model cannot read out of a prompt."""
    schema = City if method != "json_mode" else None
    model = deepseek(max_tokens=400).with_structured_output(schema, method=method)
    found = list(model.stream("Paris, as json"))[-1] if streams else model.invoke("Paris, as json")
    assert isinstance(found, dict if method == "json_mode" else City)


def test_langchains_standard_suites(tmp_path: Path) -> None:
    script = str(SUITE / "script.toml")
    with running_server("--backend", "scripted", "--script", script, state_dir=tmp_path) as server:
        command = [sys.executable, "-m", "pytest", "-c", str(SUITE / "pytest.ini"), str(SUITE / "standard_suite.py")]
        environment = {**os.environ, "DEEPSERVE_URL": server, "LANGSMITH_TRACING": "false"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= 70, done.stdout
