"""One deepserve in front of another that is spoken to in Anthropic's dialect: the conversation stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest

from deepserve.backends.scripted import ScriptedBackend
from deepserve.backends.selection import select_backend
from deepserve.config import Settings
from tests.dialects.chains import (
    HELD,
    KEYS,
    check_counts,
    check_every_dialect,
    check_hits,
    check_lost_trace,
    check_models,
    check_one_dialect,
    check_refusal,
    check_who_answers,
    in_front,
    shipped_model,
)
from tests.dialects.speakers import SPEAKERS
from tests.server.live import HELLO, LiveServer, live_server

SPOKEN = {
    "deepserve-anthropic": "DEEPSERVE_UPSTREAM_KEY",
    "deepseek-anthropic": "DEEPSEEK_API_KEY",
    "anthropic": "DEEPSERVE_UPSTREAM_KEY",
}
"""Kind -> where its key is."""


@pytest.fixture(scope="module")
def origin() -> Iterator[LiveServer]:
    with shipped_model() as live:
        yield live


@pytest.fixture(scope="module")
def strict_origin() -> Iterator[LiveServer]:
    """Refuses whatever api.deepseek.com refuses."""
    with shipped_model(is_strict=True) as live:
        yield live


@pytest.fixture(scope="module", params=SPOKEN)
def front(request: pytest.FixtureRequest, origin: LiveServer, strict_origin: LiveServer) -> Iterator[LiveServer]:
    """A server that takes ours for another service."""
    kind: str = request.param
    behind = strict_origin if kind == "deepseek-anthropic" else origin
    with in_front(f"{kind}={behind.address}/anthropic", key_variable=SPOKEN[kind], api_keys=KEYS) as live:
        yield live


@pytest.fixture(scope="module")
def own_front(origin: LiveServer) -> Iterator[LiveServer]:
    with in_front(f"deepserve-anthropic={origin.address}/anthropic", api_keys=KEYS) as live:
        yield live


@pytest.mark.parametrize("name", HELD)
def test_an_answer_is_the_same_through_messages(origin: LiveServer, own_front: LiveServer, name: str) -> None:
    check_every_dialect(origin, own_front, name)


@pytest.mark.parametrize("name", ["a question, cut off", "tools offered", "a tool's result"])
def test_an_answer_is_the_same_whichever_service_of_the_dialect_it_is_taken_for(
    origin: LiveServer, front: LiveServer, name: str
) -> None:
    """Its spelling of thinking, of traces and of tools; DeepSeek's strictness."""
    check_one_dialect(origin, front, name)


def test_a_lost_trace_is_no_refusal_of_a_strict_service(strict_origin: LiveServer, front: LiveServer) -> None:
    check_lost_trace(strict_origin, front, SPEAKERS[1])


def test_a_second_turn_is_a_hit_in_the_cache_behind_the_front(own_front: LiveServer) -> None:
    check_hits(own_front)


def test_counts_are_those_of_the_server_behind(origin: LiveServer, own_front: LiveServer) -> None:
    check_counts(origin, own_front, SPEAKERS[1], "count_tokens")


def test_the_models_are_those_of_the_server_behind(origin: LiveServer, own_front: LiveServer) -> None:
    check_models(origin, own_front)


def test_the_server_that_really_answers_is_named(own_front: LiveServer) -> None:
    check_who_answers(own_front)


def test_the_cost_that_the_server_behind_states_comes_through() -> None:
    """OpenRouter states one in this dialect, too, and so do we at its address."""
    with live_server(ScriptedBackend()) as behind:
        settings = Settings(backend="upstream", upstream=f"anthropic={behind.address}/api")
        with live_server(select_backend(settings), settings) as live:
            asked = {**HELLO, "model": "deepseek/deepseek-v4-flash"}
            direct, through = (
                httpx.post(f"{server.address}/api/v1/chat/completions", json=asked, timeout=60).json()["usage"]
                for server in (behind, live)
            )
    assert Decimal(str(through["cost"])) == Decimal(str(direct["cost"])) > 0
    assert through["prompt_tokens"] == direct["prompt_tokens"]
    assert through["completion_tokens"] == direct["completion_tokens"]


@pytest.fixture
def scripted_front() -> Iterator[LiveServer]:
    with (
        live_server(ScriptedBackend()) as behind,
        in_front(f"deepserve-anthropic={behind.address}/anthropic") as live,
    ):
        yield live


def test_refusals_come_through_in_the_words_of_the_server_behind(scripted_front: LiveServer) -> None:
    check_refusal(scripted_front)


def test_what_the_dialect_cannot_ask_for_is_named_or_refused(scripted_front: LiveServer) -> None:
    relaxed = scripted_front.post(seed=7, presence_penalty=1.0, temperature=0.5)
    assert relaxed.status_code == 200, relaxed.text
    assert "seed" in relaxed.headers["x-deepserve-relaxed"]
    assert "presence_penalty" in relaxed.headers["x-deepserve-relaxed"]
    assert "temperature" not in relaxed.headers["x-deepserve-relaxed"]
    refused = scripted_front.post(n=2)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "n"


def test_an_answer_that_was_begun_goes_on_through_it(origin: LiveServer, own_front: LiveServer) -> None:
    begun = [{"role": "user", "content": "Count to five."}, {"role": "assistant", "content": "One, ", "prefix": True}]
    told = [
        httpx.post(
            f"{server.address}/beta/chat/completions",
            json={**HELLO, "messages": begun, "thinking": {"type": "disabled"}, "max_tokens": 8},
            headers={"authorization": f"Bearer {KEYS[-9]}"},
            timeout=60,
        ).json()
        for server in (origin, own_front)
    ]
    assert told[0]["choices"][0]["message"] == told[1]["choices"][0]["message"]
    assert told[0]["usage"]["prompt_tokens"] == told[1]["usage"]["prompt_tokens"]
