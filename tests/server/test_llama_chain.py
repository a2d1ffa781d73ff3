"""Chains with llama.cpp's own server behind: it runs the shipped model, exported to its file format.

In Chat Completions it makes the prompt and reads the answer itself; given token ids it only draws, the rest is ours.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bench.export_gguf import export_gguf
from bench.llama import VERSION, installed_llama
from bench.llama_server import has_python_server, installed_llama_server, running_llama_server, running_python_server

from deepserve.backends.selection import select_backend
from deepserve.backends.tokens.model import shipped_folder
from deepserve.config import Settings, UpstreamSettings
from tests.server.live import PATIENCE_S, LiveServer, live_server
from tests.server.test_chains import DIALECTS, Bills

MODEL = "deepseek-v4-flash"
QUESTION = "Hello! Who are you?"
_Served = tuple[LiveServer, Bills]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("gguf") / "mini-flash.gguf"
    export_gguf(shipped_folder(), path)
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def llama(model: Path) -> Iterator[str]:
    program = installed_llama_server()
    if program is None:
        pytest.skip(f"llama.cpp's server of llama-cpp-python {VERSION} is not built; `python -m bench.llama_server`")
    with running_llama_server(program, model, _free_port(), alias=MODEL) as address:
        yield address


@pytest.fixture(scope="module")
def chat(llama: str) -> Iterator[_Served]:
    """In front of it in Chat Completions."""
    upstream = UpstreamSettings(id="llama", kind="llamacpp", address=f"{llama}/v1", is_self_hosted=True)
    bills = Bills()
    backend = select_backend(Settings(backend="upstream", upstreams=(upstream,)))
    with live_server(backend, observers=(bills,)) as front:
        yield front, bills


@pytest.fixture(scope="module")
def tokens(llama: str) -> Iterator[_Served]:
    """In front of it with token ids."""
    upstream = UpstreamSettings(
        id="llama", kind="llamacpp", address=llama, tokenizer=shipped_folder(), profile="mini", is_self_hosted=True
    )
    bills = Bills()
    backend = select_backend(Settings(backend="upstream", upstreams=(upstream,)))
    with live_server(backend, observers=(bills,)) as front:
        yield front, bills


@pytest.fixture(scope="module")
def embedded() -> Iterator[_Served]:
    """Our own engine with the same weights."""
    bills = Bills()
    with live_server(select_backend(Settings()), observers=(bills,)) as own:
        yield own, bills


@pytest.mark.slow
@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_every_dialect_passes_through_llama_cpp_in_chat(llama: str, chat: _Served, dialect: str) -> None:
    """Text, trace and tokens are those that it tells whoever asks it directly, and cost something."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1000}
    direct = httpx.post(f"{llama}/v1/chat/completions", json={**body, "reasoning_effort": "high"}, timeout=PATIENCE_S)
    told = direct.json()
    message = told["choices"][0]["message"]
    front, bills = chat
    for is_stream in (False, True):
        seen = DIALECTS[dialect](front, QUESTION, is_stream, MODEL)
        assert seen.text == message["content"] != ""
        assert seen.reasoning == message.get("reasoning_content", "") != ""
        usage, cost = bills.usage[-1], bills.costs[-1]
        assert usage.prompt_tokens == told["usage"]["prompt_tokens"]
        assert usage.output_tokens == told["usage"]["completion_tokens"]
        assert not usage.is_estimated
        assert cost is not None
        assert cost.total_usd > 0


@pytest.mark.slow
@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize("question", [QUESTION, "What is the weather in Köln?"])
def test_given_token_ids_llama_cpp_answers_as_our_own_engine(
    tokens: _Served, embedded: _Served, dialect: str, question: str
) -> None:
    """The second question comes with a tool, whose call is read here from what the server drew."""
    (front, ours), (own, theirs) = tokens, embedded
    for is_stream in (False, True):
        direct = DIALECTS[dialect](own, question, is_stream, MODEL)
        assert direct.text or direct.name
        assert DIALECTS[dialect](front, question, is_stream, MODEL) == direct
        told, paid = theirs.usage[-1], ours.usage[-1]
        assert (paid.prompt_tokens, paid.output_tokens) == (told.prompt_tokens, told.output_tokens)
        cost = ours.costs[-1]
        assert cost is not None
        assert cost.total_usd > 0


@pytest.mark.slow
def test_a_schema_holds_with_llama_cpp_behind(tokens: _Served) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    response = tokens[0].post(
        messages=[{"role": "user", "content": "Tell me of Ada, who is 36, as JSON."}],
        response_format=form,
        max_tokens=400,
    )
    assert response.status_code == 200, response.text
    person = json.loads(response.json()["choices"][0]["message"]["content"])
    assert sorted(person) == ["age", "name"]
    assert isinstance(person["age"], int)


@pytest.mark.slow
def test_a_hole_is_filled_with_llama_cpp_behind(tokens: _Served, embedded: _Served) -> None:
    body = {"model": MODEL, "prompt": "def add(a, b):\n    return ", "suffix": "\n", "max_tokens": 16}
    answers = [
        httpx.post(f"{live.address}/beta/completions", json=body, timeout=PATIENCE_S).json()["choices"][0]["text"]
        for live, _ in (tokens, embedded)
    ]
    assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {"logprobs": True, "top_logprobs": 3},
        {"logit_bias": {"35": 100}},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.5},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "seed": 7},
    ],
    ids=["log-probabilities", "biased", "penalties", "drawn"],
)
def test_every_knob_is_one_that_llama_cpp_takes(tokens: _Served, knobs: dict[str, Any]) -> None:
    """Its server refuses fields out of their range: a field that it once took in another way was found so."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "thinking": {"type": "disabled"}}
    response = tokens[0].post(**asked, **knobs, max_tokens=30)
    assert response.status_code == 200, response.text
    [choice] = response.json()["choices"]
    assert choice["message"]["content"]
    if "logprobs" in knobs:
        told = choice["logprobs"]["content"]
        assert "".join(token["token"] for token in told) == choice["message"]["content"]
        assert all(len(token["top_logprobs"]) == 3 and token["logprob"] <= 0 for token in told)
    if "logit_bias" in knobs:
        assert choice["message"]["content"] == "A" * 30


@pytest.mark.slow
def test_llama_cpp_pythons_server_is_spoken_to_in_chat(model: Path) -> None:
    """It knows no traces, and tells no usage in a stream: tokens are counted where it answers whole, else estimated."""
    python = installed_llama()
    if python is None or not has_python_server(python):
        pytest.skip(f"the server of llama-cpp-python {VERSION} is not installed; `llama-cpp-python[server]` has it")
    bills = Bills()
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 60}
    with running_python_server(python, model, _free_port(), alias=MODEL) as address:
        direct = httpx.post(f"{address}/v1/chat/completions", json={"model": MODEL, **asked}, timeout=PATIENCE_S).json()
        upstream = UpstreamSettings(id="llama", kind="openai", address=f"{address}/v1", models={MODEL: MODEL})
        backend = select_backend(Settings(backend="upstream", upstreams=(upstream,)))
        with live_server(backend, observers=(bills,)) as front:
            whole = front.post(**asked, thinking={"type": "disabled"}).json()
            stream = front.post(**asked, thinking={"type": "disabled"}, stream=True).text
    text = direct["choices"][0]["message"]["content"]
    assert whole["choices"][0]["message"]["content"] == text != ""
    assert whole["usage"]["prompt_tokens"] == direct["usage"]["prompt_tokens"]
    frames = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    assert "".join(frame["choices"][0]["delta"].get("content") or "" for frame in frames if frame["choices"]) == text
    assert [usage.is_estimated for usage in bills.usage] == [False, True]
    assert all(cost is not None and cost.total_usd > 0 for cost in bills.costs)
