"""Answers whose tokens are not the model's choice alone, through the scheduler."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepserve.core.errors import EngineFailure
from deepserve.engine.generation import Generation, GenerationId, ResultEnded, TokenDrawn, TokenGuide
from deepserve.engine.interface import CHUNK_TOKENS, Draw, Drawn
from deepserve.engine.result_state import FORCED_ROW_TOKENS
from deepserve.engine.step_pace import SHORTEST_ROW_TOKENS
from tests.engine.fake_engine import VOCAB_SIZE, FakeEngine
from tests.engine.scripted_guide import ScriptedGuide
from tests.engine.test_scheduler import (
    Updates,
    assert_all_is_free,
    ends_of,
    finish,
    generation_of,
    hits_of,
    prompt_of,
    run,
    scheduler_of,
    tokens_of,
)


def counting(history: Sequence[int], draw: Draw) -> int:
    """Draws 10, 11, 12, ... whatever stands before."""
    return 10 + draw.position


def drawn_of(updates: Updates, result: int = 0) -> list[Drawn]:
    drawn = [progress for _, progress in updates if isinstance(progress, TokenDrawn)]
    return [progress.drawn for progress in drawn if progress.result == result]


# The order of calls


def test_a_guide_is_asked_what_is_forced_then_for_a_mask_and_told_what_was_drawn() -> None:
    guide = ScriptedGuide({2: [50, 51]})
    (updates,) = run(scheduler_of(FakeEngine(script=counting)), generation_of([1, 2, 3], guides=(guide,), max_tokens=5))
    assert tokens_of(updates) == [10, 11, 50, 51, 14]
    assert guide.calls == ["forced", "mask", "accept 10", "forced", "mask", "accept 11", "forced", "mask", "accept 14"]


@pytest.mark.parametrize("is_late", [False, True])
def test_masks_decide_what_can_be_drawn(is_late: bool) -> None:
    guide = ScriptedGuide({}, masks={1: [77], 2: [200, 201]}, is_late=is_late)
    (updates,) = run(scheduler_of(FakeEngine(script=counting)), generation_of([1], guides=(guide,), max_tokens=4))
    assert tokens_of(updates) == [10, 77, 200, 13]


def test_a_token_that_the_guide_replaces_is_the_one_that_stands() -> None:
    """It is what is reported, computed and counted for penalties."""
    seen: list[dict[int, int]] = []

    def script(history: Sequence[int], draw: Draw) -> int:
        seen.append(dict(draw.output_counts))
        return 10 + draw.position

    engine = FakeEngine(script=script)
    guide = ScriptedGuide({}, replaced={1: 90})
    draw = Draw(frequency_penalty=0.5, num_top_logprobs=2)
    scheduler = scheduler_of(engine)
    scheduler.add(GenerationId(0), generation_of([1], guides=(guide,), draw=draw, max_tokens=3))
    updates = [*scheduler.step(), *scheduler.step(), *scheduler.step()]
    assert [drawn.token for drawn in drawn_of(updates)] == [10, 90, 12]
    assert drawn_of(updates)[0].logprob == -0.5
    assert drawn_of(updates)[1] == Drawn(90, 0.0, ((90, 0.0),))
    assert seen == [{}, {10: 1}, {10: 1, 90: 1}]


def test_a_guide_that_leaves_everything_free_changes_nothing() -> None:
    generation = generation_of(prompt_of(300), seeds=[3, 4], max_tokens=20)
    (free,) = run(scheduler_of(FakeEngine()), generation)
    guided = msgspec.structs.replace(generation, guides=(ScriptedGuide({}), ScriptedGuide({})))
    assert run(scheduler_of(FakeEngine()), guided) == [free]


# Forced tokens


def test_forced_tokens_are_computed_in_one_row_with_the_token_drawn_before_them() -> None:
    engine = FakeEngine(script=counting)
    guide = ScriptedGuide({1: [50, 51, 52]})
    (updates,) = run(scheduler_of(engine), generation_of([1, 2, 3], guides=(guide,), max_tokens=6))
    assert tokens_of(updates) == [10, 50, 51, 52, 14, 15]
    assert engine.steps == [[3], [4], [1]]


def test_an_answer_can_begin_with_forced_tokens() -> None:
    engine = FakeEngine(script=counting)
    guide = ScriptedGuide({0: [50, 51]})
    (updates,) = run(scheduler_of(engine), generation_of(prompt_of(140), guides=(guide,), max_tokens=4))
    assert tokens_of(updates) == [50, 51, 12, 13]
    assert engine.steps == [[128], [14], [1]]


@pytest.mark.parametrize("boundary", [100, 139, 140])
def test_the_prompt_s_boundaries_are_units_though_the_answer_begins_with_forced_tokens(boundary: int) -> None:
    scheduler = scheduler_of(FakeEngine())
    prompt = prompt_of(140)
    run(scheduler, generation_of(prompt, guides=(ScriptedGuide({0: [50, 51]}),), boundaries=(boundary,)))
    (other,) = run(scheduler, generation_of([*prompt[:boundary], 9, 9, 9]))
    assert hits_of(other) == boundary


def test_forced_tokens_are_certain_where_log_probabilities_are_wanted() -> None:
    for num_top, top in ((None, ()), (0, ()), (3, ((50, 0.0),))):
        guide = ScriptedGuide({1: [50]})
        draw = Draw(num_top_logprobs=num_top)
        (updates,) = run(scheduler_of(FakeEngine()), generation_of([1], guides=(guide,), draw=draw, max_tokens=3))
        assert drawn_of(updates)[1] == Drawn(50, None if num_top is None else 0.0, top)


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize("num_forced", [1, 31, 40, 127, 128, 129, 300])
@pytest.mark.parametrize("prompt_length", [1, 120, 128, 200])
def test_forced_tokens_cross_chunk_borders_and_come_out_as_if_drawn_one_by_one(
    prompt_length: int, num_forced: int, place: int
) -> None:
    forced = [(3 * index + 1) % VOCAB_SIZE for index in range(num_forced)]
    generation = generation_of(prompt_of(prompt_length), seeds=[7], max_tokens=num_forced + 8)
    (together,) = run(
        scheduler_of(FakeEngine()), msgspec.structs.replace(generation, guides=(ScriptedGuide({place: forced}),))
    )
    masks = {place + index: [token] for index, token in enumerate(forced)}
    (one_by_one,) = run(
        scheduler_of(FakeEngine()), msgspec.structs.replace(generation, guides=(ScriptedGuide({}, masks=masks),))
    )
    assert tokens_of(together)[place : place + num_forced] == forced
    assert together == one_by_one


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 5])
def test_forced_tokens_end_with_the_limit_of_the_result(max_tokens: int) -> None:
    guide = ScriptedGuide({1: [50, 51, 52]})
    engine = FakeEngine(script=counting)
    scheduler = scheduler_of(engine)
    (updates,) = run(scheduler, generation_of([1], guides=(guide,), max_tokens=max_tokens))
    assert tokens_of(updates) == [10, 50, 51, 52, 14][:max_tokens]
    assert ends_of(updates) == {0: "length"}
    assert_all_is_free(engine, scheduler)


def test_a_stop_token_among_the_forced_ones_ends_the_result_there() -> None:
    guide = ScriptedGuide({1: [50, 99, 52]})
    engine = FakeEngine(script=counting)
    (updates,) = run(scheduler_of(engine), generation_of([1], guides=(guide,), stop_tokens=frozenset({99})))
    assert tokens_of(updates) == [10, 50, 99]
    assert ends_of(updates) == {0: "stop"}
    assert engine.num_computed == 1  # nobody needs the logits after the others


def test_a_guide_is_not_asked_anything_after_the_end() -> None:
    guide = ScriptedGuide({})
    run(
        scheduler_of(FakeEngine(script=counting)),
        generation_of([1], guides=(guide,), stop_tokens=frozenset({11})),
    )
    assert guide.calls[-1] == "accept 11"


@pytest.mark.parametrize("prompt_length", [1, 2, 300])
def test_an_answer_that_is_forced_from_beginning_to_end_needs_no_draw(prompt_length: int) -> None:
    """Of several results too: the others used to be queued only when the first had computed its prompt."""
    engine = FakeEngine()
    scheduler = scheduler_of(engine)
    guides = tuple(ScriptedGuide({0: [50, 99]}) for _ in range(3))
    generation = generation_of(
        prompt_of(prompt_length), seeds=range(3), guides=guides, stop_tokens=frozenset({99}), boundaries=(100,)
    )
    (updates,) = run(scheduler, generation)
    assert [tokens_of(updates, result) for result in range(3)] == [[50, 99]] * 3
    assert ends_of(updates) == dict.fromkeys(range(3), "stop")
    assert scheduler.stats().tokens_forced == 6
    assert scheduler.stats().tokens_drawn == 0
    assert_all_is_free(engine, scheduler)


def test_what_a_result_with_forced_tokens_computed_is_a_unit_for_the_next_turn() -> None:
    scheduler = scheduler_of(FakeEngine())
    guide = ScriptedGuide({3: [50, 51, 99]})
    prompt = prompt_of(200)
    (first,) = run(scheduler, generation_of(prompt, guides=(guide,), stop_tokens=frozenset({99})))
    assert len(tokens_of(first)) == 6
    (second,) = run(scheduler, generation_of([*prompt, *tokens_of(first), 1, 2], max_tokens=1))
    assert hits_of(second) == 202  # all but the last token drawn and what followed it


def test_forced_tokens_are_told_apart_from_drawn_ones_in_the_statistics() -> None:
    scheduler = scheduler_of(FakeEngine())
    guide = ScriptedGuide({0: [1, 2], 4: [3]})
    run(scheduler, generation_of(prompt_of(130), guides=(guide,), max_tokens=8))
    stats = scheduler.stats()
    assert (stats.tokens_drawn, stats.tokens_forced) == (5, 3)
    assert stats.prompt_tokens_computed == 130


# In company


def test_every_result_has_a_guide_of_its_own() -> None:
    guides = (ScriptedGuide({0: [50]}), ScriptedGuide({1: [60, 61]}), ScriptedGuide({}, masks={0: [70]}))
    generation = generation_of(prompt_of(200), seeds=range(3), guides=guides, max_tokens=4)
    (updates,) = run(scheduler_of(FakeEngine(script=counting)), generation)
    assert [tokens_of(updates, result) for result in range(3)] == [
        [50, 11, 12, 13],
        [10, 60, 61, 13],
        [70, 11, 12, 13],
    ]


def test_a_generation_has_a_guide_for_each_result_or_none() -> None:
    scheduler = scheduler_of(FakeEngine())
    with pytest.raises(ValueError, match="guide for each result"):
        scheduler.add(GenerationId(0), generation_of([1], seeds=range(2), guides=(ScriptedGuide({}),)))


def test_a_few_forced_tokens_ride_in_every_step_and_long_ones_take_turns_with_prompts() -> None:
    """Otherwise a forced text of a thousand tokens would hold everybody's next token up like a prompt of a thousand."""
    engine = FakeEngine(script=counting)
    times = itertools.count()
    # Each reading of the clock is a second later: steps look far too slow, so the allowance shrinks to nothing.
    scheduler = scheduler_of(engine, clock=lambda: next(times))
    short = ScriptedGuide({place: [50] * (FORCED_ROW_TOKENS - 1) for place in range(1, 500, FORCED_ROW_TOKENS)})
    long = ScriptedGuide({1: [60] * 300})
    scheduler.add(GenerationId(0), generation_of([1], guides=(short,), max_tokens=200))
    scheduler.add(GenerationId(1), generation_of([2], guides=(long,), max_tokens=302))
    finish(scheduler)
    assert engine.steps[:2] == [[1, 1], [FORCED_ROW_TOKENS, CHUNK_TOKENS - 1]]  # nothing is known yet
    assert engine.steps[2:4] == [[FORCED_ROW_TOKENS, SHORTEST_ROW_TOKENS]] * 2


@settings(max_examples=40, deadline=None)
@given(
    scripts=st.lists(
        st.dictionaries(st.integers(0, 30), st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=40), max_size=5),
        min_size=2,
        max_size=5,
    ),
    lengths=st.lists(st.integers(1, 300), min_size=5, max_size=5),
    max_sequences=st.integers(1, 5),
    capacity_tokens=st.integers(1300, 4000),
)
def test_guided_answers_are_the_same_alone_and_in_any_company_and_memory(
    scripts: list[dict[int, list[int]]], lengths: list[int], max_sequences: int, capacity_tokens: int
) -> None:
    """Preempted results go on where they were: their guides keep their state, and nothing is asked twice."""
    generations = [
        generation_of(prompt_of(length, first=index), seeds=[index], max_tokens=150, guides=(ScriptedGuide(script),))
        for index, (script, length) in enumerate(zip(scripts, lengths, strict=False))
    ]
    alone = [
        tokens_of(
            run(scheduler_of(FakeEngine()), msgspec.structs.replace(generation, guides=(ScriptedGuide(script),)))[0]
        )
        for generation, script in zip(generations, scripts, strict=True)
    ]
    engine = FakeEngine(capacity_tokens=capacity_tokens, max_context=1024)
    scheduler = scheduler_of(engine, max_sequences=max_sequences)
    together = run(scheduler, *generations)
    assert [tokens_of(updates) for updates in together] == alone
    assert scheduler.stats().faults == 0
    assert_all_is_free(engine, scheduler)


def test_a_preempted_result_keeps_what_its_guide_knows() -> None:
    generations = [
        generation_of(prompt_of(20, first=first), max_tokens=400, guides=(ScriptedGuide({0: [9, 8], 100: [50] * 50}),))
        for first in range(4)
    ]
    engine = FakeEngine(capacity_tokens=1100, max_context=1024)
    scheduler = scheduler_of(engine)
    together = run(scheduler, *generations)
    assert scheduler.stats().preemptions > 0
    for generation, updates in zip(generations, together, strict=True):
        (guide,) = generation.guides
        assert isinstance(guide, ScriptedGuide)
        assert guide.output == tokens_of(updates)
        assert len([call for call in guide.calls if call.startswith("accept")]) == 400 - 52


# Faults


class Panic(BaseException):
    """What libraries written in Rust raise when they give up is no Exception."""


@pytest.mark.parametrize("fault", [KeyError, Panic])
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("call", range(25))
def test_a_guide_that_raises_at_any_call_ends_its_own_result_only(
    call: int, is_late: bool, fault: type[BaseException]
) -> None:
    def guides(failing_call: int | None) -> tuple[TokenGuide, ...]:
        scripts: list[dict[int, list[int]]] = [{0: [50], 3: [51, 52]}, {2: [60]}, {}]
        return tuple(
            ScriptedGuide(script, failing_call=failing_call if number == 1 else None, fault=fault, is_late=is_late)
            for number, script in enumerate(scripts)
        )

    generation = generation_of(prompt_of(150), seeds=range(3), max_tokens=9, guides=guides(None))
    (clean,) = run(scheduler_of(FakeEngine()), generation)
    engine = FakeEngine()
    scheduler = scheduler_of(engine)
    (faulty, other) = run(
        scheduler,
        msgspec.structs.replace(generation, guides=guides(call)),
        generation_of(prompt_of(100), max_tokens=12),
    )
    (other_alone,) = run(scheduler_of(FakeEngine()), generation_of(prompt_of(100), max_tokens=12))
    assert tokens_of(other) == tokens_of(other_alone)
    for result in (0, 2):
        assert tokens_of(faulty, result) == tokens_of(clean, result)
    num_calls = 24
    expected = "failed" if call < num_calls else "length"
    assert ends_of(faulty) == {0: "length", 1: expected, 2: "length"}
    if call < num_calls:
        assert tokens_of(clean, 1)[: len(tokens_of(faulty, 1))] == tokens_of(faulty, 1)
        (ended,) = [p for _, p in faulty if isinstance(p, ResultEnded) and p.reason == "failed"]
        assert isinstance(ended.error, EngineFailure)
        assert "constraint" in ended.error.message
        assert "scripted" not in ended.error.message
    assert_all_is_free(engine, scheduler)


@pytest.mark.parametrize("token", [-1, VOCAB_SIZE, 1 << 40])
def test_a_guide_that_forces_what_is_no_token_ends_its_own_result_only(token: int) -> None:
    scheduler = scheduler_of(FakeEngine())
    broken, fine = run(
        scheduler, generation_of([1], guides=(ScriptedGuide({2: [token]}),)), generation_of([2], max_tokens=8)
    )
    assert ends_of(broken) == {0: "failed"}
    assert ends_of(fine) == {0: "length"}


@pytest.mark.parametrize("tears", [False, True])
@pytest.mark.parametrize("failing_step", range(12))
def test_a_step_that_fails_once_leaves_guided_answers_as_they_are(failing_step: int, tears: bool) -> None:
    def generations() -> list[Generation]:
        return [
            generation_of(
                prompt_of(length, first=length % 7),
                max_tokens=20,
                guides=(ScriptedGuide({1: [5] * 7, 12: [6, 7]}, masks={9: [3, 4]}),),
            )
            for length in (150, 40, 125)
        ]

    alone = [tokens_of(run(scheduler_of(FakeEngine()), generation)[0]) for generation in generations()]
    has_failed = False

    def fail(number: int, histories: list[list[int]]) -> None:
        nonlocal has_failed
        if number >= failing_step and len(histories) > 1 and not has_failed:
            has_failed = True
            raise EngineFailure("once")

    engine = FakeEngine(fail_step=fail, tears=tears)
    scheduler = scheduler_of(engine)
    assert [tokens_of(updates) for updates in run(scheduler, *generations())] == alone
    assert_all_is_free(engine, scheduler)
