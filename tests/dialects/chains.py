"""One deepserve in front of another: the servers, the conversations, and what must stay the same through both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import msgspec
import pytest

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.selection import select_backend
from deepserve.config import Settings
from deepserve.core.messages import Message
from deepserve.core.request import ResponseFormat, ToolChoice
from deepserve.engine.native.shared_library import find_library
from tests.dialects.speakers import ELSEWHERE, SPEAKERS, Conversation, Speaker, Told, wishes
from tests.dialects.test_same_everywhere import CALL, CONVERSATIONS, QUESTION, RESULT, SYSTEM, WEATHER, ask
from tests.server.live import HELLO, LiveServer, live_server

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


@contextmanager
def shipped_model(**fields: object) -> Iterator[LiveServer]:
    """A server that answers. What comes from a front is one tenant there, whose users are the front's tenants."""
    if find_library() is None:
        pytest.importorskip("torch", reason="the shipped model needs the native core or deepserve[reference]")
    settings = Settings(api_keys=("sk-front", *KEYS), **fields)  # type: ignore[arg-type]  # fields of Settings
    with live_server(EmbeddedBackend.load(settings), settings) as live:
        yield live


@contextmanager
def in_front(upstream: str, *, key_variable: str = "DEEPSERVE_UPSTREAM_KEY", **fields: object) -> Iterator[LiveServer]:
    """A server before another one, which it knows as `--upstream` has it."""
    given = {"upstream_models": {"deepseek-v4-flash": "deepseek-v4-flash"}, **fields}
    settings = Settings(backend="upstream", upstream=upstream, **given)  # type: ignore[arg-type]  # fields of Settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(key_variable, "sk-front")
        with live_server(select_backend(settings), settings) as live:
            yield live


def without_hits(told: Told) -> Told:
    """Where all that comes from a front is one user behind it, what is a hit depends on the order of the tests."""
    prompt_tokens = told.hit_tokens + told.miss_tokens
    return msgspec.structs.replace(told.without_names(), hit_tokens=0, miss_tokens=prompt_tokens)


def check_every_dialect(
    origin: LiveServer, front: LiveServer, name: str, comparable: Callable[[Told], Told] = Told.without_names
) -> None:
    """Whatever dialect it is asked in, streamed and whole: trace, text, calls, end and usage stay the same."""
    conversation = HELD[name]
    first_key = list(HELD).index(name) * len(CASES)
    direct = comparable(ask(origin, SPEAKERS[0], conversation, is_stream=False, key=KEYS[first_key]))
    told: dict[tuple[str, bool], Told] = {}
    for number, (speaker, is_stream) in enumerate(CASES):
        if wishes(conversation) & speaker.unsayable:
            continue
        found = ask(front, speaker, conversation, is_stream=is_stream, key=KEYS[first_key + number])
        assert len(found.call_ids) == len(set(found.call_ids)) == len(found.calls)
        told[speaker.name, is_stream] = comparable(found)
    assert told == dict.fromkeys(told, direct)
    assert len(told) > len(CASES) / 2
    assert direct.output_tokens > 0


def check_one_dialect(origin: LiveServer, front: LiveServer, name: str) -> None:
    """For fronts that take the origin for another service."""
    key = KEYS[list(HELD).index(name)]
    direct, told = (ask(server, SPEAKERS[0], HELD[name], is_stream=True, key=key) for server in (origin, front))
    assert without_hits(told) == without_hits(direct)


def check_hits(front: LiveServer) -> None:
    """A second turn is a hit in the cache behind the front, whatever dialect asks for it."""
    for speaker in SPEAKERS[:3]:
        conversation = msgspec.structs.replace(HELD["tools offered"], max_tokens=20)
        key = KEYS[-1 - SPEAKERS.index(speaker)]
        first = ask(front, speaker, conversation, is_stream=True, key=key)
        second = ask(front, speaker, conversation, is_stream=False, key=key)
        assert second.hit_tokens > first.hit_tokens == 0
        assert second.hit_tokens + second.miss_tokens == first.miss_tokens


def check_models(origin: LiveServer, front: LiveServer) -> None:
    """The model has the limits that it has behind the front, and says who really answers there."""

    def listed(server: LiveServer) -> list[tuple[object, ...]]:
        models = server.get("/v1/models", authorization=f"Bearer {KEYS[0]}").json()["data"]
        members = ("id", "context_window", "max_output_tokens", "served_by")
        return [tuple(model[name] for name in members) for model in models if model["id"] == "deepseek-v4-flash"]

    assert listed(front) == listed(origin)
    assert listed(origin)


def check_who_answers(front: LiveServer) -> None:
    answer = httpx.post(
        f"{front.address}/v1/chat/completions",
        json={**HELLO, "max_tokens": 3},
        headers={"authorization": f"Bearer {KEYS[0]}"},
        timeout=60,
    )
    assert answer.headers["x-deepserve-served-by"] == "deepserve/mini-flash"


def check_counts(origin: LiveServer, front: LiveServer, speaker: Speaker, path: str) -> None:
    """They are those of the server behind and no longer estimates; what is counted is what is billed."""
    conversation = HELD["a tool's result"]
    body = speaker.body(conversation, is_stream=False)
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    direct, through = (
        httpx.post(f"{server.address}{speaker.path}/{path}", json=body, headers=headers, timeout=60)
        for server in (origin, front)
    )
    assert direct.json() == through.json()
    assert "x-deepserve-estimated" not in through.headers
    told = ask(front, speaker, conversation, is_stream=False, key=KEYS[-5])
    assert told.hit_tokens + told.miss_tokens == through.json()["input_tokens"]


def check_refusal(front: LiveServer) -> None:
    """It comes through in the words of the server behind."""
    answer = front.post(messages=[{"role": "user", "content": "word " * 140_000}], max_tokens=10)
    assert answer.status_code == 400
    assert "maximum context length is 131072 tokens" in answer.json()["error"]["message"]


def check_lost_trace(strict_origin: LiveServer, front: LiveServer, speaker: Speaker) -> None:
    """A service that refuses a conversation without its trace does not refuse it through a front."""
    called = Message(role="assistant", parts=(CALL,))
    forgetful = Conversation(messages=(QUESTION, called, RESULT), tools=(WEATHER,), max_tokens=20)
    body = speaker.body(forgetful, is_stream=False)
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    for server, status in ((strict_origin, 400), (front, 200)):
        answer = httpx.post(f"{server.address}{speaker.path}", json=body, headers=headers, timeout=60)
        assert answer.status_code == status, answer.text
