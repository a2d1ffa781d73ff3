"""One deepserve in front of another that is spoken to in OpenAI's Responses: the conversation stays the same."""

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
from deepserve.engine.native.shared_library import find_library
from tests.dialects.speakers import SPEAKERS, Told, wishes
from tests.dialects.test_chain import CASES, HELD, KEYS
from tests.dialects.test_same_everywhere import ask
from tests.server.live import HELLO, LiveServer, live_server

RESPONSES = SPEAKERS[2]


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
    """Refuses whatever the vendor's service refuses, and ignores what that does not document."""
    settings = Settings(is_strict=True, api_keys=("sk-front", *KEYS))
    with live_server(EmbeddedBackend.load(settings), settings) as live:
        yield live


def _settings(kind: str, address: str, **fields: object) -> Settings:
    return Settings(
        backend="upstream",
        upstream=f"{kind}={address}/v1",
        upstream_models={"deepseek-v4-flash": "deepseek-v4-flash"},
        **fields,  # type: ignore[arg-type]  # fields of Settings
    )


@pytest.fixture(scope="module")
def own_front(origin: LiveServer) -> Iterator[LiveServer]:
    settings = _settings("deepserve-responses", origin.address, api_keys=KEYS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSERVE_UPSTREAM_KEY", "sk-front")
        with live_server(select_backend(settings), settings) as live:
            yield live


@pytest.fixture(scope="module", params=["a tolerant server", "a strict server"])
def front(request: pytest.FixtureRequest, origin: LiveServer, strict_origin: LiveServer) -> Iterator[LiveServer]:
    """A server that takes ours for any service of the dialect."""
    behind = strict_origin if "strict" in request.param else origin
    settings = _settings("responses", behind.address, api_keys=KEYS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSERVE_UPSTREAM_KEY", "sk-front")
        with live_server(select_backend(settings), settings) as live:
            yield live


@pytest.mark.parametrize("name", HELD)
def test_an_answer_is_the_same_through_responses(origin: LiveServer, own_front: LiveServer, name: str) -> None:
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
def test_an_answer_is_the_same_where_only_what_openai_documents_is_counted_on(
    origin: LiveServer, front: LiveServer, name: str
) -> None:
    key = KEYS[list(HELD).index(name)]
    direct = ask(origin, SPEAKERS[0], HELD[name], is_stream=True, key=key)
    told = ask(front, SPEAKERS[0], HELD[name], is_stream=True, key=key)

    def comparable(one: Told) -> Told:
        # All these fronts are one tenant behind: what is a hit depends on the order of the tests.
        prompt_tokens = one.hit_tokens + one.miss_tokens
        return msgspec.structs.replace(one.without_names(), hit_tokens=0, miss_tokens=prompt_tokens)

    assert comparable(told) == comparable(direct)


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
    conversation = HELD["a tool's result"]
    body = RESPONSES.body(conversation, is_stream=False)
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    counted = [
        httpx.post(f"{server.address}{RESPONSES.path}/input_tokens", json=body, headers=headers, timeout=60)
        for server in (origin, own_front)
    ]
    assert counted[0].json() == counted[1].json()
    assert "x-deepserve-estimated" not in counted[1].headers
    told = ask(own_front, RESPONSES, conversation, is_stream=False, key=KEYS[-5])
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
    with live_server(ScriptedBackend()) as behind:
        settings = _settings("deepserve-responses", behind.address)
        with live_server(select_backend(settings), settings) as live:
            yield live


def test_refusals_come_through_in_the_words_of_the_server_behind(scripted_front: LiveServer) -> None:
    long = [{"role": "user", "content": "word " * 140_000}]
    answer = scripted_front.post(messages=long, max_tokens=10)
    assert answer.status_code == 400
    assert "maximum context length is 131072 tokens" in answer.json()["error"]["message"]


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
