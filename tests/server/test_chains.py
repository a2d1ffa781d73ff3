"""Chains over real sockets: every dialect comes in, goes out by every kind of upstream, and says the same as the server
behind it says when it is asked itself.

The kinds are those of the catalogue: a new flavour or protocol is tested as soon as it has a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from deepserve.backends.script import Reply, Rule, Script, ScriptedCall, When
from deepserve.backends.scripted import ScriptedBackend
from deepserve.backends.selection import select_backend
from deepserve.catalog.providers import Provider, load_providers
from deepserve.config import Settings, UpstreamSettings
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event, UsageReported
from deepserve.core.request import Request
from deepserve.core.usage import Usage
from tests.server.live import PATIENCE_S, LiveServer, live_server

Json = Any
"""Bodies as clients write and read them."""

ARGUMENTS = {"city": "Köln"}
_WEATHER = "weather"
_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_TEXT, _THOUGHT = "Grüße — 你好, all well.", "I should greet."

SCRIPT = Script(
    rules=(
        Rule(
            when=When(contains=_WEATHER),
            reply=Reply(
                reasoning="I look.",
                tool_calls=(ScriptedCall(name="look_up", arguments=json.dumps(ARGUMENTS, ensure_ascii=False)),),
                hit_tokens=2,
            ),
        ),
        Rule(reply=Reply(reasoning=_THOUGHT, text=_TEXT, hit_tokens=2)),
    )
)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a client of any dialect learns of an answer."""

    text: str = ""
    reasoning: str = ""
    name: str = ""
    arguments: Json = None


class Bills:
    """An observer that keeps what answers took."""

    def __init__(self) -> None:
        self.usage: list[Usage] = []
        self.costs: list[Cost | None] = []
        self._last: dict[str, UsageReported] = {}

    def on_accepted(self, request: Request) -> None:
        pass

    def on_event(self, request: Request, event: Event) -> None:
        if isinstance(event, UsageReported):
            self._last[request.id] = event

    def on_ended(self, request: Request, error: DeepserveError | None) -> None:
        last = self._last.pop(request.id, None)
        if last is not None:
            self.usage.append(last.usage)
            self.costs.append(last.cost)


def _kinds() -> Mapping[str, Provider]:
    """One provider for each way of asking."""
    found: dict[str, Provider] = {}
    for provider in load_providers().values():
        found.setdefault(f"{provider.protocol}-{provider.flavour}", provider)
    return found


_KINDS = _kinds()
_BASES = {"openrouter": "/api/v1", "oxen": "/api/ai"}


def _base(provider: Provider) -> str:
    """Where a deepserve is what that provider is."""
    if provider.protocol == "messages":
        return "/anthropic"
    return _BASES.get(provider.flavour, "/v1")


@pytest.fixture(scope="module")
def origin() -> Iterator[tuple[LiveServer, Bills]]:
    bills = Bills()
    with live_server(ScriptedBackend(SCRIPT), observers=(bills,)) as live:
        yield live, bills


@pytest.fixture(scope="module")
def fronts(origin: tuple[LiveServer, Bills]) -> Iterator[Mapping[str, tuple[LiveServer, Bills]]]:
    """A server for each kind, all in front of the origin."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        found: dict[str, tuple[LiveServer, Bills]] = {}
        for name, provider in _KINDS.items():
            patch.setenv(provider.key_variable, "sk-test")
            upstream = UpstreamSettings(
                id="behind", kind=provider.id, address=origin[0].address + _base(provider), num_retries=0
            )
            bills = Bills()
            backend = select_backend(Settings(backend="upstream", upstreams=(upstream,)))
            found[name] = stack.enter_context(live_server(backend, observers=(bills,))), bills
        yield found


# How each dialect asks, and what its clients read of the answer.


def _post(live: LiveServer, path: str, body: Json) -> httpx.Response:
    response = httpx.post(live.address + path, json=body, headers={"authorization": "Bearer any"}, timeout=PATIENCE_S)
    assert response.status_code == 200, response.text
    return response


def _frames(response: httpx.Response) -> list[Json]:
    lines = [line.removeprefix("data:").strip() for line in response.text.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _chat_at(path: str) -> Callable[[LiveServer, str, bool, str], Seen]:
    def ask(live: LiveServer, question: str, is_stream: bool, model: str) -> Seen:
        tool = {"type": "function", "function": {"name": "look_up", "parameters": _PARAMETERS}}
        body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": is_stream}
        response = _post(live, path, {**body, **({"tools": [tool]} if _WEATHER in question else {})})
        if is_stream:
            parts = [choice["delta"] for frame in _frames(response) for choice in frame.get("choices", ())]
        else:
            parts = [response.json()["choices"][0]["message"]]
        calls = [call["function"] for part in parts for call in part.get("tool_calls") or ()]
        arguments = "".join(call.get("arguments") or "" for call in calls)
        return Seen(
            text="".join(part.get("content") or "" for part in parts),
            reasoning="".join(part.get("reasoning_content") or part.get("reasoning") or "" for part in parts),
            name="".join(call.get("name") or "" for call in calls),
            arguments=json.loads(arguments) if arguments else None,
        )

    return ask


def _messages(live: LiveServer, question: str, is_stream: bool, model: str) -> Seen:
    tool = {"name": "look_up", "input_schema": _PARAMETERS}
    body = {"model": model, "max_tokens": 1000, "thinking": {"type": "adaptive"}, "stream": is_stream}
    body = {**body, "messages": [{"role": "user", "content": question}]}
    response = _post(live, "/anthropic/v1/messages", {**body, **({"tools": [tool]} if _WEATHER in question else {})})
    if not is_stream:
        blocks = response.json()["content"]
        calls = [block for block in blocks if block["type"] == "tool_use"]
        return Seen(
            text="".join(block["text"] for block in blocks if block["type"] == "text"),
            reasoning="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            name="".join(call["name"] for call in calls),
            arguments=calls[0]["input"] if calls else None,
        )
    frames = _frames(response)
    deltas = [frame["delta"] for frame in frames if frame["type"] == "content_block_delta"]
    opened = [frame["content_block"] for frame in frames if frame["type"] == "content_block_start"]
    arguments = "".join(delta.get("partial_json", "") for delta in deltas)
    return Seen(
        text="".join(delta.get("text", "") for delta in deltas),
        reasoning="".join(delta.get("thinking", "") for delta in deltas),
        name="".join(block["name"] for block in opened if block["type"] == "tool_use"),
        arguments=json.loads(arguments) if arguments else None,
    )


def _responses(live: LiveServer, question: str, is_stream: bool, model: str) -> Seen:
    tool = {"type": "function", "name": "look_up", "parameters": _PARAMETERS}
    body = {"model": model, "input": question, "stream": is_stream, "reasoning": {"effort": "high"}}
    response = _post(live, "/v1/responses", {**body, **({"tools": [tool]} if _WEATHER in question else {})})
    whole = _frames(response)[-1]["response"] if is_stream else response.json()
    items = whole["output"]
    calls = [item for item in items if item["type"] == "function_call"]
    thoughts = [part["text"] for item in items if item["type"] == "reasoning" for part in item.get("content") or ()]
    return Seen(
        text="".join(part["text"] for item in items if item["type"] == "message" for part in item["content"]),
        reasoning="".join(thoughts),
        name="".join(call["name"] for call in calls),
        arguments=json.loads(calls[0]["arguments"]) if calls else None,
    )


def _runware(live: LiveServer, question: str, is_stream: bool, model: str) -> Seen:
    tool = {"type": "function", "name": "look_up", "schema": _PARAMETERS}
    task: dict[str, Json] = {
        "taskType": "textInference",
        "taskUUID": str(uuid4()),
        "model": "deepseek:v4@pro" if model.endswith("pro") else "deepseek:v4@flash",
        "messages": [{"role": "user", "content": question}],
        "deliveryMethod": "stream" if is_stream else "sync",
        "settings": {"thinkingLevel": "high"},
        **({"tools": [tool]} if _WEATHER in question else {}),
    }
    response = _post(live, "/v1", [task])
    if not is_stream:
        [whole] = response.json()["data"]
        calls = whole.get("toolCalls") or []
        return Seen(
            text=whole.get("text") or "",
            reasoning="".join(whole.get("reasoningContent") or ()),
            name="".join(call["name"] for call in calls),
            arguments=calls[0]["input"] if calls else None,
        )
    deltas = [frame["delta"] for frame in _frames(response)]
    calls = [call for delta in deltas for call in delta.get("toolCalls") or ()]
    arguments = "".join(call.get("inputDelta") or "" for call in calls)
    return Seen(
        text="".join(delta.get("text") or "" for delta in deltas),
        reasoning="".join(delta.get("reasoningContent") or "" for delta in deltas),
        name="".join(call.get("name") or "" for call in calls),
        arguments=json.loads(arguments) if arguments else None,
    )


DIALECTS: Mapping[str, Callable[[LiveServer, str, bool, str], Seen]] = {
    "chat": _chat_at("/v1/chat/completions"),
    "openrouter": _chat_at("/api/v1/chat/completions"),
    "oxen": _chat_at("/api/ai/chat/completions"),
    "messages": _messages,
    "responses": _responses,
    "runware": _runware,
}


@pytest.mark.parametrize("kind", list(_KINDS))
@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize("question", ["hello", f"the {_WEATHER}"])
def test_any_dialect_through_any_upstream_is_as_without(
    origin: tuple[LiveServer, Bills],
    fronts: Mapping[str, tuple[LiveServer, Bills]],
    kind: str,
    dialect: str,
    question: str,
) -> None:
    behind, theirs = origin
    front, ours = fronts[kind]
    model = min(_KINDS[kind].models)
    ask = DIALECTS[dialect]
    for is_stream in (False, True):
        direct = ask(behind, question, is_stream, model)
        assert direct.reasoning
        assert (direct.text, direct.arguments) == (("", ARGUMENTS) if _WEATHER in question else (_TEXT, None))
        seen = ask(front, question, is_stream, model)
        assert seen == direct
        told, paid = theirs.usage[-1], ours.usage[-1]
        assert (paid.hit_tokens, paid.miss_tokens) == (told.hit_tokens, told.miss_tokens)
        assert paid.output_tokens == told.output_tokens
        assert not paid.is_estimated
        cost, behind_cost = ours.costs[-1], theirs.costs[-1]
        assert cost is not None
        assert behind_cost is not None
        assert cost.total_usd > Decimal(0)
    assert ours.usage[-1] == ours.usage[-2], "streamed and whole answers are billed alike"
    assert ours.costs[-1] == ours.costs[-2]


@pytest.mark.parametrize(
    "kind", [kind for kind, row in _KINDS.items() if row.completions is None or not row.completions.has_suffix]
)
def test_holes_are_refused_by_name_where_the_service_fills_none(
    fronts: Mapping[str, tuple[LiveServer, Bills]], kind: str
) -> None:
    front, _ = fronts[kind]
    body = {"model": min(_KINDS[kind].models), "prompt": "def f(", "suffix": "return 1"}
    response = httpx.post(f"{front.address}/beta/completions", json=body, timeout=PATIENCE_S)
    assert response.status_code == 400
    assert "upstream" in response.json()["error"]["message"]


def test_every_kind_of_upstream_is_in_the_matrix() -> None:
    ways = {(provider.protocol, provider.flavour) for provider in load_providers().values()}
    assert {(provider.protocol, provider.flavour) for provider in _KINDS.values()} == ways
