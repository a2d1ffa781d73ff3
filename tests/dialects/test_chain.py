"""One deepserve in front of another: a conversation is the same through both, whatever dialect it is held in."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from deepserve.backends.scripted import ScriptedBackend
from tests.dialects.chains import (
    HELD,
    KEYS,
    check_every_dialect,
    check_lost_trace,
    check_one_dialect,
    check_refusal,
    check_who_answers,
    in_front,
    shipped_model,
)
from tests.dialects.speakers import SPEAKERS
from tests.dialects.test_same_everywhere import CONVERSATIONS, ask
from tests.server.live import LiveServer, live_server


@pytest.fixture(scope="module")
def origin() -> Iterator[LiveServer]:
    with shipped_model() as live:
        yield live


@pytest.fixture(scope="module")
def front(origin: LiveServer) -> Iterator[LiveServer]:
    with in_front(f"deepserve={origin.address}/v1", upstream_models={}, api_keys=KEYS) as live:
        yield live


@pytest.mark.parametrize("name", HELD)
def test_an_answer_is_the_same_through_another_server(origin: LiveServer, front: LiveServer, name: str) -> None:
    check_every_dialect(origin, front, name)


def test_a_second_turn_is_a_hit_in_the_cache_behind_the_front(front: LiveServer) -> None:
    first = CONVERSATIONS["a question, thinking"]
    key = KEYS[-1]
    ask(front, SPEAKERS[0], first, is_stream=True, key=key)
    assert ask(front, SPEAKERS[0], first, is_stream=True, key=key).hit_tokens > 0


def test_the_models_are_those_of_the_server_behind(origin: LiveServer, front: LiveServer) -> None:
    """With their limits, and with who really answers there."""

    def listed(server: LiveServer) -> list[tuple[object, ...]]:
        models = server.get("/v1/models", authorization=f"Bearer {KEYS[0]}").json()["data"]
        members = ("id", "context_window", "max_output_tokens", "served_by")
        return [tuple(model[name] for name in members) for model in models if model["id"].startswith("deepseek-v4")]

    behind = [row for row in listed(origin) if row[0] != "deepseek-v4-auto"]
    assert [row for row in listed(front) if row in behind] == behind


def test_the_server_that_really_answers_is_named(front: LiveServer) -> None:
    check_who_answers(front)


# Spoken to as other services are

SPOKEN = {
    "deepseek": ("", "DEEPSEEK_API_KEY"),
    "openrouter": ("/api/v1", "OPENROUTER_API_KEY"),
    "oxen": ("/api/ai", "OXEN_API_KEY"),
    "fireworks": ("/v1", "FIREWORKS_API_KEY"),
    "vllm": ("/v1", "DEEPSERVE_UPSTREAM_KEY"),
    "openai": ("/v1", "DEEPSERVE_UPSTREAM_KEY"),
}
"""Kind -> where this server speaks its dialect, or one that takes it; and where the key is."""


@pytest.fixture(scope="module")
def strict_origin() -> Iterator[LiveServer]:
    """Refuses whatever api.deepseek.com refuses."""
    with shipped_model(is_strict=True) as live:
        yield live


@pytest.fixture(scope="module", params=SPOKEN)
def dressed_front(
    request: pytest.FixtureRequest, origin: LiveServer, strict_origin: LiveServer
) -> Iterator[LiveServer]:
    """A server that takes ours for another service."""
    kind: str = request.param
    path, variable = SPOKEN[kind]
    behind = strict_origin if kind == "deepseek" else origin
    with in_front(f"{kind}={behind.address}{path}", key_variable=variable, api_keys=KEYS) as live:
        yield live


@pytest.mark.parametrize("name", ["a question, cut off", "tools offered", "a tool's result"])
def test_an_answer_is_the_same_whichever_service_the_server_behind_is_taken_for(
    origin: LiveServer, dressed_front: LiveServer, name: str
) -> None:
    """Its spelling of thinking, of traces and of tools; usage and hits as that service tells them."""
    check_one_dialect(origin, dressed_front, name)


def test_a_lost_trace_is_no_refusal_of_a_strict_service(strict_origin: LiveServer, dressed_front: LiveServer) -> None:
    check_lost_trace(strict_origin, dressed_front, SPEAKERS[0])


@pytest.fixture
def live() -> Iterator[LiveServer]:
    with live_server(ScriptedBackend()) as server:
        yield server


@pytest.fixture
def scripted_front() -> Iterator[LiveServer]:
    with (
        live_server(ScriptedBackend()) as behind,
        in_front(f"deepserve={behind.address}/v1", upstream_models={}) as live,
    ):
        yield live


def test_refusals_come_through_in_the_words_of_the_server_behind(scripted_front: LiveServer) -> None:
    check_refusal(scripted_front)
    refused = scripted_front.post(guided_regex="a+", stream=True)
    assert refused.status_code == 400
    assert "regular expression" in refused.json()["error"]["message"]


def test_several_results_and_logprobs_come_through(scripted_front: LiveServer) -> None:
    answer = scripted_front.post(n=3, logprobs=True, top_logprobs=2, thinking={"type": "disabled"}).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["You said: hello"] * 3
    assert all(len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2 for choice in answer["choices"])


def test_counts_that_are_estimates_say_so(scripted_front: LiveServer, live: LiveServer) -> None:
    hello = {"messages": [{"role": "user", "content": "hello"}], "model": "deepseek-v4-flash"}
    for path, body in (
        ("/anthropic/v1/messages/count_tokens", hello),
        ("/v1/responses/input_tokens", {"model": "deepseek-v4-flash", "input": "hello"}),
    ):
        for server, estimated in ((scripted_front, "input_tokens"), (live, None)):
            answer = httpx.post(server.address + path, json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            assert answer.json()["input_tokens"] > 0
            assert answer.headers.get("x-deepserve-estimated") == estimated
