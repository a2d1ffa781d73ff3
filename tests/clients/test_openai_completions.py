"""The unmodified OpenAI SDK asking for plain completions, at the vendor's Beta address and where others have them."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from tests.server.live import LiveServer, live_server

MODEL = "deepseek-v4-pro"


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


@pytest.fixture(params=["", "/v1", "/beta", "/beta/v1"], scope="module")
def client(live: LiveServer, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.address + request.param, api_key="sk-local", max_retries=0) as client:
        yield client


def test_a_text_is_continued_and_a_hole_is_filled(client: OpenAI) -> None:
    continued = client.completions.create(model=MODEL, prompt="Once upon a time")
    assert continued.choices[0].text == " and so on after: Once upon a time"
    assert continued.choices[0].finish_reason == "stop"
    filled = client.completions.create(model=MODEL, prompt="def f():", suffix="return x", max_tokens=2, echo=True)
    assert filled.choices[0].text == "def f():something in"
    assert filled.choices[0].finish_reason == "length"
    assert filled.usage is not None
    assert (filled.usage.prompt_tokens, filled.usage.completion_tokens) == (4, 2)


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="a b", n=2, stop=["so"], logprobs=1)
    texts, words = ["", ""], ["", ""]
    tokens: list[list[str]] = [[], []]
    usage = None
    stream = client.completions.create(
        model=MODEL,
        prompt="a b",
        n=2,
        stop=["so"],
        logprobs=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        words[choice.index] += str(choice.finish_reason).removeprefix("None")  # null until the last chunk
        if choice.logprobs is not None:
            tokens[choice.index] += choice.logprobs.tokens or []
        usage = chunk.usage
    assert texts == [choice.text for choice in whole.choices] == [" and "] * 2
    assert words == [choice.finish_reason for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices if choice.logprobs is not None]
    assert usage == whole.usage


def test_refusals_are_the_sdks_exceptions(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt=[1, 2, 3])
    assert refused.value.param == "prompt"
    assert "token ids" in refused.value.message
    with pytest.raises(openai.BadRequestError, match="gpt"):
        client.completions.create(model="gpt", prompt="a")


@pytest.mark.parametrize(("prompt", "suffix"), [("The sun ", None), ("def add(a, b):\n", "\n")])
def test_the_shipped_model_writes_until_a_limit_or_a_stop(mini_server: str, prompt: str, suffix: str | None) -> None:
    with OpenAI(base_url=f"{mini_server}/beta", api_key="sk-local", max_retries=0) as client:
        limited = client.completions.create(
            model=MODEL, prompt=prompt, suffix=suffix, temperature=0, logprobs=2, max_tokens=8
        )
        (choice,) = limited.choices
        assert choice.finish_reason == "length"
        assert limited.usage is not None
        assert limited.usage.completion_tokens == 8
        assert choice.logprobs is not None
        assert "".join(choice.logprobs.tokens or []) == choice.text
        stop = choice.text[4:7]
        stopped = client.completions.create(
            model=MODEL, prompt=prompt, suffix=suffix, temperature=0, max_tokens=64, stop=[stop]
        )
        assert stopped.choices[0].text == choice.text[: choice.text.index(stop)]
        assert stopped.choices[0].finish_reason == "stop"
