"""One deepserve in front of another that is spoken to in Anthropic's dialect: the conversation stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import httpx
import msgspec
import pytest

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.scripted import ScriptedBackend
from deepserve.backends.selection import select_backend
from deepserve.config import Settings
from deepserve.core.messages import Message
from deepserve.engine.native.shared_library import find_library
from tests.dialects.speakers import SPEAKERS, Conversation, Told, wishes
from tests.dialects.test_chain import CASES, HELD, KEYS
from tests.dialects.test_same_everywhere import CALL, QUESTION, RESULT, WEATHER, ask
from tests.server.live import HELLO, LiveServer, live_server

SPOKEN = {
    "deepserve-anthropic": "/anthropic",
    "deepseek-anthropic": "/anthropic",
    "anthropic": "/anthropic",
}
"""Kind -> where this server speaks its dialect."""


@pytest.fixture(scope="module")
def origin() -> Iterator[LiveServer]:
    """The shipped model. What comes from a front is one tenant, whose users are the front's tenants."""
    if find_library() is None:
        pytest.importorskip("torch", reason="the shipped model needs the native core or deepserve[reference]")
    settings = Settings(api_keys=("sk-front", *KEYS))
    with live_server(EmbeddedBackend.load(settings), settings) as live:
        yield live


@pytest.fixture(scope="module")
def strict_origin() -> Iterator[LiveServer]:
    """Refuses whatever api.deepseek.com refuses."""
    settings = Settings(is_strict=True, api_keys=("sk-front", *KEYS))
    with live_server(EmbeddedBackend.load(settings), settings) as live:
        yield live


def _settings(kind: str, address: str, **fields: object) -> Settings:
    return Settings(
        backend="upstream",
        upstream=f"{kind}={address}{SPOKEN[kind]}",
        upstream_models={"deepseek-v4-flash": "deepseek-v4-flash"},
        **fields,  # type: ignore[arg-type]  # fields of Settings
    )


@pytest.fixture(scope="module", params=SPOKEN)
def front(request: pytest.FixtureRequest, origin: LiveServer, strict_origin: LiveServer) -> Iterator[LiveServer]:
    """A server that takes ours for another service."""
    kind: str = request.param
    behind = strict_origin if kind == "deepseek-anthropic" else origin
    settings = _settings(kind, behind.address, api_keys=KEYS)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("DEEPSERVE_UPSTREAM_KEY", "DEEPSEEK_API_KEY"):
            patch.setenv(variable, "sk-front")
        with live_server(select_backend(settings), settings) as live:
            yield live


@pytest.fixture(scope="module")
def own_front(origin: LiveServer) -> Iterator[LiveServer]:
    settings = _settings("deepserve-anthropic", origin.address, api_keys=KEYS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSERVE_UPSTREAM_KEY", "sk-front")
        with live_server(select_backend(settings), settings) as live:
            yield live


@pytest.mark.parametrize("name", HELD)
def test_an_answer_is_the_same_through_messages(origin: LiveServer, own_front: LiveServer, name: str) -> None:
    """Whatever dialect it is asked in, streamed and whole: trace, text, calls, end and usage."""
    conversation = HELD[name]
    first_key = list(HELD).index(name) * len(CASES)
    direct = ask(origin, SPEAKERS[0], conversation, is_stream=False, key=KEYS[first_key]).without_names()
    told: dict[tuple[str, bool], Told] = {}
    for number, (speaker, is_stream) in enumerate(CASES):
        if wishes(conversation) & speaker.unsayable:
            continue
        found = ask(own_front, speaker, conversation, is_stream=is_stream, key=KEYS[first_key + number])
        assert len(found.call_ids) == len(set(found.call_ids)) == len(found.calls)
        told[speaker.name, is_stream] = found.without_names()
    assert told == dict.fromkeys(told, direct)
    assert len(told) > len(CASES) / 2
    assert direct.output_tokens > 0


@pytest.mark.parametrize("name", ["a question, cut off", "tools offered", "a tool's result"])
def test_an_answer_is_the_same_whichever_service_of_the_dialect_it_is_taken_for(
    origin: LiveServer, front: LiveServer, name: str
) -> None:
    """Its spelling of thinking, of traces and of tools; DeepSeek's strictness."""
    key = KEYS[list(HELD).index(name)]
    direct = ask(origin, SPEAKERS[0], HELD[name], is_stream=True, key=key)
    told = ask(front, SPEAKERS[0], HELD[name], is_stream=True, key=key)

    def comparable(one: Told) -> Told:
        # All these fronts are one tenant behind: what is a hit depends on the order of the tests.
        prompt_tokens = one.hit_tokens + one.miss_tokens
        return msgspec.structs.replace(one.without_names(), hit_tokens=0, miss_tokens=prompt_tokens)

    assert comparable(told) == comparable(direct)


def test_a_lost_trace_is_no_refusal_of_a_strict_service(strict_origin: LiveServer, front: LiveServer) -> None:
    called = Message(role="assistant", parts=(CALL,))
    forgetful = Conversation(messages=(QUESTION, called, RESULT), tools=(WEATHER,), max_tokens=20)
    body = SPEAKERS[1].body(forgetful, is_stream=False)
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    for server, status in ((strict_origin, 400), (front, 200)):
        answer = httpx.post(f"{server.address}{SPEAKERS[1].path}", json=body, headers=headers, timeout=60)
        assert answer.status_code == status, answer.text


def test_a_second_turn_is_a_hit_in_the_cache_behind_the_front(own_front: LiveServer) -> None:
    for speaker in SPEAKERS[:3]:
        conversation = msgspec.structs.replace(HELD["tools offered"], max_tokens=20)
        key = KEYS[-1 - SPEAKERS.index(speaker)]
        first = ask(own_front, speaker, conversation, is_stream=True, key=key)
        second = ask(own_front, speaker, conversation, is_stream=False, key=key)
        assert second.hit_tokens > first.hit_tokens == 0
        assert second.hit_tokens + second.miss_tokens == first.miss_tokens


def test_counts_are_those_of_the_server_behind(origin: LiveServer, own_front: LiveServer) -> None:
    """And no longer estimates. What is counted is what is billed."""
    body = SPEAKERS[1].body(HELD["a tool's result"], is_stream=False)
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    counted = [
        httpx.post(f"{server.address}{SPEAKERS[1].path}/count_tokens", json=body, headers=headers, timeout=60)
        for server in (origin, own_front)
    ]
    assert counted[0].json() == counted[1].json()
    assert "x-deepserve-estimated" not in counted[1].headers
    told = ask(own_front, SPEAKERS[1], HELD["a tool's result"], is_stream=False, key=KEYS[-5])
    assert told.hit_tokens + told.miss_tokens == counted[1].json()["input_tokens"]


def test_the_models_are_those_of_the_server_behind(origin: LiveServer, own_front: LiveServer) -> None:
    """With their limits, and with who really answers there."""

    def listed(server: LiveServer) -> list[tuple[object, ...]]:
        models = server.get("/v1/models", authorization=f"Bearer {KEYS[0]}").json()["data"]
        members = ("id", "context_window", "max_output_tokens", "served_by")
        return [tuple(model[name] for name in members) for model in models if model["id"] == "deepseek-v4-flash"]

    assert listed(own_front) == listed(origin)
    assert listed(origin)


def test_the_server_that_really_answers_is_named(own_front: LiveServer) -> None:
    answer = httpx.post(
        f"{own_front.address}/v1/chat/completions",
        json={**HELLO, "max_tokens": 3},
        headers={"authorization": f"Bearer {KEYS[0]}"},
        timeout=60,
    )
    assert answer.headers["x-deepserve-served-by"] == "deepserve/mini-flash"


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
    with live_server(ScriptedBackend()) as behind:
        settings = _settings("deepserve-anthropic", behind.address)
        with live_server(select_backend(settings), settings) as live:
            yield live


def test_refusals_come_through_in_the_words_of_the_server_behind(scripted_front: LiveServer) -> None:
    long = [{"role": "user", "content": "word " * 140_000}]
    answer = scripted_front.post(messages=long, max_tokens=10)
    assert answer.status_code == 400
    assert "maximum context length is 131072 tokens" in answer.json()["error"]["message"]


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
