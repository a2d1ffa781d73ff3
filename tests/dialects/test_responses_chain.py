"""One deepserve in front of another that is spoken to in OpenAI's Responses: the conversation stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import httpx
import msgspec
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
    check_models,
    check_one_dialect,
    check_refusal,
    check_who_answers,
    in_front,
    shipped_model,
)
from tests.dialects.speakers import SPEAKERS
from tests.server.live import HELLO, LiveServer, live_server


@pytest.fixture(scope="module")
def origin() -> Iterator[LiveServer]:
    with shipped_model() as live:
        yield live


@pytest.fixture(scope="module")
def strict_origin() -> Iterator[LiveServer]:
    """Refuses whatever the vendor's service refuses, and ignores what that does not document."""
    with shipped_model(is_strict=True) as live:
        yield live


@pytest.fixture(scope="module")
def own_front(origin: LiveServer) -> Iterator[LiveServer]:
    with in_front(f"deepserve-responses={origin.address}/v1", api_keys=KEYS) as live:
        yield live


@pytest.fixture(scope="module", params=["a tolerant server", "a strict server"])
def front(request: pytest.FixtureRequest, origin: LiveServer, strict_origin: LiveServer) -> Iterator[LiveServer]:
    """A server that takes ours for any service of the dialect."""
    behind = strict_origin if "strict" in request.param else origin
    with in_front(f"responses={behind.address}/v1", api_keys=KEYS) as live:
        yield live


@pytest.mark.parametrize("name", HELD)
def test_an_answer_is_the_same_through_responses(origin: LiveServer, own_front: LiveServer, name: str) -> None:
    check_every_dialect(origin, own_front, name)


@pytest.mark.parametrize("name", ["a question, cut off", "tools offered", "a tool's result"])
def test_an_answer_is_the_same_where_only_what_openai_documents_is_counted_on(
    origin: LiveServer, front: LiveServer, name: str
) -> None:
    check_one_dialect(origin, front, name)


def test_a_second_turn_is_a_hit_in_the_cache_behind_the_front(own_front: LiveServer) -> None:
    check_hits(own_front)


def test_counts_are_those_of_the_server_behind(origin: LiveServer, own_front: LiveServer) -> None:
    check_counts(origin, own_front, SPEAKERS[2], "input_tokens")


def test_the_models_are_those_of_the_server_behind(origin: LiveServer, own_front: LiveServer) -> None:
    check_models(origin, own_front)


def test_the_server_that_really_answers_is_named(own_front: LiveServer) -> None:
    check_who_answers(own_front)


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_cost_that_the_server_behind_states_comes_through(is_stream: bool) -> None:
    """OpenRouter states one in this dialect, too, and so do we at its address."""
    asked = {**HELLO, "model": "deepseek/deepseek-v4-flash", "stream": is_stream}
    with live_server(ScriptedBackend()) as behind:
        settings = Settings(backend="upstream", upstream=f"responses={behind.address}/api/v1")
        with live_server(select_backend(settings), settings) as live:
            direct, through = (_usage(server, asked) for server in (behind, live))
    assert Decimal(str(through["cost"])) == Decimal(str(direct["cost"])) > 0
    assert through["prompt_tokens"] == direct["prompt_tokens"]
    assert through["completion_tokens"] == direct["completion_tokens"]


def _usage(server: LiveServer, asked: dict[str, object]) -> dict[str, object]:
    text = httpx.post(f"{server.address}/api/v1/chat/completions", json=asked, timeout=60).text
    bodies = [line.removeprefix("data: ") for line in text.splitlines() if "prompt_tokens" in line]
    found: dict[str, object] = msgspec.json.decode(bodies[-1])["usage"]
    return found


@pytest.fixture
def scripted_front() -> Iterator[LiveServer]:
    with live_server(ScriptedBackend()) as behind, in_front(f"deepserve-responses={behind.address}/v1") as live:
        yield live


def test_refusals_come_through_in_the_words_of_the_server_behind(scripted_front: LiveServer) -> None:
    check_refusal(scripted_front)


def test_log_probabilities_come_through(scripted_front: LiveServer) -> None:
    for is_stream in (False, True):
        thinking = {"type": "disabled"}
        answer = scripted_front.post(logprobs=True, top_logprobs=2, thinking=thinking, stream=is_stream)
        assert answer.status_code == 200, answer.text
        assert "x-deepserve-relaxed" not in answer.headers
        assert '"top_logprobs":[{' in answer.text


def test_what_the_dialect_cannot_ask_for_is_named_or_refused(scripted_front: LiveServer) -> None:
    relaxed = scripted_front.post(logit_bias={"7": 1}, seed=7, temperature=0.5)
    assert relaxed.status_code == 200, relaxed.text
    assert "logit_bias" in relaxed.headers["x-deepserve-relaxed"]
    assert "seed" not in relaxed.headers["x-deepserve-relaxed"]
    assert "temperature" not in relaxed.headers["x-deepserve-relaxed"]
    begun = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, ", "prefix": True}]
    for refused, field in (
        (scripted_front.post(n=2), "n"),
        (scripted_front.post(stop=["END"]), "stop"),
        (scripted_front.post(messages=begun), "messages[1]"),
    ):
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == field
