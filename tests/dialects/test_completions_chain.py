"""One deepserve in front of another: plain completions and holes are the same through both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deepserve.backends.scripted import ScriptedBackend
from deepserve.backends.selection import select_backend
from deepserve.config import Settings
from tests.dialects.chains import in_front, shipped_model
from tests.server.live import LiveServer, live_server

SPOKEN = {
    "deepserve": ("/v1", "DEEPSERVE_UPSTREAM_KEY"),
    "deepseek": ("", "DEEPSEEK_API_KEY"),
    "vllm": ("/v1", "DEEPSERVE_UPSTREAM_KEY"),
    "openai": ("/v1", "DEEPSERVE_UPSTREAM_KEY"),
}
"""Kind -> where this server speaks its dialect, and where the key is."""

Json = Any
"""Bodies as clients read them."""


@pytest.fixture(scope="module")
def origin() -> Iterator[LiveServer]:
    with shipped_model() as live:
        yield live


@pytest.fixture(scope="module", params=SPOKEN)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def front(kind: str, origin: LiveServer) -> Iterator[LiveServer]:
    path, variable = SPOKEN[kind]
    with in_front(f"{kind}={origin.address}{path}", key_variable=variable) as live:
        yield live


def _ask(server: LiveServer, path: str = "/beta/completions", **fields: Json) -> httpx.Response:
    asked = {"model": "deepseek-v4-flash", "prompt": "The quick brown fox", "max_tokens": 12, "temperature": 0}
    headers = {"authorization": "Bearer sk-front"}
    return httpx.post(server.address + path, json={**asked, **fields}, headers=headers, timeout=60)


def _told(answer: httpx.Response) -> Json:
    """Text, end, log-probabilities and usage, of a whole answer or a streamed one. What was cached depends on the order
    of the tests.
    """
    assert answer.status_code == 200, answer.text
    if answer.text.startswith("data:"):
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        chunks = [json.loads(line) for line in lines]
        assert answer.text.rstrip().endswith("[DONE]")
    else:
        chunks = [answer.json()]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    columns = [choice["logprobs"] for choice in choices if choice.get("logprobs")]
    usage = chunks[-1]["usage"]
    return {
        "text": "".join(choice["text"] for choice in choices),
        "finish": choices[-1]["finish_reason"],
        "tokens": [token for one in columns for token in one["tokens"]],
        "logprobs": [round(value, 4) for one in columns for value in one["token_logprobs"]],
        "tops": [set(top) for one in columns for top in one["top_logprobs"]],
        "offsets": [offset for one in columns for offset in one["text_offset"]],
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
    }


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [{}, {"suffix": " jumps over the dog."}, {"suffix": ""}, {"echo": True}, {"stop": [" "]}],
    ids=["a text", "a hole", "an empty hole", "repeated", "stopped"],
)
def test_a_completion_is_the_same_through_another_server(
    origin: LiveServer, front: LiveServer, kind: str, fields: Json, is_stream: bool
) -> None:
    through = _ask(front, **fields, stream=is_stream)
    if kind in ("vllm", "openai") and "suffix" in fields:
        assert through.status_code == 400
        assert through.json()["error"]["param"] == "suffix"
        return
    direct = _told(_ask(origin, **fields))
    assert _told(through) == direct
    assert direct["completion_tokens"] > 0


@pytest.mark.parametrize("is_stream", [False, True])
def test_log_probabilities_come_through_or_are_named(
    origin: LiveServer, front: LiveServer, kind: str, is_stream: bool
) -> None:
    through = _ask(front, logprobs=3, stream=is_stream)
    if kind == "openai":
        assert "logprobs" in through.headers["x-deepserve-relaxed"]
        return
    direct = _told(_ask(origin, logprobs=3))
    assert _told(through) == direct
    assert len(direct["tokens"]) == direct["completion_tokens"]


def test_several_results_come_through_or_are_refused(origin: LiveServer, front: LiveServer, kind: str) -> None:
    through = _ask(front, n=2, temperature=1, seed=7)
    if kind == "deepseek":
        assert through.status_code == 400
        assert through.json()["error"]["param"] == "n"
        return
    direct = _ask(origin, n=2, temperature=1, seed=7)
    texts = [[choice["text"] for choice in answer.json()["choices"]] for answer in (through, direct)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_cost_that_the_server_behind_states_comes_through(is_stream: bool) -> None:
    fields = {"model": "deepseek/deepseek-v4-flash", "stream": is_stream}
    with live_server(ScriptedBackend()) as behind:
        settings = Settings(backend="upstream", upstream=f"openai={behind.address}/api/v1")
        with live_server(select_backend(settings), settings) as live:
            answers = [_ask(server, "/api/v1/completions", **fields).text for server in (behind, live)]
    lines = [[line for line in text.splitlines() if '"usage":{' in line][-1] for text in answers]
    direct, through = (json.loads(line.removeprefix("data: "))["usage"] for line in lines)
    assert through["cost"] == direct["cost"] > 0
    assert through["prompt_tokens"] == direct["prompt_tokens"]
    assert through["completion_tokens"] == direct["completion_tokens"]


@pytest.mark.parametrize("kind", ["oxen", "deepserve-responses", "deepserve-anthropic", "deepserve-runware"])
def test_a_service_without_plain_completions_refuses_them_by_name(kind: str) -> None:
    with live_server(ScriptedBackend()) as behind, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OXEN_API_KEY", "sk-front")
        settings = Settings(backend="upstream", upstream=f"{kind}={behind.address}/v1")
        with live_server(select_backend(settings), settings) as live:
            refused = _ask(live)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "prompt"
