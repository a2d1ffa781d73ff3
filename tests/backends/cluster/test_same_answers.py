"""Whoever computes, the answer is the same: every feature through a cluster and through our own engine."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
import pytest

from deepserve.backends.backend import Backend
from deepserve.backends.cluster.backend import ClusterBackend
from deepserve.core.answer import Answer
from deepserve.core.events import TokenLogprob
from deepserve.core.messages import Message, Reasoning, Text, ToolCall, ToolResult
from deepserve.core.request import Infill, Request, ResponseFormat, Thinking, ToolChoice
from deepserve.core.sampling import Sampling
from deepserve.prompt.special_tokens import SPECIAL_TOKENS
from tests.backends.cluster.conftest import Pair
from tests.backends.cluster.fake_cluster import FakeServer, Habits
from tests.backends.cluster.setup import answer, with_cluster
from tests.backends.embedded_setup import request_of, tool_result
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


def check_logprobs(there: Answer, here: Answer) -> None:
    """Ours are those behind the mask, which servers know nothing of: equal but for what special tokens would get."""
    for theirs, ours in zip(there.results, here.results, strict=True):
        for found, wanted in zip(theirs.text_logprobs, ours.text_logprobs, strict=True):
            assert found.bytes == wanted.bytes
            assert found.logprob == pytest.approx(wanted.logprob, abs=1e-3)
            pairs = list(zip(texts_of(found), texts_of(wanted), strict=False))
            assert [mine.bytes for mine, _ in pairs] == [one.bytes for _, one in pairs]
            assert [mine.logprob for mine, _ in pairs] == pytest.approx([one.logprob for _, one in pairs], abs=1e-3)


def texts_of(token: TokenLogprob) -> list[TokenLogprob]:
    return [top for top in token.top if (top.bytes or b"").decode("utf-8", "replace") not in SPECIAL_TOKENS]


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
    check_logprobs(there, here)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("forms", ["plain", "ignore", "refuse"])
def test_a_cluster_that_enforces_little_answers_as_our_own_engine_does(
    shipped: Pair, forms: Literal["plain", "ignore", "refuse"], name: str
) -> None:
    here, there = both(shipped, REQUESTS[name], "vllm", Habits(forms=forms))
    assert told(there) == told(here)


@pytest.mark.parametrize("name", REQUESTS)
def test_llama_cpp_answers_as_our_own_engine_does(shipped: Pair, name: str) -> None:
    """It is told neither grammars nor where to stop."""
    here, there = both(shipped, REQUESTS[name], "llamacpp")
    assert told(there) == told(here)


FORMED = (
    "tools, the model's choice",
    "a call demanded",
    "one call by name",
    "JSON by a schema",
    "any JSON object",
    "a pattern",
    "a choice",
    "an answer continued",
    "text around a gap",
)


@pytest.mark.parametrize("name", FORMED)
@pytest.mark.parametrize(
    ("kind", "forms"), [("vllm", "follow"), ("vllm", "ignore"), ("sglang", "follow"), ("llamacpp", "follow")]
)
def test_a_model_that_writes_noise_is_held_to_the_same_tokens(
    noise: Pair, kind: str, forms: Literal["follow", "ignore"], name: str
) -> None:
    """Log-probabilities are asked for because no token is forced then: each is the likeliest that may stand."""
    sampling = Sampling(temperature=0.0, num_top_logprobs=0)
    request = msgspec.structs.replace(REQUESTS[name], sampling=sampling, max_output_tokens=60)
    here, there = both(noise, request, kind, Habits(forms=forms))
    assert told(there) == told(here)


@pytest.mark.parametrize(
    ("kind", "habits"),
    [
        ("sglang", Habits(is_incremental=True)),
        ("sglang", Habits(trims_stop=True)),
        ("vllm", Habits(trims_stop=True)),
        ("vllm", Habits(breaks_after=7)),
        ("sglang", Habits(breaks_after=7)),
        ("sglang", Habits(breaks_after=7, is_incremental=True)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["thinking, high", "tools, thinking", "JSON by a schema", "log-probabilities"])
def test_a_servers_habits_change_no_answer(shipped: Pair, kind: str, habits: Habits, name: str) -> None:
    """Even of one that breaks off again and again: what it has said is kept, and it is asked for the rest."""
    here, there = both(shipped, REQUESTS[name], kind, habits)
    assert told(there) == told(here)
    check_logprobs(there, here)


def test_an_answer_that_is_drawn_goes_on_by_chance_where_a_server_broke_off(shipped: Pair) -> None:
    """A second server is not asked with the seed that has been used up: its first draws would repeat the old ones."""
    request = msgspec.structs.replace(REQUESTS["drawn"], sampling=Sampling(temperature=3.0, seed=3))

    async def ask_twice(backend: ClusterBackend, servers: list[FakeServer]) -> list[int]:
        await answer(backend, request)
        return [body["seed"] for server in servers for body in server.asked]

    seeds = with_cluster(shipped.source, shipped.model, ask_twice, Habits(breaks_after=3))
    assert seeds[0] == 3
    assert len(set(seeds)) == len(seeds) >= 2


def test_a_turn_with_calls_is_replayed_token_by_token(shipped: Pair) -> None:
    request = REQUESTS["tools, thinking"]

    async def two_turns(backend: Backend) -> tuple[Answer, int]:
        first = await answer(backend, request)
        parts = tuple(
            msgspec.structs.replace(part, arguments=part.arguments.replace(", ", ","))
            for part in first.results[0].parts
            if isinstance(part, ToolCall)
        )
        assert parts
        results = tuple(tool_result(call.id, "Sunny") for call in parts)
        later = msgspec.structs.replace(
            request, messages=(*request.messages, Message(role="assistant", parts=parts), *results)
        )
        return await answer(backend, later), await backend.count(later)

    here, here_count = asyncio.run(two_turns(shipped.embedded))
    there, there_count = with_cluster(shipped.source, shipped.model, lambda backend, _: two_turns(backend))
    assert (told(there), there_count) == (told(here), here_count)
    # The drawn turn is a cached prefix: all but the tool's result and what stands around it.
    assert there.usage.hit_tokens > there.usage.prompt_tokens * 0.8
