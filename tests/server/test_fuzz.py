"""Whatever a client sends, it is never the server's fault, and never a hang."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.live import LiveServer


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


_VALID: list[dict[str, Any]] = [
    {
        "model": "deepseek-v4-pro",
        "messages": [
            {"role": "system", "content": "s", "name": "n"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "u"}}],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "r",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "x"},
            {"role": "assistant", "content": "go", "prefix": True},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "d",
                    "strict": True,
                    "parameters": {
                        "type": "object",
                        "properties": {"a": {"type": "string", "enum": ["x"]}, "b": {"anyOf": [{"type": "integer"}]}},
                        "required": ["a", "b"],
                        "additionalProperties": False,
                    },
                },
            }
        ],
        "tool_choice": "auto",
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "reasoning_effort": "max",
        "reasoning": {"effort": "low", "exclude": True},
        "chat_template_kwargs": {"thinking": True},
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "n": 2,
        "seed": 1,
        "max_tokens": 10,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"1": 2},
        "user_id": "u",
        "metadata": {"a": "b"},
    },
    {
        "model": "deepseek-v4-flash",
        "messages": [{"role": "user", "content": "json please"}],
        "response_format": {"type": "json_object"},
    },
]


@pytest.mark.parametrize("value", _VALID)
@pytest.mark.parametrize("prefix", ["", "/beta"])
def test_the_bodies_to_mutate_are_valid(live: LiveServer, value: dict[str, Any], prefix: str) -> None:
    assert live.post(prefix + "/chat/completions", **value).status_code == 200


_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**40), max_value=10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.just({}),
    st.just([]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [(*path, key) for key, _ in inner] + [place for key, item in inner for place in _places(item, (*path, key))]


def _mutated(value: dict[str, Any], draw: st.DrawFn) -> dict[str, Any]:
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(value)
        if not places:
            break
        path = draw(st.sampled_from(places))
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "replace", "delete", "wrap", "add"])):
            case "replace":
                holder[path[-1]] = draw(_ODD)
            case "delete":
                del holder[path[-1]]
            case "wrap":
                holder[path[-1]] = [holder[path[-1]]]
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(_ODD)
    return value


@st.composite
def _bodies(draw: st.DrawFn) -> tuple[dict[str, Any], bool]:
    return _mutated(draw(st.sampled_from(_VALID)), draw), draw(st.booleans())


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(body=_bodies())
def test_mutations_of_valid_bodies_are_never_the_servers_fault(
    live: LiveServer, client: httpx.Client, body: tuple[dict[str, Any], bool]
) -> None:
    value, is_strict = body
    headers = {"x-deepserve-strict": "1"} if is_strict else {}
    answer = client.post(live.address + "/beta/chat/completions", json=value, headers=headers)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]
    elif value.get("stream") is True:
        assert answer.text.endswith("data: [DONE]\n\n")
        assert '{"error"' not in answer.text


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(data=st.data())
def test_damaged_bytes_are_never_the_servers_fault(live: LiveServer, client: httpx.Client, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(data.draw(st.sampled_from(_VALID))).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    answer = client.post(live.address + "/chat/completions", content=bytes(raw))
    assert answer.status_code in (200, 400), answer.text
