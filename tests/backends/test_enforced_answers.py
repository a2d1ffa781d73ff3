"""Enforced forms end to end: request to answer, with the shipped model and with one that writes noise."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bench.random_weights import write_checkpoint

from deepserve.backends.embedded import EmbeddedBackend
from deepserve.backends.tokens.model import load_model, shipped_folder
from deepserve.config import Settings
from deepserve.core.answer import Answer, collect
from deepserve.core.errors import InvalidField
from deepserve.core.events import BlockDelta, Event, Started
from deepserve.core.messages import Message, Text, ToolCall
from deepserve.core.request import Request, ResponseFormat, Thinking, Tool, ToolChoice
from deepserve.core.sampling import Sampling
from deepserve.core.schema import check_schema
from deepserve.engine.loader import load_engine
from deepserve.engine.options import EngineOptions
from tests.backends.embedded_setup import request_of

SHAPE = {
    "vocab_size": 2_112,  # more than the tokenizer has: the rest must never be drawn
    "hidden_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 32,
    "q_lora_rank": 32,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "o_groups": 2,
    "o_lora_rank": 32,
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_topk": 64,
    "sliding_window": 128,
    "qk_rope_head_dim": 16,
    "compress_ratios": [0, 0, 4, 128],
    "num_hash_layers": 1,
    "max_position_embeddings": 16_384,
}

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": ["integer", "null"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    strict=True,
)
CLOCK = Tool(name="get_time", parameters={"type": "object", "properties": {}})


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EmbeddedBackend]]:
    folder = tmp_path_factory.mktemp("weights") / "mini-random"
    write_checkpoint(folder, SHAPE)
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(shipped_folder() / name, folder / name)
    made = {name: _backend(path) for name, path in (("shipped", None), ("random", folder))}
    for backend in made.values():
        asyncio.run(backend.start())
    yield made
    for backend in made.values():
        asyncio.run(backend.close())


def _backend(folder: Path | None) -> EmbeddedBackend:
    model, settings = load_model(folder), Settings(cache_bytes=64 << 20)
    return EmbeddedBackend(
        model, load_engine(model.folder, EngineOptions.from_settings(settings)), settings, draw_seed=lambda: 7
    )


@pytest.fixture(params=["shipped", "random"])
def backend(request: pytest.FixtureRequest, backends: dict[str, EmbeddedBackend]) -> EmbeddedBackend:
    return backends[request.param]


def answers(backend: EmbeddedBackend, *requests: Request) -> list[Answer]:
    async def answer(request: Request) -> Answer:
        async with aclosing(backend.answer(request)) as stream:
            return await collect(stream)

    async def main() -> list[Answer]:
        return await asyncio.wait_for(asyncio.gather(*map(answer, requests)), timeout=60)

    return asyncio.run(main())


def events(backend: EmbeddedBackend, request: Request) -> list[Event]:
    async def main() -> list[Event]:
        async with aclosing(backend.answer(request)) as stream:
            return [event async for event in stream]

    return asyncio.run(main())


def text_of(answer: Answer, result: int = 0) -> str:
    return "".join(part.text for part in answer.results[result].parts if isinstance(part, Text))


def calls_of(answer: Answer, result: int = 0) -> list[ToolCall]:
    return [part for part in answer.results[result].parts if isinstance(part, ToolCall)]


def check_call(call: ToolCall, tools: tuple[Tool, ...] = (WEATHER, CLOCK)) -> None:
    tool = next(tool for tool in tools if tool.name == call.name)
    assert check_schema(dict(tool.parameters or {}), json.loads(call.arguments)).verdict == "valid", call


def varied(request: Request) -> list[Request]:
    """Thinking off and on, greedy and drawn, short and long limits."""
    found = []
    for thinking in (False, True):
        for seed, limit in enumerate((120, 180, 400)):
            found.append(
                msgspec.structs.replace(
                    request,
                    thinking=Thinking(enabled=thinking, effort="low"),
                    sampling=Sampling(temperature=1.0 if seed else 0.0, seed=seed),
                    max_output_tokens=limit,
                )
            )
    return found


JSON_SCHEMA = ResponseFormat(kind="json_schema", schema=PERSON, strict=True)


def test_every_answer_fits_its_schema_whatever_the_model_wants(backend: EmbeddedBackend) -> None:
    for answer in answers(backend, *varied(request_of("Name a person.", response_format=JSON_SCHEMA))):
        assert answer.results[0].finished.reason == "stop"
        assert check_schema(PERSON, json.loads(text_of(answer))).verdict == "valid"


def test_json_mode_gives_an_object(backend: EmbeddedBackend) -> None:
    request = request_of("Some json, please.", response_format=ResponseFormat(kind="json_object"))
    for answer in answers(backend, *varied(request)):
        assert answer.results[0].finished.reason == "stop"
        assert isinstance(json.loads(text_of(answer)), dict)


@pytest.mark.parametrize("is_parallel", [False, True])
def test_a_demanded_call_is_made_and_nothing_else_is_said(backend: EmbeddedBackend, is_parallel: bool) -> None:
    choice = ToolChoice(mode="required", is_parallel=is_parallel)
    request = request_of("Weather in Rome?", tools=(WEATHER, CLOCK), tool_choice=choice)
    for answer in answers(backend, *varied(request)):
        assert answer.results[0].finished.reason == "tool_calls"
        calls = calls_of(answer)
        assert len(calls) >= 1 if is_parallel else len(calls) == 1
        assert text_of(answer) == ""
        for call in calls:
            check_call(call)


def test_a_tool_demanded_by_name_is_the_one_that_is_called(backend: EmbeddedBackend) -> None:
    choice = ToolChoice(mode="named", names=("get_weather",))
    request = request_of("What time is it?", tools=(WEATHER, CLOCK), tool_choice=choice)
    for answer in answers(backend, *varied(request)):
        calls = calls_of(answer)
        assert {call.name for call in calls} == {"get_weather"}
        for call in calls:
            check_call(call)


def test_only_tools_on_the_allowed_list_are_called(backend: EmbeddedBackend) -> None:
    choice = ToolChoice(mode="required", names=("get_time",))
    request = request_of("Weather in Rome?", tools=(WEATHER, CLOCK), tool_choice=choice)
    for answer in answers(backend, *varied(request)):
        assert {call.name for call in calls_of(answer)} == {"get_time"}


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_with_tools_in_play_no_answer_is_empty_and_none_shows_markup(backend: EmbeddedBackend, mode: Any) -> None:
    request = request_of("Weather in Rome?", tools=(WEATHER, CLOCK), tool_choice=ToolChoice(mode=mode))
    for answer in answers(backend, *varied(request)):
        assert text_of(answer).strip() or calls_of(answer)
        assert "DSML" not in text_of(answer)
        assert mode == "auto" or not calls_of(answer)
        for call in calls_of(answer):
            check_call(call)


def test_tools_and_a_schema_give_a_call_or_the_value(backend: EmbeddedBackend) -> None:
    request = request_of("Name a person.", tools=(WEATHER,), response_format=JSON_SCHEMA)
    for answer in answers(backend, *varied(request)):
        assert answer.results[0].finished.reason in ("stop", "tool_calls")
        for call in calls_of(answer):
            check_call(call)
        if not calls_of(answer):
            assert check_schema(PERSON, json.loads(text_of(answer))).verdict == "valid"


def test_a_pattern_and_a_choice_are_kept(backend: EmbeddedBackend) -> None:
    pattern = ResponseFormat(kind="regex", pattern="^[A-Z]{3}-[0-9]{4,6}$")
    for answer in answers(backend, *varied(request_of("A code?", response_format=pattern))):
        assert re.fullmatch("[A-Z]{3}-[0-9]{4,6}", text_of(answer))
    choice = ResponseFormat(kind="choice", choices=("rain", "sun", "</no>"))
    for answer in answers(backend, *varied(request_of("Rain or sun?", response_format=choice))):
        assert text_of(answer) in choice.choices


def test_several_results_follow_the_form_each_in_its_own_words(backend: EmbeddedBackend) -> None:
    request = request_of(
        "Name a person.",
        response_format=JSON_SCHEMA,
        num_results=3,
        sampling=Sampling(temperature=1.0, seed=1, num_top_logprobs=2),
        max_output_tokens=200,
    )
    (answer,) = answers(backend, request)
    texts = [text_of(answer, result) for result in range(3)]
    assert all(check_schema(PERSON, json.loads(text)).verdict == "valid" for text in texts)
    assert len(set(texts)) > 1


def test_streamed_pieces_make_up_the_whole_answer(backend: EmbeddedBackend) -> None:
    request = request_of("Name a person.", response_format=JSON_SCHEMA, max_output_tokens=100)
    (answer,) = answers(backend, request)
    pieces = [event.text for event in events(backend, request) if isinstance(event, BlockDelta)]
    assert len(pieces) > 3
    assert "".join(pieces) == text_of(answer)


def test_an_answer_that_cannot_fit_its_limit_ends_there(backend: EmbeddedBackend) -> None:
    (answer,) = answers(backend, request_of("?", response_format=JSON_SCHEMA, max_output_tokens=4))
    assert answer.results[0].finished.reason == "length"


def test_begun_json_is_completed(backend: EmbeddedBackend) -> None:
    begun = '{"name": "A'
    message = Message(role="assistant", parts=(Text(begun),), prefix=True)
    (answer,) = answers(backend, request_of("?", message, response_format=JSON_SCHEMA, max_output_tokens=100))
    assert check_schema(PERSON, json.loads(begun + text_of(answer))).verdict == "valid"


def test_a_beginning_that_does_not_fit_the_form_is_refused_by_its_place(backend: EmbeddedBackend) -> None:
    message = Message(role="assistant", parts=(Text("Sure: "),), prefix=True)
    with pytest.raises(InvalidField) as refused:
        answers(backend, request_of("?", message, response_format=JSON_SCHEMA))
    assert refused.value.field == "messages[1].prefix"


def test_thinking_leaves_room_for_the_answer(backend: EmbeddedBackend) -> None:
    for limit in (2, 8, 40):
        (answer,) = answers(backend, request_of("?", thinking=True, max_output_tokens=limit))
        assert text_of(answer), limit


def test_what_a_loose_tool_demands_in_vain_is_told(backend: EmbeddedBackend) -> None:
    loose = Tool(
        name="f",
        parameters={
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}},
        },
    )
    started = events(backend, request_of("?", tools=(loose,), max_output_tokens=20))[0]
    assert isinstance(started, Started)
    assert started.relaxed == ("tools[0].parameters/properties/a: uniqueItems",)
