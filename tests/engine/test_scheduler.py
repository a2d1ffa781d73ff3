from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from deepserve.core.errors import EngineFailure
from deepserve.core.tenant import TenantId
from deepserve.engine.generation import (
    Admitted,
    Generation,
    GenerationId,
    Progress,
    ResultEnded,
    TokenDrawn,
    TokenGuide,
)
from deepserve.engine.interface import CHUNK_TOKENS, Draw, SequenceId, Snapshot
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.scheduler import Scheduler
from deepserve.engine.step_pace import SHORTEST_ROW_TOKENS, StepPace
from tests.engine.fake_engine import VOCAB_SIZE, FakeEngine, FakeSnapshot, hashed_token

Updates = list[tuple[GenerationId, Progress]]


def scheduler_of(
    engine: FakeEngine, *, max_sequences: int = 8, clock: Callable[[], float] = lambda: 0.0, target_s: float = 0.05
) -> Scheduler:
    return Scheduler(
        engine,
        max_sequences=max_sequences,
        clock=clock,
        pace=StepPace(target_s=target_s),
    )


def prompt_of(length: int, *, first: int = 1) -> list[int]:
    return [first, *((7 * index + 13 * (index // 31)) % VOCAB_SIZE for index in range(1, length))]


def generation_of(
    prompt: Sequence[int],
    *,
    max_tokens: int = 8,
    seeds: Sequence[int] = (0,),
    tenant: str = "a",
    stop_tokens: frozenset[int] = frozenset(),
    boundaries: tuple[int, ...] = (),
    guides: tuple[TokenGuide, ...] = (),
    draw: Draw | None = None,
) -> Generation:
    return Generation(
        prompt=prompt,
        draws=tuple(msgspec.structs.replace(draw or Draw(), seed=seed) for seed in seeds),
        max_tokens=max_tokens,
        stop_tokens=stop_tokens,
        boundaries=boundaries,
        guides=guides,
        cache_key=CacheKey(tenant=TenantId(tenant), user_id=None, model="m", profile="mini", fingerprint="f"),
    )


def finish(scheduler: Scheduler) -> Updates:
    """Step until nothing changes any more."""
    updates: Updates = []
    for _ in range(20_000):
        updates += scheduler.step()
        if not scheduler.made_progress:
            return updates
    raise AssertionError("the scheduler does not come to an end")


def run(scheduler: Scheduler, *generations: Generation) -> list[Updates]:
    """Run generations together; the updates of each."""
    for index, generation in enumerate(generations):
        scheduler.add(GenerationId(index), generation)
    updates = finish(scheduler)
    return [[(id_, progress) for id_, progress in updates if id_ == index] for index in range(len(generations))]


def tokens_of(updates: Updates, result: int = 0) -> list[int]:
    drawn = [progress for _, progress in updates if isinstance(progress, TokenDrawn)]
    return [progress.drawn.token for progress in drawn if progress.result == result]


def ends_of(updates: Updates) -> dict[int, str]:
    ends = [progress for _, progress in updates if isinstance(progress, ResultEnded)]
    assert len({ended.result for ended in ends}) == len(ends), "a result ended twice"
    return {ended.result: ended.reason for ended in ends}


def hits_of(updates: Updates) -> int:
    (admitted,) = [progress for _, progress in updates if isinstance(progress, Admitted)]
    return admitted.hit_tokens


def assert_all_is_free(engine: FakeEngine, scheduler: Scheduler) -> None:
    assert not engine.sequences
    assert len(engine.snapshots) == scheduler.stats().cache_snapshots
    scheduler.close()
    assert not engine.snapshots


def test_a_prompt_is_continued_as_the_engine_alone_would() -> None:
    engine = FakeEngine()
    prompt = prompt_of(300)
    (updates,) = run(scheduler_of(engine), generation_of(prompt, max_tokens=5, seeds=[3]))
    history = list(prompt)
    for position in range(5):
        history.append(hashed_token(history, Draw(seed=3, position=position)))
    assert tokens_of(updates) == history[300:]
    assert ends_of(updates) == {0: "length"}
    assert hits_of(updates) == 0


def test_rows_end_at_absolute_multiples_of_the_chunk_and_at_boundaries() -> None:
    engine = FakeEngine()
    run(scheduler_of(engine), generation_of(prompt_of(300), boundaries=(200,), max_tokens=3))
    assert engine.steps == [[128], [72], [56], [44], [1], [1]]


def test_a_stop_token_ends_a_result_and_is_its_last_token() -> None:
    engine = FakeEngine(script=lambda history, draw: [5, 6, 9, 7][draw.position])
    (updates,) = run(scheduler_of(engine), generation_of([1, 2], stop_tokens=frozenset({9})))
    assert tokens_of(updates) == [5, 6, 9]
    assert ends_of(updates) == {0: "stop"}


def test_prefill_goes_on_beside_decoding_one_row_at_least_in_every_step() -> None:
    """A long prompt neither waits for others to finish nor keeps them waiting."""
    engine = FakeEngine()
    times = itertools.count()
    # Each reading of the clock is a second later: steps look far too slow, so the allowance shrinks to nothing.
    scheduler = scheduler_of(engine, clock=lambda: next(times))
    scheduler.add(GenerationId(0), generation_of(prompt_of(4), max_tokens=100))
    for _ in range(3):
        scheduler.step()
    scheduler.add(GenerationId(1), generation_of(prompt_of(1000, first=2), max_tokens=1))
    for _ in range(8):
        scheduler.step()
    assert engine.steps[3:11] == [[1, SHORTEST_ROW_TOKENS]] * 8


def test_steps_hold_as_many_chunks_as_fit_the_target() -> None:
    now = 0.0
    engine = FakeEngine()

    def clock() -> float:
        # A thousandth of a second for each token computed so far.
        return now + engine.num_computed / 1000

    scheduler = scheduler_of(engine, clock=clock, target_s=0.5)
    run(scheduler, *(generation_of(prompt_of(1024, first=first), max_tokens=1) for first in range(6)))
    sizes = [sum(rows) for rows in engine.steps]
    assert sizes[0] == 128  # nothing is known yet
    assert set(sizes[1:-5]) == {384}  # three chunks are 0.384 s, four would be 0.512 s
    assert scheduler.stats().longest_step_s == pytest.approx(0.384)


def test_rows_shrink_where_a_whole_chunk_would_take_longer_than_a_step_may() -> None:
    """128 tokens deep in a history of 100,000 took a quarter of a second; every reader waited for them."""
    engine = FakeEngine()
    seconds = 0.0

    def a_millisecond_a_token(number: int, histories: list[list[int]]) -> None:
        nonlocal seconds
        seconds += sum(engine.steps[number]) / 1000

    engine.fail_step = a_millisecond_a_token
    scheduler = scheduler_of(engine, clock=lambda: seconds)
    (updates,) = run(scheduler, generation_of(prompt_of(1000), max_tokens=1))
    assert [rows[0] for rows in engine.steps[:4]] == [CHUNK_TOKENS, *[SHORTEST_ROW_TOKENS] * 3]
    (alone,) = run(scheduler_of(FakeEngine()), generation_of(prompt_of(1000), max_tokens=1))
    assert updates == alone


def test_short_prompts_overtake_a_long_one() -> None:
    engine = FakeEngine()
    scheduler = scheduler_of(engine)
    scheduler.add(GenerationId(0), generation_of(prompt_of(5000), max_tokens=1))
    scheduler.step()
    scheduler.add(GenerationId(1), generation_of(prompt_of(10, first=2), max_tokens=1))
    updates = [*scheduler.step(), *scheduler.step()]
    assert (GenerationId(1), ResultEnded(result=0, reason="length")) in updates


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=2, max_size=5),
    max_sequences=st.integers(1, 5),
    delays=st.lists(st.integers(0, 4), min_size=5, max_size=5),
    num_results=st.integers(1, 3),
)
def test_the_same_request_gives_the_same_tokens_alone_and_in_any_company(
    lengths: list[int], max_sequences: int, delays: list[int], num_results: int
) -> None:
    generations = [
        generation_of(
            prompt_of(length, first=index % 2), seeds=range(index, index + num_results), boundaries=(length // 2,)
        )
        for index, length in enumerate(lengths)
    ]
    alone = [run(scheduler_of(FakeEngine()), generation)[0] for generation in generations]
    engine = FakeEngine()
    scheduler = scheduler_of(engine, max_sequences=max_sequences)
    updates: Updates = []
    for index, generation in enumerate(generations):
        scheduler.add(GenerationId(index), generation)
        for _ in range(delays[index]):
            updates += scheduler.step()
    updates += finish(scheduler)
    for index in range(len(generations)):
        mine = [update for update in updates if update[0] == index]
        for result in range(num_results):
            assert tokens_of(mine, result) == tokens_of(alone[index], result)
    assert_all_is_free(engine, scheduler)


def test_no_more_results_run_than_allowed_and_the_others_follow() -> None:
    engine = FakeEngine()
    all_updates = run(scheduler_of(engine, max_sequences=2), *(generation_of([first]) for first in range(5)))
    assert all(ends_of(updates) == {0: "length"} for updates in all_updates)
    assert max(len(rows) for rows in engine.steps) == 2


def test_tenants_take_turns() -> None:
    """One tenant's hundred requests do not make another tenant's single one wait."""
    scheduler = scheduler_of(FakeEngine(), max_sequences=1)
    for index in range(6):
        scheduler.add(GenerationId(index), generation_of([index], tenant="busy", max_tokens=1))
    scheduler.add(GenerationId(6), generation_of([6], tenant="calm", max_tokens=1))
    scheduler.add(GenerationId(7), generation_of([7], tenant="third", max_tokens=1))
    order = [id_ for id_, progress in finish(scheduler) if isinstance(progress, Admitted)]
    assert order == [0, 6, 7, 1, 2, 3, 4, 5]


def test_cancelling_frees_the_sequence_before_the_next_step() -> None:
    engine = FakeEngine()
    scheduler = scheduler_of(engine)
    scheduler.add(GenerationId(0), generation_of([1], max_tokens=1000))
    scheduler.add(GenerationId(1), generation_of([2], max_tokens=1000))
    scheduler.step()
    assert len(engine.sequences) == 2
    scheduler.cancel(GenerationId(0))
    assert len(engine.sequences) == 1
    assert [id_ for id_, _ in scheduler.step()] == [1]
    scheduler.cancel(GenerationId(1))
    assert scheduler.step() == []
    assert not scheduler.made_progress
    assert_all_is_free(engine, scheduler)


@pytest.mark.parametrize("num_steps", range(12))
def test_cancelling_at_any_step_leaves_nothing_behind(num_steps: int) -> None:
    engine = FakeEngine()
    scheduler = scheduler_of(engine, max_sequences=2)
    scheduler.add(GenerationId(0), generation_of(prompt_of(300), seeds=range(4), max_tokens=3))
    for _ in range(num_steps):
        scheduler.step()
    scheduler.cancel(GenerationId(0))
    scheduler.step()
    assert_all_is_free(engine, scheduler)


def test_results_of_one_prompt_share_its_computation() -> None:
    engine = FakeEngine()
    (updates,) = run(scheduler_of(engine), generation_of(prompt_of(300), seeds=[5, 6, 7], max_tokens=4))
    assert ends_of(updates) == {0: "length", 1: "length", 2: "length"}
    # 299 shared tokens once; then for each result the prompt's last token and three of its own.
    assert engine.num_computed == 299 + 3 * 4
    for result, seed in enumerate([5, 6, 7]):
        (single,) = run(scheduler_of(FakeEngine()), generation_of(prompt_of(300), seeds=[seed], max_tokens=4))
        assert tokens_of(updates, result) == tokens_of(single)
    assert len({tuple(tokens_of(updates, result)) for result in range(3)}) == 3


def test_a_prompt_of_one_token_has_several_results_too() -> None:
    """They share nothing: the others used to be queued after the first one's shared part, which never came."""
    engine = FakeEngine()
    scheduler = scheduler_of(engine)
    (updates,) = run(scheduler, generation_of([7], seeds=range(3), max_tokens=2))
    assert ends_of(updates) == dict.fromkeys(range(3), "length")
    assert sum(isinstance(progress, Admitted) for _, progress in updates) == 1
    assert_all_is_free(engine, scheduler)


def test_several_results_of_a_prompt_that_is_cached_but_for_its_last_token() -> None:
    """A hit right before the last token used to skip the place where the other results were queued."""
    scheduler = scheduler_of(FakeEngine())
    generation = generation_of(prompt_of(200), seeds=range(3), boundaries=(199,))
    (cold,) = run(scheduler, generation)
    (warm,) = run(scheduler, generation)
    assert hits_of(warm) == 199
    assert [tokens_of(warm, result) for result in range(3)] == [tokens_of(cold, result) for result in range(3)]


def test_more_results_than_places_are_computed_in_turn() -> None:
    engine = FakeEngine()
    scheduler = scheduler_of(engine, max_sequences=3)
    (updates,) = run(scheduler, generation_of(prompt_of(200), seeds=range(16), max_tokens=3))
    assert len(ends_of(updates)) == 16
    assert engine.num_computed == 199 + 16 * 3
    assert_all_is_free(engine, scheduler)


# Prefix index


def test_a_second_turn_restores_everything_the_first_one_computed() -> None:
    """The unit at the end of a request holds all but its last token, which nobody has computed."""
    engine = FakeEngine()
    scheduler = scheduler_of(engine)
    prompt = prompt_of(300)
    (first,) = run(scheduler, generation_of(prompt, max_tokens=10))
    computed = engine.num_computed
    (second,) = run(scheduler, generation_of([*prompt, *tokens_of(first), 1, 2, 3], max_tokens=1))
    assert hits_of(second) == 309
    assert engine.num_computed - computed == 1 + 3


def test_an_equal_prompt_computes_at_least_its_last_token() -> None:
    engine = FakeEngine()
    scheduler = scheduler_of(engine)
    prompt = prompt_of(256)
    generation = generation_of(prompt, max_tokens=4, boundaries=(255, 256))
    (cold,) = run(scheduler, generation)
    (warm,) = run(scheduler, generation)
    assert hits_of(warm) == 255
    assert tokens_of(warm) == tokens_of(cold)


def test_a_boundary_of_the_prompt_is_a_unit() -> None:
    scheduler = scheduler_of(FakeEngine())
    prompt = prompt_of(300)
    run(scheduler, generation_of(prompt, boundaries=(200,)))
    (other,) = run(scheduler, generation_of([*prompt[:200], 9, 9, 9]))
    assert hits_of(other) == 200


def test_a_common_beginning_becomes_a_unit_when_a_second_prompt_shares_it() -> None:
    """A+B, then A+C, then A+D, as api-docs.deepseek.com/guides/kv_cache describes it.

    The interval is wider than the prompts here, so nothing else can hit. A unit ends at a multiple of 128.
    """
    engine = FakeEngine(capacity_states=30)
    scheduler = scheduler_of(engine)
    assert scheduler.snapshot_interval > 1000
    shared = prompt_of(300)
    hits = [
        hits_of(run(scheduler, generation_of([*shared, *prompt_of(50, first=first)], max_tokens=1))[0])
        for first in (200, 201, 202)
    ]
    assert hits == [0, 0, 256]


def test_near_its_beginning_a_prompt_leaves_units_at_every_chunk() -> None:
    """With memory for some hundred states two short prompts that differ at their end share all but a chunk."""
    scheduler = scheduler_of(FakeEngine(capacity_states=320))
    assert scheduler.snapshot_interval > 300
    shared = prompt_of(1500)
    run(scheduler, generation_of([*shared, 1], max_tokens=1))
    for length, hit in ((300, 256), (1270, 1152), (1450, 1280)):
        (other,) = run(scheduler, generation_of([*shared[:length], 9], max_tokens=1))
        assert hits_of(other) == hit


def test_long_prompts_leave_units_at_the_interval() -> None:
    scheduler = scheduler_of(FakeEngine())
    assert scheduler.snapshot_interval == 128
    prompt = prompt_of(1000)
    run(scheduler, generation_of(prompt, max_tokens=1))
    (other,) = run(scheduler, generation_of([*prompt[:700], 9], max_tokens=1))
    assert hits_of(other) == 640


def test_what_another_tenant_computed_is_never_hit() -> None:
    scheduler = scheduler_of(FakeEngine())
    prompt = prompt_of(300)
    run(scheduler, generation_of(prompt, tenant="a"))
    (other,) = run(scheduler, generation_of(prompt, tenant="b"))
    assert hits_of(other) == 0
    (own,) = run(scheduler, generation_of(prompt, tenant="a"))
    assert hits_of(own) == 256


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 3), st.integers(1, 40)), min_size=2, max_size=8))
def test_tokens_are_the_same_cold_and_after_any_hit(turns: list[tuple[int, int, int]]) -> None:
    scheduler = scheduler_of(FakeEngine(capacity_tokens=1400, max_context=1024))
    base = prompt_of(500)
    for keep, first, tail in turns:
        generation = generation_of([*base[:keep], *prompt_of(tail, first=first)], max_tokens=3, boundaries=(keep,))
        (warm,) = run(scheduler, generation)
        (cold,) = run(scheduler_of(FakeEngine()), generation)
        assert tokens_of(warm) == tokens_of(cold)


# Memory


def test_cached_prefixes_give_way_to_running_results() -> None:
    engine = FakeEngine(capacity_tokens=1000, max_context=2048)
    scheduler = scheduler_of(engine)
    for first in range(12):
        (updates,) = run(scheduler, generation_of(prompt_of(600, first=first), max_tokens=2))
        assert ends_of(updates) == {0: "length"}
    assert scheduler.stats().cache_evictions > 0
    assert engine.most_used <= 1


def test_results_that_outgrow_the_memory_are_computed_again_and_come_out_the_same() -> None:
    """Four answers of 400 tokens do not fit side by side; the youngest are preempted and replayed."""
    generations = [generation_of(prompt_of(20, first=first), max_tokens=400, seeds=[first]) for first in range(4)]
    alone = [tokens_of(run(scheduler_of(FakeEngine()), generation)[0]) for generation in generations]
    engine = FakeEngine(capacity_tokens=1100, max_context=1024)
    scheduler = scheduler_of(engine)
    together = [tokens_of(updates) for updates in run(scheduler, *generations)]
    assert together == alone
    assert scheduler.stats().preemptions > 0
    assert scheduler.stats().faults == 0
    assert engine.most_used <= 1
    assert_all_is_free(engine, scheduler)


def test_the_longest_history_that_is_admitted_fits_whatever_was_cached_before() -> None:
    engine = FakeEngine(capacity_tokens=1000, max_context=100_000)
    scheduler = scheduler_of(engine)
    assert 0 < scheduler.capacity_tokens < 800
    for first in range(3):
        prompt = prompt_of(scheduler.capacity_tokens - 40, first=first)
        (updates,) = run(scheduler, generation_of(prompt, max_tokens=40))
        assert ends_of(updates) == {0: "length"}


def test_several_results_that_do_not_fit_together_are_computed_all_the_same() -> None:
    generation = generation_of(prompt_of(300), seeds=range(4), max_tokens=200)
    (alone,) = run(scheduler_of(FakeEngine()), generation)
    engine = FakeEngine(capacity_tokens=1000, max_context=1024)
    scheduler = scheduler_of(engine)
    (updates,) = run(scheduler, generation)
    assert ends_of(updates) == dict.fromkeys(range(4), "length")
    assert [tokens_of(updates, result) for result in range(4)] == [tokens_of(alone, result) for result in range(4)]
    assert_all_is_free(engine, scheduler)


# Faults


def victims(prompts: Mapping[int, Sequence[int]]) -> Callable[[int, list[list[int]]], None]:
    """Raise whenever generation 0 takes part, as a fault does that follows from one row's content."""

    def fail(number: int, histories: list[list[int]]) -> None:
        if any(history[0] == prompts[0][0] and len(history) >= 310 for history in histories):
            raise RuntimeError("kernel failure with secret details")

    return fail


def test_a_row_that_makes_the_step_raise_ends_alone() -> None:
    prompts = {index: prompt_of(300, first=index) for index in range(3)}
    engine = FakeEngine(fail_step=victims(prompts))
    scheduler = scheduler_of(engine)
    all_updates = run(scheduler, *(generation_of(prompts[index], max_tokens=30) for index in range(3)))
    assert [ends_of(updates) for updates in all_updates] == [{0: "failed"}, {0: "length"}, {0: "length"}]
    error = next(p.error for _, p in all_updates[0] if isinstance(p, ResultEnded))
    assert isinstance(error, EngineFailure)
    assert "secret" not in error.message
    for index in (1, 2):
        (alone,) = run(scheduler_of(FakeEngine()), generation_of(prompts[index], max_tokens=30))
        assert tokens_of(all_updates[index]) == tokens_of(alone)
    assert_all_is_free(engine, scheduler)


@pytest.mark.parametrize("tears", [False, True])
@pytest.mark.parametrize("failing_step", range(16))
def test_one_failing_step_at_any_place_costs_at_most_nothing(failing_step: int, tears: bool) -> None:
    """A step fails once as a whole; sent again row by row, or recomputed if the engine tore it, all come out right."""
    generations = [generation_of(prompt_of(length, first=length % 7), max_tokens=6) for length in (150, 40, 270)]
    alone = [tokens_of(run(scheduler_of(FakeEngine()), generation)[0]) for generation in generations]
    has_failed = False

    def fail(number: int, histories: list[list[int]]) -> None:
        nonlocal has_failed
        if number >= failing_step and len(histories) > 1 and not has_failed:
            has_failed = True
            raise EngineFailure("once")

    engine = FakeEngine(fail_step=fail, tears=tears)
    scheduler = scheduler_of(engine)
    together = [tokens_of(updates) for updates in run(scheduler, *generations)]
    assert together == alone
    assert_all_is_free(engine, scheduler)


@pytest.mark.parametrize("failing_step", range(10))
def test_a_fault_at_any_step_ends_one_generation_and_leaves_the_others_untouched(failing_step: int) -> None:
    generations = [
        generation_of(prompt_of(length, first=length % 7), max_tokens=6, seeds=range(number))
        for length, number in ((150, 1), (40, 2), (270, 1))
    ]
    clean = run(scheduler_of(FakeEngine()), *generations)
    steps = itertools.count()

    def is_faulty(history: Sequence[int]) -> bool:
        return history[0] == 40 % 7 and len(history) >= 36 + failing_step and next(steps) == 0

    engine = FakeEngine(faulty=is_faulty)
    scheduler = scheduler_of(engine)
    faulty = run(scheduler, *generations)
    assert faulty[0] == clean[0]
    assert faulty[2] == clean[2]
    reasons = list(ends_of(faulty[1]).values())
    assert reasons.count("failed") == (2 if failing_step < 4 else 1)  # both when their common prompt failed
    assert scheduler.stats().faults == 1
    assert_all_is_free(engine, scheduler)


def test_a_fault_in_the_shared_prompt_ends_every_result_once() -> None:
    engine = FakeEngine(faulty=lambda history: len(history) > 100)
    scheduler = scheduler_of(engine)
    (updates,) = run(scheduler, generation_of(prompt_of(300), seeds=range(3)))
    assert ends_of(updates) == dict.fromkeys(range(3), "failed")
    assert_all_is_free(engine, scheduler)


def test_a_lost_snapshot_is_not_a_lost_answer() -> None:
    class Forgetful(FakeEngine):
        @override
        def snapshot(self, sequence: SequenceId) -> FakeSnapshot:
            raise MemoryError

    (updates,) = run(scheduler_of(Forgetful()), generation_of(prompt_of(300), boundaries=(100,)))
    assert ends_of(updates) == {0: "length"}


def test_an_engine_that_cannot_even_free_takes_nobody_down() -> None:
    class Stubborn(FakeEngine):
        @override
        def free(self, sequence: SequenceId) -> None:
            raise RuntimeError

        @override
        def release(self, snapshot: Snapshot) -> None:
            raise RuntimeError

    scheduler = scheduler_of(Stubborn())
    (updates,) = run(scheduler, generation_of(prompt_of(300), seeds=range(3)))
    assert ends_of(updates) == dict.fromkeys(range(3), "length")
    scheduler.close()


def test_abandoning_ends_everything_with_the_given_error() -> None:
    engine = FakeEngine()
    scheduler = scheduler_of(engine, max_sequences=1)
    for index in range(3):
        scheduler.add(GenerationId(index), generation_of([index], seeds=range(2)))
    scheduler.step()
    ends = [progress for _, progress in scheduler.abandon(EngineFailure("over")) if isinstance(progress, ResultEnded)]
    assert len(ends) == 6
    assert {str(ended.error) for ended in ends} == {"over"}
    assert_all_is_free(engine, scheduler)


# Draws


def test_penalties_see_what_was_drawn_and_the_prompt() -> None:
    seen: list[tuple[frozenset[int], dict[int, int], int]] = []

    def script(history: Sequence[int], draw: Draw) -> int:
        seen.append((draw.prompt_tokens, dict(draw.output_counts), draw.position))
        return [5, 5, 8][draw.position]

    draw = Draw(repetition_penalty=1.1, frequency_penalty=0.5)
    run(scheduler_of(FakeEngine(script=script)), generation_of([1, 2, 2], draw=draw, max_tokens=3))
    prompt = frozenset({1, 2})
    assert seen == [(prompt, {}, 0), (prompt, {5: 1}, 1), (prompt, {5: 2}, 2)]


def test_a_paused_generation_waits_and_the_others_go_on() -> None:
    scheduler = scheduler_of(FakeEngine())
    scheduler.add(GenerationId(0), generation_of([1], max_tokens=5))
    scheduler.add(GenerationId(1), generation_of([2], max_tokens=5))
    scheduler.step()
    scheduler.pause(GenerationId(0))
    assert {id_ for id_, _ in finish(scheduler)} == {1}
    scheduler.resume(GenerationId(0))
    assert ends_of(finish(scheduler)) == {0: "length"}


def test_stats_tell_what_happened() -> None:
    scheduler = scheduler_of(FakeEngine(), max_sequences=1)
    scheduler.add(GenerationId(0), generation_of(prompt_of(300), max_tokens=4))
    scheduler.add(GenerationId(1), generation_of(prompt_of(300), max_tokens=4))
    scheduler.step()
    stats = scheduler.stats()
    assert (stats.running, stats.waiting, stats.steps) == (1, 1, 1)
    finish(scheduler)
    stats = scheduler.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.tokens_drawn == 8
    assert stats.prompt_tokens_restored == 2 * CHUNK_TOKENS
    assert stats.prompt_tokens_computed == 300 + 44
    assert stats.cache_bytes > 0
    assert 0 < stats.memory_free_ratio < 1


def test_states_can_be_what_is_scarce() -> None:
    """Snapshots and sequences share a fixed number of places; the snapshots give way, the youngest result waits."""
    generations = [generation_of(prompt_of(700, first=first), seeds=range(2), max_tokens=5) for first in range(6)]
    engine = FakeEngine(capacity_states=6)
    scheduler = scheduler_of(engine)
    together = run(scheduler, *generations)
    assert [ends_of(updates) for updates in together] == [{0: "length", 1: "length"}] * 6
    assert engine.most_used <= 1
    assert scheduler.stats().faults == 0
    assert_all_is_free(engine, scheduler)


@pytest.mark.parametrize("capacity_states", [2, 4, 8])
def test_results_beyond_the_states_wait_and_are_not_started_to_be_preempted(capacity_states: int) -> None:
    """With as many places as states the last one was started and preempted again in every step."""
    scheduler = scheduler_of(FakeEngine(capacity_states=capacity_states), max_sequences=8)
    run(scheduler, *(generation_of(prompt_of(300, first=first), max_tokens=20) for first in range(12)))
    assert scheduler.stats().preemptions == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), capacity_states=st.integers(4, 40), capacity_tokens=st.integers(1300, 6000))
def test_whatever_happens_every_answer_is_right_or_failed_for_a_reason(
    seed: int, capacity_states: int, capacity_tokens: int
) -> None:
    """Random prompts, arrivals, cancellations, pauses and failing steps, in a memory that is always too small."""
    randomness = random.Random(seed)
    base = prompt_of(700)
    generations = [
        generation_of(
            [*base[: randomness.choice([0, 100, 128, 300, 600])], *prompt_of(randomness.randint(1, 300), first=number)],
            max_tokens=randomness.randint(1, 60),
            seeds=range(number, number + randomness.choice([1, 1, 2, 4])),
            tenant=randomness.choice("abc"),
            boundaries=(randomness.randint(1, 600),),
        )
        for number in range(8)
    ]

    def fail(number: int, histories: list[list[int]]) -> None:
        if len(histories) > 1 and randomness.random() < 0.05:
            raise EngineFailure("now and then")

    engine = FakeEngine(
        capacity_states=capacity_states,
        capacity_tokens=capacity_tokens,
        max_context=1024,
        fail_step=fail,
        tears=randomness.random() < 0.3,
    )
    scheduler = scheduler_of(engine, max_sequences=randomness.randint(1, 8))
    updates: Updates = []
    cancelled: set[int] = set()
    for number, generation in enumerate(generations):
        scheduler.add(GenerationId(number), generation)
        for _ in range(randomness.randint(0, 30)):
            updates += scheduler.step()
        if randomness.random() < 0.2:
            cancelled.add(randomness.randint(0, number))
            for left in cancelled:
                scheduler.cancel(GenerationId(left))
        if randomness.random() < 0.3:
            scheduler.pause(GenerationId(number))
    for number in range(len(generations)):
        scheduler.resume(GenerationId(number))
    updates += finish(scheduler)
    num_lost = 0
    for number, generation in enumerate(generations):
        if number in cancelled:
            continue
        mine = [update for update in updates if update[0] == number]
        ends = ends_of(mine)
        assert set(ends) == set(range(len(generation.draws)))
        for result, reason in ends.items():
            if reason == "failed":
                num_lost += 1
                continue
            (alone,) = run(
                scheduler_of(FakeEngine()),
                msgspec.structs.replace(generation, draws=generation.draws[result : result + 1]),
            )
            assert tokens_of(mine, result) == tokens_of(alone)
    assert num_lost == 0 or engine.tears  # a torn sequence is recomputed once, then given up
    assert_all_is_free(engine, scheduler)
