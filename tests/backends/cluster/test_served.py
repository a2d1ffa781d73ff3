"""A cluster behind a whole server: settings to sockets, streamed and whole."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.selection import select_backend
from deepserve.backends.tokens.model import shipped_folder
from deepserve.config import Settings
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import FakeServer, TokenSource
from tests.server.live import LiveServer, live_server

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USER = [{"role": "user", "content": "What is the weather in Paris?"}]
OFF = {"thinking": {"type": "disabled"}}
BODIES: dict[str, dict[str, Any]] = {  # Any: JSON
    "a question": {"messages": [{"role": "user", "content": "Hello! Who are you?"}], **OFF},
    "thinking": {"messages": [{"role": "user", "content": "What is 7 times 6?"}]},
    "a call demanded": {"messages": USER, "tools": [WEATHER], "tool_choice": "required", **OFF},
    "tools while thinking": {"messages": USER, "tools": [WEATHER]},
    "JSON": {"messages": [{"role": "user", "content": "json"}], "response_format": {"type": "json_object"}, **OFF},
}


@contextmanager
def fake_server(source: TokenSource) -> Iterator[FakeServer]:
    """In a thread with an event loop of its own."""
    server, loop = FakeServer(source), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        yield server
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def servers(shipped: Pair) -> Iterator[dict[str, LiveServer]]:
    """The model by itself, and through each kind of cluster."""
    with ExitStack() as stack:
        embedded = EmbeddedBackend.load(Settings(cache_bytes=64 << 20))
        found = {"embedded": stack.enter_context(live_server(embedded, Settings()))}
        for kind in ("vllm", "sglang"):
            fake = stack.enter_context(fake_server(shipped.source))
            settings = Settings(
                backend="upstream", upstream=f"{kind}=http://{fake.host}/v1", upstream_tokenizer=shipped_folder()
            )
            found[kind] = stack.enter_context(live_server(select_backend(settings), settings))
        yield found


def whole(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    answer = httpx.post(server.address + "/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert isinstance(told, dict)
    return told


def streamed(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    """The pieces put together again."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "arguments": ""}
    with httpx.stream(
        "POST", server.address + "/chat/completions", json={**body, "stream": True}, timeout=60
    ) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    for name in ("content", "reasoning_content"):
                        message[name] += choice["delta"].get(name) or ""
                    for call in choice["delta"].get("tool_calls") or []:
                        message["arguments"] += call["function"].get("arguments") or ""
                    message["finish"] = choice["finish_reason"] or message.get("finish")
    return message


def flat(told: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    (choice,) = told["choices"]
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "reasoning_content": message.get("reasoning_content") or "",
        "arguments": "".join(call["function"]["arguments"] for call in message.get("tool_calls") or []),
        "finish": choice["finish_reason"],
    }


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_clients_get_the_answers_of_our_own_engine(servers: dict[str, LiveServer], kind: str, name: str) -> None:
    body = {"model": "deepseek-v4-flash", "temperature": 0, "max_tokens": 200, **BODIES[name]}
    here, there = whole(servers["embedded"], body), whole(servers[kind], body)
    assert flat(there) == flat(here)
    assert streamed(servers[kind], body) == flat(here)
    assert there["usage"]["prompt_tokens"] == here["usage"]["prompt_tokens"]
    assert there["usage"]["completion_tokens"] == here["usage"]["completion_tokens"]


def test_the_server_says_who_answers(servers: dict[str, LiveServer]) -> None:
    models = servers["vllm"].get("/models").json()["data"]
    assert "deepseek-ai/DeepSeek-V4-Flash" in {model["served_by"]["model"] for model in models}


def test_a_cluster_is_told_the_requests_id_and_its_place_in_a_trace(shipped: Pair) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    with fake_server(shipped.source) as fake:
        settings = Settings(
            backend="upstream", upstream=f"vllm=http://{fake.host}/v1", upstream_tokenizer=shipped_folder()
        )
        with live_server(select_backend(settings), settings) as live:
            body = {"model": "deepseek-v4-flash", **BODIES["a question"]}
            answer = httpx.post(
                live.address + "/chat/completions", json=body, headers={"traceparent": parent}, timeout=60
            )
        assert answer.status_code == 200
        assert fake.headers
        for headers in fake.headers:
            assert headers["traceparent"] == parent
            assert headers["x-request-id"] == answer.headers["x-ds-trace-id"]
