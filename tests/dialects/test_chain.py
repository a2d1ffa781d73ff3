"""One deepserve in front of another: a conversation is the same through both, whatever dialect it is held in."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import msgspec
import pytest

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.scripted import ScriptedBackend
from deepserve.backends.selection import select_backend
from deepserve.config import Settings
from deepserve.core.messages import Message
from deepserve.core.request import ResponseFormat, ToolChoice
from deepserve.engine.native.shared_library import find_library
from tests.dialects.speakers import ELSEWHERE, SPEAKERS, Conversation, Told, wishes
from tests.dialects.test_same_everywhere import CALL, CONVERSATIONS, QUESTION, RESULT, SYSTEM, WEATHER, ask
from tests.server.live import LiveServer, live_server

CASES = [(speaker, is_stream) for speaker in SPEAKERS + ELSEWHERE for is_stream in (False, True)]
HELD = {
    **{name: CONVERSATIONS[name] for name in ("a question, cut off", "tools offered", "a tool's result")},
    "a named tool": Conversation(
        messages=(QUESTION,), tools=(WEATHER,), choice=ToolChoice(mode="named", names=("get_weather",)), max_tokens=200
    ),
    "a schema": Conversation(
        messages=(SYSTEM, QUESTION),
        form=ResponseFormat(
            kind="json_schema",
            name="answer",
            schema={
                "type": "object",
                "properties": {"sunny": {"type": "boolean"}},
                "required": ["sunny"],
                "additionalProperties": False,
            },
            strict=True,
        ),
        max_tokens=300,
    ),
}
KEYS = tuple(f"sk-{number}" for number in range(len(CASES) * len(HELD)))


def _front(origin: LiveServer, **fields: object) -> Settings:
    return Settings(backend="upstream", upstream=f"deepserve={origin.address}/v1", **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def origin() -> Iterator[LiveServer]:
    """The shipped model. What comes from the front is one tenant, whose users are the front's tenants."""
    if find_library() is None:
        pytest.importorskip("torch", reason="the shipped model needs the native core or deepserve[reference]")
    settings = Settings(api_keys=("sk-front", *KEYS))
    with live_server(EmbeddedBackend.load(settings), settings) as live:
        yield live


@pytest.fixture(scope="module")
def front(origin: LiveServer) -> Iterator[LiveServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSERVE_UPSTREAM_KEY", "sk-front")
        settings = _front(origin, api_keys=KEYS)
        with live_server(select_backend(settings), settings) as live:
            yield live


@pytest.mark.parametrize("name", HELD)
def test_an_answer_is_the_same_through_another_server(origin: LiveServer, front: LiveServer, name: str) -> None:
    conversation = HELD[name]
    first_key = list(HELD).index(name) * len(CASES)
    direct = ask(origin, SPEAKERS[0], conversation, is_stream=False, key=KEYS[first_key]).without_names()
    told: dict[tuple[str, bool], Told] = {}
    for number, (speaker, is_stream) in enumerate(CASES):
        if wishes(conversation) & speaker.unsayable:
            continue
        found = ask(front, speaker, conversation, is_stream=is_stream, key=KEYS[first_key + number])
        assert len(found.call_ids) == len(set(found.call_ids)) == len(found.calls)
        told[speaker.name, is_stream] = found.without_names()
    assert told == dict.fromkeys(told, direct)
    assert len(told) > len(CASES) / 2
    assert direct.output_tokens > 0


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
    answer = httpx.post(
        f"{front.address}/v1/chat/completions",
        json={"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
        headers={"authorization": f"Bearer {KEYS[0]}"},
        timeout=60,
    )
    assert answer.headers["x-deepserve-served-by"] == "deepserve/mini-flash"


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
    settings = Settings(is_strict=True, api_keys=("sk-front", *KEYS))
    with live_server(EmbeddedBackend.load(settings), settings) as live:
        yield live


@pytest.fixture(scope="module", params=SPOKEN)
def dressed_front(
    request: pytest.FixtureRequest, origin: LiveServer, strict_origin: LiveServer
) -> Iterator[LiveServer]:
    """A server that takes ours for another service."""
    kind: str = request.param
    path, variable = SPOKEN[kind]
    behind = strict_origin if kind == "deepseek" else origin
    settings = Settings(
        backend="upstream",
        upstream=f"{kind}={behind.address}{path}",
        upstream_models={"deepseek-v4-flash": "deepseek-v4-flash"},
        api_keys=KEYS,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, "sk-front")
        with live_server(select_backend(settings), settings) as live:
            yield live


@pytest.mark.parametrize("name", ["a question, cut off", "tools offered", "a tool's result"])
def test_an_answer_is_the_same_whichever_service_the_server_behind_is_taken_for(
    origin: LiveServer, dressed_front: LiveServer, name: str
) -> None:
    """Its spelling of thinking, of traces and of tools; usage and hits as that service tells them."""
    key = KEYS[list(HELD).index(name)]
    direct = ask(origin, SPEAKERS[0], HELD[name], is_stream=True, key=key)
    told = ask(dressed_front, SPEAKERS[0], HELD[name], is_stream=True, key=key)

    def comparable(one: Told) -> Told:
        # All these fronts are one tenant behind: what is a hit depends on the order of the tests.
        prompt_tokens = one.hit_tokens + one.miss_tokens
        return msgspec.structs.replace(one.without_names(), hit_tokens=0, miss_tokens=prompt_tokens)

    assert comparable(told) == comparable(direct)


def test_a_lost_trace_is_no_refusal_of_a_strict_service(strict_origin: LiveServer, dressed_front: LiveServer) -> None:
    called = Message(role="assistant", parts=(CALL,))
    forgetful = Conversation(messages=(QUESTION, called, RESULT), tools=(WEATHER,), max_tokens=20)
    body = SPEAKERS[0].body(forgetful, is_stream=False)
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    for server, status in ((strict_origin, 400), (dressed_front, 200)):
        answer = httpx.post(f"{server.address}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code == status, answer.text


@pytest.fixture
def live() -> Iterator[LiveServer]:
    with live_server(ScriptedBackend()) as server:
        yield server


@pytest.fixture
def scripted_front() -> Iterator[LiveServer]:
    with live_server(ScriptedBackend()) as behind:
        settings = _front(behind)
        with live_server(select_backend(settings), settings) as live:
            yield live


def test_refusals_come_through_in_the_words_of_the_server_behind(scripted_front: LiveServer) -> None:
    long = [{"role": "user", "content": "word " * 140_000}]
    answer = scripted_front.post(messages=long, max_tokens=10)
    assert answer.status_code == 400
    assert "maximum context length is 131072 tokens" in answer.json()["error"]["message"]
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
