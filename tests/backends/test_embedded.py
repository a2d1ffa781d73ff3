from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepserve.backends.tokens import composer
from deepserve.backends.tokens.knobs import refuse_hopeless
from deepserve.config import Settings
from deepserve.core.answer import Answer
from deepserve.core.errors import (
    ContextOverflow,
    DeepserveError,
    EngineFailure,
    InvalidField,
    Overloaded,
    UnsupportedFeature,
)
from deepserve.core.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Event,
    Failed,
    Finished,
    Started,
    UsageReported,
)
from deepserve.core.messages import Message, Reasoning, Text, ToolCall
from deepserve.core.request import Infill, Request, ServerTool, Thinking, Tool, ToolChoice
from deepserve.core.sampling import Sampling
from deepserve.core.tenant import Tenant, TenantId
from deepserve.engine.interface import Draw
from deepserve.prompt.decoder import BlockEvent, Decoder
from deepserve.prompt.encoder import encode
from deepserve.prompt.segments import Prompt
from deepserve.prompt.special_tokens import END_THINK
from deepserve.prompt.tokenizer import Detokenizer, Tokenizer
from tests.backends.embedded_setup import (
    WEATHER,
    Bench,
    calls_markup,
    request_of,
    tokens_of,
    tool_result,
    write_model,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "mini-test")


def text_of(answer: Answer, result: int = 0) -> str:
    return "".join(part.text for part in answer.results[result].parts if isinstance(part, Text))


def calls_of(answer: Answer) -> list[ToolCall]:
    return [part for part in answer.results[0].parts if isinstance(part, ToolCall)]


def test_an_answer_starts_with_who_answers_and_ends_with_usage_and_reason(folder: Path) -> None:
    bench = Bench(folder, "Hello there")
    events = bench.run(lambda: bench.events(request_of("hi")))
    started, opened, *deltas, closed, usage, finished = events
    assert isinstance(started, Started)
    assert started.served_by.label == "deepserve/mini-test"
    assert isinstance(opened, BlockOpened)
    assert "".join(event.text for event in deltas if isinstance(event, BlockDelta)) == "Hello there"
    assert isinstance(closed, BlockClosed)
    assert isinstance(usage, UsageReported)
    # The end token was drawn, so it counts.
    assert usage.usage.answer_tokens == len(tokens_of(bench.tokenizer, "Hello there")) + 1
    assert started.prompt_usage == msgspec.structs.replace(usage.usage, answer_tokens=0)
    output = msgspec.structs.replace(usage.usage, hit_tokens=0, miss_tokens=0)
    assert finished == Finished(reason="stop", seed=0, output=output)


def test_reasoning_and_answer_are_told_apart_and_counted(folder: Path) -> None:
    bench = Bench(folder, "Let me think.</think>Four.")
    answer = bench.run(lambda: bench.answer(request_of("2+2?", thinking=True)))
    assert answer.results[0].parts == (Reasoning(text="Let me think."), Text("Four."))
    assert answer.usage.reasoning_tokens == len(tokens_of(bench.tokenizer, "Let me think."))
    assert answer.usage.answer_tokens == 1 + len(tokens_of(bench.tokenizer, "Four.")) + 1


def test_tool_calls_become_blocks_with_unguessable_ids(folder: Path) -> None:
    bench = Bench(folder, "Looking." + calls_markup({"city": "Berlin"}, {"city": "Rome"}))
    answer = bench.run(lambda: bench.answer(request_of("Weather?", tools=(WEATHER,))))
    first, second = calls_of(answer)
    assert (first.name, first.arguments) == ("get_weather", '{"city": "Berlin"}')
    assert (first.id[:8], second.id[:8]) == ("call_00_", "call_01_")
    assert len(first.id) == 8 + 24
    assert first.id[8:] != second.id[8:]
    assert answer.results[0].finished.reason == "tool_calls"


@settings(max_examples=60, deadline=None)
@given(
    reasoning=st.sampled_from(["", "hm", "a\n\nb", "I call <b> ｜DSML", "naïve 😀"]),
    text=st.text(st.sampled_from("ab <>/｜\n😀é"), max_size=30),
    has_calls=st.booleans(),
    has_tools=st.booleans(),
    has_logprobs=st.booleans(),
    thinking=st.booleans(),
)
def test_the_whole_pipeline_gives_exactly_the_decoders_events(
    folder: Path, reasoning: str, text: str, has_calls: bool, has_tools: bool, has_logprobs: bool, thinking: bool
) -> None:
    assume(text.strip() or has_calls)
    assume(has_tools or not has_calls)  # nobody can call tools that are not there
    answer = text + (calls_markup({"city": text}) if has_calls else "")
    assume(len(answer) - len(answer.lstrip()) <= 3)  # after as many blank tokens something has to be said
    written = (f"{reasoning}</think>" if thinking else "") + answer
    bench = Bench(folder, written)
    request = request_of("?", thinking=thinking, tools=(WEATHER,) if has_tools else (), max_output_tokens=1000)
    if has_logprobs:
        request = msgspec.structs.replace(request, sampling=Sampling(num_top_logprobs=2))
    got = bench.run(lambda: bench.events(request))
    assert without_ids([e for e in got if isinstance(e, BlockOpened | BlockDelta | BlockClosed)]) == without_ids(
        decoded(bench, request, written)
    )


def decoded(bench: Bench, request: Request, written: str) -> list[BlockEvent]:
    """What the decoder says by itself, token for token."""
    tokenizer = bench.tokenizer
    decoder = Decoder(encode(request, bench.model.profile).start, marks="special")
    detokenizer = Detokenizer(tokenizer)
    events: list[BlockEvent] = []
    num_top = request.sampling.num_top_logprobs
    for token in tokens_of(tokenizer, written):
        top = [(other, -0.5 - other) for other in range(num_top or 0)]
        logprob = tokenizer.logprob(token, -0.5, top) if num_top is not None else None
        for piece in detokenizer.push(token, logprob):
            events += decoder.feed(piece)
    for piece in detokenizer.finish():
        events += decoder.feed(piece)
    return events + decoder.finish()


def without_ids(events: list[BlockEvent]) -> list[object]:
    return [
        (event.index, getattr(event.block, "name", type(event.block))) if isinstance(event, BlockOpened) else event
        for event in events
    ]


def test_answers_do_not_depend_on_company(folder: Path) -> None:
    bench = Bench(
        folder, "first answer\nwith lines", "second" + calls_markup({"city": "Rome"}), "thoughts</think>third"
    )
    requests = [
        request_of("one", sampling=Sampling(seed=0)),
        request_of("two", sampling=Sampling(seed=1), tools=(WEATHER,)),
        request_of("three", sampling=Sampling(seed=2), thinking=True),
        request_of("four " * 400, sampling=Sampling(seed=0)),
    ]

    async def main() -> None:
        alone = [await bench.answer(request) for request in requests]
        together = await asyncio.gather(*(bench.answer(request) for request in requests))
        for one, other in zip(alone, together, strict=True):
            assert text_of(one) == text_of(other)
            assert [call.arguments for call in calls_of(one)] == [call.arguments for call in calls_of(other)]
            assert one.usage.output_tokens == other.usage.output_tokens

    bench.run(main)


# Stop strings


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(folder: Path) -> None:
    bench = Bench(folder, "one two three four " * 100)
    answer = bench.run(lambda: bench.answer(request_of("count", stop=("three",))))
    assert text_of(answer) == "one two "
    finished = answer.results[0].finished
    assert (finished.reason, finished.stop_string, finished.seed) == ("stop_string", "three", 0)
    assert answer.usage.answer_tokens == len(tokens_of(bench.tokenizer, "one two three"))
    assert not bench.engine.sequences


def test_stop_strings_apply_to_the_answer_only(folder: Path) -> None:
    bench = Bench(folder, "think END think</think>say END say" + calls_markup({"city": "END"}))
    answer = bench.run(lambda: bench.answer(request_of("?", thinking=True, tools=(WEATHER,), stop=("END",))))
    assert answer.results[0].parts == (Reasoning(text="think END think"), Text("say "))
    bench = Bench(folder, "think</think>" + calls_markup({"city": "END"}))
    answer = bench.run(lambda: bench.answer(request_of("?", thinking=True, tools=(WEATHER,), stop=("END",))))
    assert calls_of(answer)[0].arguments == '{"city": "END"}'


def test_text_held_for_a_stop_string_is_released_at_the_end(folder: Path) -> None:
    bench = Bench(folder, "almost EN")
    answer = bench.run(lambda: bench.answer(request_of("?", stop=("END",))))
    assert text_of(answer) == "almost EN"
    assert answer.results[0].finished.reason == "stop"


@settings(max_examples=40, deadline=None)
@given(text=st.text("abc\n😀", min_size=1, max_size=24), stop=st.text("abc\n", min_size=1, max_size=4))
def test_every_token_of_the_text_has_its_logprob_once(folder: Path, text: str, stop: str) -> None:
    bench = Bench(folder, text)
    sampling = Sampling(num_top_logprobs=0)
    plain = bench.run(lambda: bench.answer(request_of("?", sampling=sampling)))
    bench = Bench(folder, text)
    stopped = bench.run(lambda: bench.answer(request_of("?", sampling=sampling, stop=(stop,))))
    shown, all_of_it = stopped.results[0].text_logprobs, plain.results[0].text_logprobs
    assert shown == all_of_it[: len(shown)]
    assert len(b"".join(token.bytes for token in shown)) >= len(text_of(stopped).encode())
    if stopped.results[0].finished.reason == "stop":
        assert shown == all_of_it


# Limits


def test_an_explicit_limit_is_kept_and_reported(folder: Path) -> None:
    bench = Bench(folder, "word " * 50)
    answer = bench.run(lambda: bench.answer(request_of("?", max_output_tokens=5)))
    assert answer.results[0].finished.reason == "length"
    assert answer.usage.output_tokens == 5


def test_an_explicit_limit_over_the_context_is_refused_with_the_numbers(folder: Path) -> None:
    bench = Bench(folder)

    async def main() -> None:
        num_prompt = await bench.backend.count(request_of("hello"))
        with pytest.raises(ContextOverflow) as refused:
            await bench.answer(request_of("hello", max_output_tokens=131_072))
        assert (refused.value.prompt_tokens, refused.value.requested_tokens) == (num_prompt, 131_072)
        assert refused.value.limit_tokens == 131_072
        await bench.answer(request_of("hello", max_output_tokens=131_072 - num_prompt))

    bench.run(main)


def test_a_prompt_over_the_context_is_refused_before_anything_starts(folder: Path) -> None:
    bench = Bench(folder)

    async def main() -> None:
        with pytest.raises(ContextOverflow):
            await bench.answer(request_of("a b c d e f g h " * 20_000))

    bench.run(main)
    assert not bench.engine.steps


def test_a_prompt_far_over_the_context_is_not_tokenised_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten megabytes that never fitted took a minute and four gigabytes until they were refused."""
    bench = Bench(folder)
    num_read = 0
    encode_text = Tokenizer.encode_text

    def counted(tokenizer: Tokenizer, text: str) -> list[int]:
        nonlocal num_read
        num_read += len(text)
        return encode_text(tokenizer, text)

    monkeypatch.setattr(Tokenizer, "encode_text", counted)
    text = "a b c d e f g h " * 200_000
    num_tokens = len(encode_text(bench.tokenizer, text[:160_000])) * 20

    async def main() -> None:
        with pytest.raises(ContextOverflow) as refused:
            await bench.answer(request_of(text, max_output_tokens=7))
        assert refused.value.prompt_tokens == pytest.approx(num_tokens, rel=0.02)
        assert (refused.value.requested_tokens, refused.value.limit_tokens) == (7, 131_072)
        with pytest.raises(ContextOverflow):
            await bench.backend.count(request_of(text))

    bench.run(main)
    assert num_read < len(text)  # of both requests together


def test_a_long_prompt_of_long_tokens_is_read_whole(folder: Path) -> None:
    """What might fit is tokenised as it is: pieces only decide about what cannot."""
    request, context_tokens = request_of("", max_output_tokens=1), 10
    refuse_hopeless(request, ["x" * 200_000], lambda text: len(text) // 65_536, context_tokens=context_tokens)
    with pytest.raises(ContextOverflow) as refused:
        refuse_hopeless(request, ["x" * 200_000], len, context_tokens=context_tokens)
    assert refused.value.prompt_tokens == 200_000


@pytest.mark.parametrize(
    ("thinking", "asked", "expected"),
    [
        (Thinking(enabled=False), None, 8_192),
        (Thinking(), None, 65_536),
        (Thinking(effort="max"), None, None),
        (Thinking(), 100, 100),
        (Thinking(), 1_000_000, None),
    ],
)
def test_default_limits_follow_the_thinking_and_are_cut_to_the_context(
    folder: Path, thinking: Thinking, asked: int | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(folder)
    seen: list[int] = []
    submit = bench.backend._loop.submit

    def spy(generation: object) -> object:
        seen.append(generation.max_tokens)  # type: ignore[attr-defined]  # a Generation; only looked at
        return submit(generation)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.backend._loop, "submit", spy)
    request = msgspec.structs.replace(request_of("hello"), thinking=thinking, default_output_tokens=asked)

    async def main() -> int:
        await bench.answer(request)
        return await bench.backend.count(request)

    num_prompt = bench.run(main)
    assert seen == [expected if expected is not None else 131_072 - num_prompt]


def test_memory_limits_the_context_that_is_declared(folder: Path) -> None:
    bench = Bench(folder, capacity_tokens=10_000)
    limit = bench.backend.models()[0].context_tokens
    assert limit < 10_000

    async def main() -> None:
        with pytest.raises(ContextOverflow):
            await bench.answer(request_of("hello", max_output_tokens=limit))

    bench.run(main)


def test_a_thinking_budget_ends_the_thinking(folder: Path) -> None:
    bench = Bench(folder, "on and on and on and on and on and on and on</think>done")
    request = request_of("?", max_output_tokens=40)
    request = msgspec.structs.replace(request, thinking=Thinking(budget_tokens=4))
    answer = bench.run(lambda: bench.answer(request))
    assert answer.usage.reasoning_tokens == 4
    assert text_of(answer)


def test_a_thinking_budget_does_not_cut_into_a_call_that_ended_the_thinking_by_itself(folder: Path) -> None:
    """The end of thinking was forced into the call's arguments when the model had forgotten to write it."""
    written = "hm" + calls_markup({"city": "a city with quite a long name, all in all"})
    bench = Bench(folder, written)
    up_to_the_value = len(tokens_of(bench.tokenizer, written[: written.index("quite")]))
    request = request_of("?", tools=(WEATHER,), max_output_tokens=200)
    request = msgspec.structs.replace(request, thinking=Thinking(budget_tokens=up_to_the_value))
    answer = bench.run(lambda: bench.answer(request))
    (call,) = [part for part in answer.results[0].parts if isinstance(part, ToolCall)]
    assert json.loads(call.arguments) == {"city": "a city with quite a long name, all in all"}


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("infill", [None, Infill(prompt="The fox"), Infill(prompt="The", suffix="fox")])
def test_text_and_thinking_hold_no_special_tokens(folder: Path, infill: Infill | None, thinking: bool) -> None:
    """Regression: models of noise wrote markup into every eighth chat, and the shipped one once into a completion.
    Networks have more rows than the tokenizer has tokens, too; drawing one of them was an internal error."""
    bench = Bench(folder)
    tokenizer = bench.tokenizer
    end, letter = tokenizer.special_id(END_THINK), tokenizer.encode_text("a")[0]
    ids = [letter, *([end] if thinking and infill is None else []), letter, letter]
    masks: list[bytes] = []

    def script(history: Sequence[int], draw: Draw) -> int:
        assert isinstance(draw.allowed, bytes)
        masks.append(draw.allowed)
        return ids[draw.position] if draw.position < len(ids) else tokenizer.eos_id

    bench.engine.script = script
    request = request_of("?", thinking=thinking, tools=(WEATHER,), max_output_tokens=100)
    if infill is not None:
        request = msgspec.structs.replace(request, infill=infill, messages=(), tools=())
    answer = bench.run(lambda: bench.answer(request))
    assert text_of(answer) == "a" * (len(ids) - (2 if end in ids else 0))
    never = {*tokenizer.added_ids, *range(tokenizer.vocab_size, bench.engine.info.vocab_size)} - {tokenizer.eos_id}
    for number, mask in enumerate(masks):
        may = {end} if end in ids and number < 2 else set()
        assert not [token for token in never - may if mask[token // 8] >> token % 8 & 1]
        assert all(mask[token // 8] >> token % 8 & 1 for token in {letter, *may})


def test_a_prompt_that_takes_long_to_tokenise_does_not_hold_up_the_event_loop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def encode_and_note(*args: Any, **kwargs: Any) -> Prompt:  # Any: passed on as they are
        threads.append(threading.current_thread())
        return encode(*args, **kwargs)

    monkeypatch.setattr(composer, "encode", encode_and_note)
    bench = Bench(folder, "hi")

    async def main() -> None:
        for text in ("short", "long " * 2500):
            await bench.backend.count(request_of(text))

    bench.run(main)
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def test_long_prompts_take_no_threads_from_others_and_wait_for_none(folder: Path) -> None:
    """Tokenising and key look-ups shared asyncio's few threads: long prompts kept everybody else out."""
    bench, released = Bench(folder, "hi"), threading.Event()

    async def main() -> int:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        blocking = asyncio.get_running_loop().run_in_executor(None, released.wait)
        try:
            return await asyncio.wait_for(bench.backend.count(request_of("long " * 2500)), 10)
        finally:
            released.set()
            await blocking

    assert bench.run(main) > 2500


# Sampling


def draws_of(folder: Path, request: Request) -> list[Draw]:
    seen: dict[int, Draw] = {}

    def script(history: object, draw: Draw) -> int:
        seen[draw.seed] = draw
        return bench.tokenizer.eos_id

    bench = Bench(folder)
    bench.engine.script = script
    bench.run(lambda: bench.answer(request))
    return [seen[seed] for seed in sorted(seen)]


def test_what_the_client_leaves_out_comes_from_the_model(tmp_path: Path) -> None:
    defaults = {"temperature": 0.6, "top_p": 0.95, "top_k": 40, "min_p": None, "repetition_penalty": 1.1}
    folder = write_model(tmp_path / "mini-other", **{"generation_config.json": defaults})
    (draw,) = draws_of(folder, request_of("?"))
    assert (draw.temperature, draw.top_p, draw.top_k, draw.min_p, draw.repetition_penalty) == (0.6, 0.95, 40, 0, 1.1)
    asked = Sampling(temperature=0.0, top_p=0.5, top_k=0, min_p=0.1, frequency_penalty=0.5, presence_penalty=-0.5)
    (draw,) = draws_of(folder, request_of("?", sampling=asked, thinking=True))
    assert (draw.temperature, draw.top_p, draw.top_k, draw.min_p) == (0, 0.5, 0, 0.1)
    assert (draw.frequency_penalty, draw.presence_penalty) == (0.5, -0.5)


def test_the_models_own_output_limit_goes_before_the_default_of_the_api(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mini-other", **{"generation_config.json": {"max_new_tokens": 5}})

    def num_drawn(request: Request) -> int:
        bench = Bench(folder)
        bench.engine.script = lambda history, draw: bench.tokenizer.eos_id + 20
        return bench.run(lambda: bench.answer(request)).usage.output_tokens

    assert num_drawn(request_of("?")) == 5
    assert num_drawn(request_of("?", max_output_tokens=9)) == 9


def test_mini_models_answer_greedily_unless_several_results_are_asked_for(folder: Path) -> None:
    assert [draw.temperature for draw in draws_of(folder, request_of("?"))] == [0]
    assert [draw.temperature for draw in draws_of(folder, request_of("?", num_results=2))] == [0.7, 0.7]
    explicit = request_of("?", num_results=2, sampling=Sampling(temperature=0.0))
    assert [draw.temperature for draw in draws_of(folder, explicit)] == [0, 0]


def test_each_result_has_its_own_seed_which_is_reported(folder: Path) -> None:
    request = request_of("?", num_results=3, sampling=Sampling(seed=7))
    assert [draw.seed for draw in draws_of(folder, request)] == [7, 8, 9]
    bench = Bench(folder, "a", "b")
    answer = bench.run(lambda: bench.answer(request))
    assert [result.finished.seed for result in answer.results] == [7, 8, 9]
    assert [text_of(answer, result) for result in range(3)] == ["b", "a", "b"]
    assert bench.num_seeds == 0
    assert answer.usage.answer_tokens == 3 * 2


def test_a_request_without_a_seed_gets_a_fresh_one(folder: Path) -> None:
    bench = Bench(folder)
    bench.run(lambda: bench.answer(request_of("?")))
    assert bench.num_seeds == 1


def test_a_bias_for_a_token_that_does_not_exist_is_refused(folder: Path) -> None:
    bench = Bench(folder)

    async def main() -> None:
        with pytest.raises(InvalidField, match="1000"):
            await bench.answer(request_of("?", sampling=Sampling(logit_bias={1000: 5.0})))

    bench.run(main)


# What is not ours to give


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sampling": Sampling(top_a=0.5)}, "top_a"),
        ({"server_tools": (ServerTool(tool="web_search", name="search"),)}, "tools"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(folder: Path, changes: dict[str, Any], field: str) -> None:
    bench = Bench(folder)

    async def main() -> None:
        with pytest.raises(UnsupportedFeature) as refused:
            await bench.answer(request_of("?", **changes))
        assert refused.value.field == field

    bench.run(main)


def test_without_parallel_calls_the_answer_ends_after_the_first(folder: Path) -> None:
    bench = Bench(folder, calls_markup({"city": "Berlin"}, {"city": "Rome"}))
    choice = ToolChoice(is_parallel=False)
    answer = bench.run(lambda: bench.answer(request_of("?", tools=(WEATHER,), tool_choice=choice)))
    assert [call.arguments for call in calls_of(answer)] == ['{"city": "Berlin"}']
    assert answer.results[0].finished.reason == "tool_calls"


# Faults and leaving


def test_a_fault_while_answering_is_an_event_of_its_result_only(folder: Path) -> None:
    bench = Bench(folder, "one", "two Q two")
    bench.engine.faulty = lambda history: history[-1] == tokens_of(bench.tokenizer, "Q")[-1]
    events = bench.run(lambda: bench.events(request_of("?", num_results=2, sampling=Sampling(seed=0))))
    ends = [event for event in events if isinstance(event, Finished | Failed)]
    assert {type(event): event.result for event in ends} == {Finished: 0, Failed: 1}
    assert isinstance(next(e.error for e in ends if isinstance(e, Failed)), EngineFailure)


def test_a_fault_before_the_first_event_is_raised(folder: Path) -> None:
    bench = Bench(folder)

    def broken() -> object:
        raise MemoryError

    bench.engine.create = broken  # type: ignore[method-assign, assignment]  # nothing is ever returned

    async def main() -> None:
        with pytest.raises(EngineFailure):
            await bench.answer(request_of("?"))

    bench.run(main)


@pytest.mark.parametrize("num_events", [0, 1, 2, 5])
def test_a_client_that_leaves_frees_everything(folder: Path, num_events: int) -> None:
    bench = Bench(folder, "word " * 5000)

    async def main() -> None:
        async with aclosing(bench.backend.answer(request_of("?", num_results=2))) as stream:
            for _ in range(num_events):
                await anext(stream)
        bench.write("short")
        await bench.answer(request_of("next"))
        assert bench.backend.gauges()["running"] == 0
        assert bench.backend.gauges()["waiting_prompt_tokens"] == 0

    bench.run(main)
    assert not bench.engine.sequences


def test_a_full_queue_is_an_error_before_the_first_event(folder: Path) -> None:
    bench = Bench(folder, "word " * 500, settings=Settings(max_queue_tokens=50, max_concurrency=1))

    async def main() -> None:
        waiting = [asyncio.create_task(bench.answer(request_of("a b c " * 20))) for _ in range(4)]
        done = await asyncio.gather(*waiting, return_exceptions=True)
        refused = [outcome for outcome in done if isinstance(outcome, DeepserveError)]
        assert refused
        assert all(isinstance(error, Overloaded) for error in refused)
        assert any(isinstance(outcome, Answer) for outcome in done)

    bench.run(main)


# Prefix cache


def hits(answer: Answer) -> int:
    return answer.usage.hit_tokens


def assistant(answer: Answer, *, with_reasoning: bool = True) -> Message:
    parts = answer.results[0].parts
    return Message(role="assistant", parts=tuple(p for p in parts if with_reasoning or not isinstance(p, Reasoning)))


def test_the_next_turn_hits_everything_up_to_the_last_answer(folder: Path) -> None:
    """In chat mode nothing is rewritten, so the unit at the end of the answer fits."""
    bench = Bench(folder, "Fine, thanks.")
    first = request_of("How are you? " * 30)

    async def main() -> None:
        cold = await bench.answer(first)
        assert hits(cold) == 0
        warm = await bench.answer(request_of(*first.messages, assistant(cold), "And now?"))
        assert hits(warm) == cold.usage.prompt_tokens + cold.usage.output_tokens - 1
        again = await bench.answer(first)
        assert hits(again) > cold.usage.prompt_tokens - 4
        assert text_of(again) == text_of(cold)

    bench.run(main)


def test_after_thinking_the_next_turn_hits_up_to_the_answer(folder: Path) -> None:
    """Without tools the old trace is left out of the next prompt, which therefore differs right after the question."""
    bench = Bench(folder, "hm</think>Fine.")
    first = request_of("How are you? " * 30, thinking=True)

    async def main() -> None:
        cold = await bench.answer(first)
        warm = await bench.answer(request_of(*first.messages, assistant(cold), "And?", thinking=True))
        assert hits(warm) == cold.usage.prompt_tokens - 2  # all but <｜Assistant｜><think>

    bench.run(main)


@pytest.mark.parametrize("changes", [{"user_id": "someone"}, {"tenant": Tenant(id=TenantId("other"))}])
def test_other_tenants_and_users_never_hit(folder: Path, changes: dict[str, Any]) -> None:  # Any: fields of Request
    bench = Bench(folder, "Fine.")

    async def main() -> None:
        await bench.answer(request_of("How are you? " * 30))
        assert hits(await bench.answer(request_of("How are you? " * 30, **changes))) == 0
        assert hits(await bench.answer(request_of("How are you? " * 30))) > 0

    bench.run(main)


def test_a_restarted_server_hits_and_counts_as_before(folder: Path, tmp_path: Path) -> None:
    first = request_of("How are you? " * 200)

    def second(cold: Answer) -> Request:
        return request_of(*first.messages, assistant(cold), "And now?")

    def bench_at(state_dir: Path) -> Bench:
        return Bench(folder, "Fine, thanks.", settings=Settings(state_dir=state_dir))

    async def both(bench: Bench) -> list[Answer]:
        cold = await bench.answer(first)
        return [cold, await bench.answer(second(cold))]

    going_on = bench_at(tmp_path / "one")
    expected = going_on.run(lambda: both(going_on))
    assert hits(expected[1]) == expected[0].usage.prompt_tokens + expected[0].usage.output_tokens - 1
    stopped = bench_at(tmp_path / "two")
    cold = stopped.run(lambda: stopped.answer(first))
    restarted = bench_at(tmp_path / "two")
    warm = restarted.run(lambda: restarted.answer(second(cold)))
    assert [cold.usage, warm.usage] == [answer.usage for answer in expected]
    assert [bench.backend.gauges()["disk_cache_hits"] for bench in (going_on, stopped, restarted)] == [0, 0, 1]
    assert restarted.backend.gauges()["disk_cache_hit_tokens"] == hits(warm)
    assert restarted.backend.gauges()["disk_cache_files"] >= 1
    assert restarted.backend.gauges()["disk_cache_bytes"] > 0


def test_without_a_state_directory_or_a_budget_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    for chosen in (Settings(), Settings(state_dir=tmp_path, disk_cache_bytes=0)):
        bench = Bench(folder, "Fine.", settings=chosen)

        async def main(bench: Bench = bench) -> None:
            await bench.answer(request_of("How are you? " * 200))

        bench.run(main)
        assert "disk_cache_files" not in bench.backend.gauges()
    assert list(tmp_path.iterdir()) == []


# Replay and reasoning memory


FORECAST = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {"days": {"type": "array", "items": {"type": "integer"}}, "city": {"type": "string"}},
    },
)


def tool_turn(bench: Bench) -> Request:
    return request_of("What is the weather in Berlin?", thinking=True, tools=(FORECAST,))


# This spacing is not what rendering the JSON again would give.
ODD_CALL = "\n\n<｜DSML｜tool_calls>\n" + (
    '<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="days" string="false">[1,2]</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="city" string="true">Berlin</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)


def test_a_tool_turn_is_replayed_token_by_token(folder: Path) -> None:
    bench = Bench(folder, "I should look.</think>" + ODD_CALL)
    request = tool_turn(bench)

    async def main() -> None:
        cold = await bench.answer(request)
        (call,) = calls_of(cold)
        # As clients do: JSON parsed and written again, keys sorted.
        normalised = ToolCall(id=call.id, name=call.name, arguments='{"city":"Berlin","days":[1, 2]}')
        turn = Message(role="assistant", parts=(Reasoning(text="I should look."), normalised))
        following = request_of(*request.messages, turn, tool_result(call.id, "sunny"), thinking=True, tools=(FORECAST,))
        warm = await bench.answer(following)
        # The last closing tag was forced: nothing had to be computed for it yet.
        num_forced = len(tokens_of(bench.tokenizer, "｜DSML｜tool_calls>")) + 2
        assert hits(warm) >= cold.usage.prompt_tokens + cold.usage.output_tokens - num_forced

    bench.run(main)


@pytest.mark.parametrize("is_altered", [False, True])
def test_reasoning_that_a_client_dropped_is_put_back(folder: Path, is_altered: bool) -> None:
    bench = Bench(folder, "I should look.</think>" + ODD_CALL)
    request = tool_turn(bench)

    async def main() -> None:
        cold = await bench.answer(request)
        (call,) = calls_of(cold)
        sent = msgspec.structs.replace(call, arguments='{"city": "Rome"}') if is_altered else call
        lossy = Message(role="assistant", parts=(sent,))
        full = Message(role="assistant", parts=(Reasoning(text="I should look."), sent))
        rest = (tool_result(call.id, "sunny"),)
        bench.write("</think>Sunny.")
        events = await bench.events(request_of(*request.messages, lossy, *rest, thinking=True, tools=(FORECAST,)))
        started = events[0]
        assert isinstance(started, Started)
        assert started.past_reasoning is not None
        assert (started.past_reasoning.sent, started.past_reasoning.restored, started.past_reasoning.missing) == (
            0,
            1,
            0,
        )
        lossy_count = await bench.backend.count(
            request_of(*request.messages, lossy, *rest, thinking=True, tools=(FORECAST,))
        )
        full_count = await bench.backend.count(
            request_of(*request.messages, full, *rest, thinking=True, tools=(FORECAST,))
        )
        assert lossy_count == full_count

    bench.run(main)


def counts_of(events: list[Event]) -> tuple[int, int, int]:
    started = events[0]
    assert isinstance(started, Started)
    assert started.past_reasoning is not None
    return (started.past_reasoning.sent, started.past_reasoning.restored, started.past_reasoning.missing)


def test_what_the_client_sends_wins_over_what_we_remember(folder: Path) -> None:
    bench = Bench(folder, "I should look.</think>" + ODD_CALL)
    request = tool_turn(bench)

    async def main() -> None:
        (call,) = calls_of(await bench.answer(request))
        own = Message(role="assistant", parts=(Reasoning(text="Something else entirely."), call))
        following = request_of(*request.messages, own, tool_result(call.id, "sunny"), thinking=True, tools=(FORECAST,))
        bench.write("</think>Sunny.")
        prompts: list[str] = []
        events = await bench.events(following)
        assert counts_of(events) == (1, 0, 0)
        prompts += [bench.tokenizer.decode(snapshot.history) for snapshot in bench.engine.snapshots]
        assert any("Something else entirely." in prompt for prompt in prompts)

    bench.run(main)


def test_reasoning_of_a_text_turn_is_found_by_its_conversation(folder: Path) -> None:
    """The final text of a tool loop has no call id, and its trace is asked for all the same."""
    bench = Bench(folder, "I know that.</think>It is sunny.")
    request = tool_turn(bench)

    async def main() -> None:
        first = await bench.answer(request)
        lossy = assistant(first, with_reasoning=False)
        following = request_of(*request.messages, lossy, "Thanks", thinking=True, tools=(FORECAST,))
        assert counts_of(await bench.events(following)) == (0, 1, 0)
        elsewhere = request_of("Another question", lossy, "Thanks", thinking=True, tools=(FORECAST,))
        assert counts_of(await bench.events(elsewhere)) == (0, 0, 1)

    bench.run(main)


def test_another_tenants_call_ids_restore_nothing(folder: Path) -> None:
    bench = Bench(folder, "I should look.</think>" + ODD_CALL)
    request = tool_turn(bench)

    async def main() -> None:
        (call,) = calls_of(await bench.answer(request))
        lossy = Message(role="assistant", parts=(call,))
        foreign = request_of(
            *request.messages,
            lossy,
            tool_result(call.id, "sunny"),
            thinking=True,
            tools=(FORECAST,),
            tenant=Tenant(id=TenantId("other")),
        )
        assert counts_of(await bench.events(foreign)) == (0, 0, 1)

    bench.run(main)


def test_without_tools_or_thinking_past_reasoning_plays_no_part(folder: Path) -> None:
    bench = Bench(folder, "Hello")

    async def main() -> None:
        for request in (
            request_of("a", Message(role="assistant", parts=(Text("b"),)), "c", tools=(WEATHER,)),
            request_of("a", Message(role="assistant", parts=(Text("b"),)), "c", thinking=True),
        ):
            started = (await bench.events(request))[0]
            assert isinstance(started, Started)
            assert started.past_reasoning is None

    bench.run(main)


# Continuation, counting, models


def test_a_prefix_is_continued(folder: Path) -> None:
    bench = Bench(folder, " world")
    prefix = Message(role="assistant", parts=(Text("Hello"),), prefix=True)
    answer = bench.run(lambda: bench.answer(request_of("Greet", prefix)))
    assert text_of(answer) == " world"


def test_a_plain_completion_is_continued(folder: Path) -> None:
    bench = Bench(folder, " jumps")
    request = msgspec.structs.replace(request_of(), infill=Infill(prompt="The fox"))
    assert text_of(bench.run(lambda: bench.answer(request))) == " jumps"


def test_counting_agrees_with_what_is_billed(folder: Path) -> None:
    bench = Bench(folder, "ok")
    long = "The quick brown fox jumps over the lazy dog. " * 2_300  # tokenised outside the event loop

    async def main() -> None:
        for request in (request_of("hi"), request_of(long), request_of("a", tools=(WEATHER,), thinking=True)):
            counted = await bench.backend.count(request)
            assert (await bench.answer(request)).usage.prompt_tokens == counted

    bench.run(main)


def test_both_model_ids_are_served_and_say_what_answers(folder: Path) -> None:
    bench = Bench(folder)
    models = bench.backend.models()
    assert {model.id for model in models} == {"deepseek-v4-flash", "deepseek-v4-pro"}
    for model in models:
        assert model.served_by.label == "deepserve/mini-test"
        assert model.served_by.fingerprint.startswith("fp_deepserve_mini-test_")
        assert "mini-test" in model.note
        assert model.context_tokens == 131_072


def test_it_is_ready_between_start_and_close(folder: Path) -> None:
    bench = Bench(folder)
    assert not bench.backend.is_ready()
    assert bench.run(lambda: asyncio.sleep(0, bench.backend.is_ready()))
    assert not bench.backend.is_ready()
    assert not bench.engine.snapshots


def test_usage_of_interleaved_results_only_grows(folder: Path) -> None:
    bench = Bench(folder, "a b c", "a b c d e f g", "a")
    events = bench.run(lambda: bench.events(request_of("?", num_results=3, sampling=Sampling(seed=0))))
    usages = [event.usage for event in events if isinstance(event, UsageReported)]
    assert len(usages) == 3
    assert all(one.answer_tokens <= other.answer_tokens for one, other in itertools.pairwise(usages))
    assert isinstance(events[-2], UsageReported)
