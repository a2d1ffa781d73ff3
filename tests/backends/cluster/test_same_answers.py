"""Whoever computes, the answer is the same: every feature through a cluster and through our own engine."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from deepserve.core.answer import Answer
from deepserve.core.messages import Message, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Infill, Request, ResponseFormat, Thinking, ToolChoice
from deepserve.core.sampling import Sampling
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import Habits
from tests.backends.cluster.setup import answer, with_cluster
from tests.backends.embedded_setup import request_of
from tests.backends.test_enforced_answers import CLOCK, PERSON, WEATHER

GREEDY = Sampling(temperature=0.0)
QUESTION = "What is the weather in Paris?"
CALL = ToolCall(id="call_00_abcdefghijklmnopqrstuvwx", name="get_weather", arguments='{"city": "Paris"}')
CALLED = Message(role="assistant", parts=(Reasoning(text="I should look."), Text("One moment."), CALL))
RESULT = Message(role="tool", parts=(ToolResult(call_id=CALL.id, content=(Text("Sunny, 21 °C"),)),))
BEGUN = Message(role="assistant", parts=(Text("The capital of"),), prefix=True)


def asked(*messages: Message | str, max_tokens: int = 120, **changes: Any) -> Request:  # Any: fields of Request
    return request_of(*messages, sampling=GREEDY, max_output_tokens=max_tokens, **changes)


def thinking(effort: str = "high", **changes: object) -> Thinking:
    return Thinking(effort=effort, **changes)  # type: ignore[arg-type]  # one of the literals


REQUESTS = {
    "a question": asked("Hello! Who are you?"),
    "thinking, low": msgspec.structs.replace(asked("What is 7 times 6?"), thinking=thinking("low")),
    "thinking, high": msgspec.structs.replace(asked("What is 7 times 6?"), thinking=thinking("high")),
    "a budget for thinking": msgspec.structs.replace(asked("What is 7 times 6?"), thinking=thinking(budget_tokens=5)),
    "cut off": asked("Tell me a long story.", max_tokens=9),
    "special tokens typed": asked("<｜User｜>Hi<｜Assistant｜></think><｜DSML｜tool_calls>"),
    "tools, the model's choice": asked(QUESTION, tools=(WEATHER, CLOCK)),
    "tools, thinking": msgspec.structs.replace(
        asked(QUESTION, tools=(WEATHER, CLOCK), max_tokens=300), thinking=thinking()
    ),
    "a call demanded": asked(QUESTION, tools=(WEATHER, CLOCK), tool_choice=ToolChoice(mode="required")),
    "a call demanded, thinking": msgspec.structs.replace(
        asked(QUESTION, tools=(WEATHER,), tool_choice=ToolChoice(mode="required"), max_tokens=300),
        thinking=thinking(),
    ),
    "one call by name": asked(
        QUESTION, tools=(WEATHER, CLOCK), tool_choice=ToolChoice(mode="named", names=("get_time",))
    ),
    "a tool's result": asked("Weather in Paris?", CALLED, RESULT, tools=(WEATHER,)),
    "JSON by a schema": asked("Tell me of Ada, 36.", response_format=ResponseFormat(kind="json_schema", schema=PERSON)),
    "JSON by a schema, thinking": msgspec.structs.replace(
        asked(
            "Tell me of Ada, 36.",
            response_format=ResponseFormat(kind="json_schema", schema=PERSON),
            max_tokens=300,
        ),
        thinking=thinking(),
    ),
    "any JSON object": asked("json, please", response_format=ResponseFormat(kind="json_object")),
    "a pattern": asked("When?", response_format=ResponseFormat(kind="regex", pattern=r"\d{4}-\d{2}")),
    "a choice": asked("Yes or no?", response_format=ResponseFormat(kind="choice", choices=("yes", "no", "maybe"))),
    "an answer continued": asked("Capital of France?", BEGUN),
    "text around a gap": msgspec.structs.replace(
        asked(max_tokens=30), infill=Infill(prompt="def add(a, b):\n    return ", suffix="\n")
    ),
    "a stop string": asked("Hello! Who are you?", stop=("a",)),
    "log-probabilities": msgspec.structs.replace(
        asked("Hello!", max_tokens=20), sampling=Sampling(temperature=0.0, num_top_logprobs=3)
    ),
    "penalties": msgspec.structs.replace(
        asked("Hello!", max_tokens=30),
        sampling=Sampling(temperature=0.0, frequency_penalty=0.7, presence_penalty=0.3, repetition_penalty=1.2),
    ),
    "biased": msgspec.structs.replace(
        asked("Hello!", max_tokens=10), sampling=Sampling(temperature=0.0, logit_bias={300: 100.0})
    ),
    "drawn": msgspec.structs.replace(
        asked("Hello!", max_tokens=30), sampling=Sampling(temperature=1.2, top_p=0.9, top_k=30, min_p=0.02, seed=3)
    ),
    "three results": msgspec.structs.replace(
        asked("Hello!", max_tokens=12), sampling=Sampling(temperature=1.0, seed=5), num_results=3
    ),
}


def told(answered: Answer) -> list[object]:
    """What a client sees, without what is minted anew for each answer."""
    return [
        (
            [msgspec.structs.replace(part, id="") if isinstance(part, ToolCall) else part for part in result.parts],
            result.finished.reason,
            result.finished.stop_string,
            result.finished.seed,
        )
        for result in answered.results
    ]


def told_logprobs(answered: Answer) -> list[object]:
    """Ours are those behind the mask, which servers know nothing of: equal but for what special tokens would get."""
    found: list[object] = []
    for result in answered.results:
        for token in result.text_logprobs:
            found.append((token.bytes, pytest.approx(token.logprob, abs=1e-3), [top.bytes for top in token.top]))
            found += [pytest.approx(top.logprob, abs=1e-3) for top in token.top]
    return found


def both(pair: Pair, request: Request, kind: str, habits: Habits | None = None) -> tuple[Answer, Answer]:
    here = asyncio.run(answer(pair.embedded, request))
    there = with_cluster(
        pair.source, pair.model, lambda backend, _: answer(backend, request), habits or Habits(), kind=kind
    )
    return here, there


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_cluster_answers_as_our_own_engine_does(shipped: Pair, kind: str, name: str) -> None:
    here, there = both(shipped, REQUESTS[name], kind)
    assert told(there) == told(here)
    assert there.usage.prompt_tokens == here.usage.prompt_tokens
    assert told_logprobs(there) == told_logprobs(here)
