"""The whole server, stopped by a signal and started again on the same state directory."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from deepserve.engine.native.shared_library import find_library
from tests.conftest import running_server

if find_library() is None:
    pytest.importorskip("torch", reason="answering needs the native core or deepserve[reference]")

WEATHER_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def ask(base: str, *turns: tuple[str, str]) -> Any:  # Any: the answer's JSON
    messages = [{"role": role, "content": content} for role, content in turns]
    body = {"model": "deepseek-chat", "messages": messages, "max_tokens": 8, "temperature": 0}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_a_conversation_goes_on_after_a_restart_and_its_prefix_is_counted_as_a_hit(tmp_path: Path) -> None:
    question = ("user", "Tell me about the sun. " * 100)
    with running_server(state_dir=tmp_path) as base:
        first = ask(base, question)
    answer = ("assistant", first["choices"][0]["message"]["content"])
    with running_server(state_dir=tmp_path) as base:
        second = ask(base, question, answer, ("user", "And now?"))
        with urllib.request.urlopen(f"{base}/metrics") as response:
            metrics = response.read().decode()
    usage = second["usage"]
    assert usage["prompt_cache_hit_tokens"] == first["usage"]["total_tokens"] - 1
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"]
    assert "deepserve_engine_disk_cache_hits 1.0" in metrics


def test_without_a_disk_cache_nothing_of_a_prompt_outlives_the_server(tmp_path: Path) -> None:
    question = ("user", "Tell me about the sun. " * 100)
    for _ in range(2):
        with running_server("--disk-cache", "0", state_dir=tmp_path) as base:
            assert ask(base, question)["usage"]["prompt_cache_hit_tokens"] == 0
    assert not list(tmp_path.glob("prefix-cache*"))


def test_a_tool_loop_goes_on_after_a_restart_though_the_client_kept_no_trace(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER_PARAMETERS}}
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]  # Any: JSON

    def post(base: str) -> tuple[Any, str]:
        body = {"model": "deepseek-v4-flash", "messages": messages, "tools": [tool], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{base}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as response:
            return json.load(response), response.headers["x-deepserve-reasoning"]

    with running_server(state_dir=tmp_path) as base:
        message = post(base)[0]["choices"][0]["message"]
    assert message.pop("reasoning_content")
    (call,) = message["tool_calls"]
    messages += [message, {"role": "tool", "tool_call_id": call["id"], "content": "Sunny"}]
    for arguments, expected in ((), "restored=1 missing=0"), (("--keep-turns", "0"), "restored=0 missing=1"):
        with running_server(*arguments, state_dir=tmp_path) as base:
            assert post(base)[1] == f"sent=0 {expected}"
