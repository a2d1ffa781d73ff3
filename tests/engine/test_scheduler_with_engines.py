"""The promise of batching and caching, on a real network: equal bits alone, in company, cold and after a hit.

For both engines; only the network's weights are made with torch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from deepserve.engine.generation import Generation, GenerationId, TokenDrawn
from deepserve.engine.interface import Draw, Drawn, Engine
from deepserve.engine.native.engine import load_native_engine
from deepserve.engine.native.shared_library import find_library
from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.options import EngineOptions
from deepserve.engine.scheduler import Scheduler
from tests.engine.disk_setup import finish_with_disk, paths_in, store_at
from tests.engine.scripted_guide import ScriptedGuide
from tests.engine.test_scheduler import Updates, finish, generation_of, hits_of, run

torch = pytest.importorskip("torch", reason="the reference engine needs torch: pip install deepserve[reference]")

VOCAB_SIZE = 128
DRAW = Draw(temperature=1.0, top_p=0.95, num_top_logprobs=5)


MakeEngine = Callable[[int], Engine]
"""From the bytes of state memory to a new engine; always on the same weights."""


@pytest.fixture(scope="module", params=["reference", "native"])
def make_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MakeEngine:
    """Random weights, every kind of layer; the window and the selection are shorter than the prompts."""
    from deepserve.engine.reference.checkpoint import save_network
    from deepserve.engine.reference.engine import ReferenceEngine
    from deepserve.engine.reference.network import Network

    if request.param == "native" and find_library() is None:
        pytest.skip("this installation has no native core")
    torch.set_num_threads(1)
    config = NetworkConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        head_dim=32,
        qk_rope_head_dim=16,
        q_lora_rank=32,
        o_groups=2,
        o_lora_rank=32,
        sliding_window=64,
        compress_ratios=(0, 4, 128, 4),
        index_n_heads=16,
        index_head_dim=16,
        index_topk=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        num_hash_layers=1,
        max_position_embeddings=4096,
    )
    network = Network(config)
    generator = torch.Generator().manual_seed(5)
    network.initialise(generator)
    with torch.no_grad():
        for parameter in network.parameters():  # larger than at the start of training, so that draws are not uniform
            if parameter.ndim >= 2:
                parameter.mul_(4)
    if request.param == "reference":
        return lambda memory_bytes: ReferenceEngine(network, memory_bytes=memory_bytes)
    folder = tmp_path_factory.mktemp("network")
    save_network(network, folder)
    return lambda memory_bytes: load_native_engine(folder, EngineOptions(memory_bytes=memory_bytes))


@pytest.fixture(scope="module")
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine(1 << 26)


def scheduler_on(engine: Engine, *, max_sequences: int = 8, step_s: float = 0.001) -> Scheduler:
    times = itertools.count()
    return Scheduler(engine, max_sequences=max_sequences, clock=lambda: next(times) * step_s)


def prompt_of(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB_SIZE), k=length)


def drawn_of(updates: Updates, result: int = 0) -> list[Drawn]:
    drawn = [progress for _, progress in updates if isinstance(progress, TokenDrawn)]
    return [progress.drawn for progress in drawn if progress.result == result]


def alone(engine: Engine, generation: Generation) -> list[list[Drawn]]:
    """Each result's draws with nothing else running and nothing cached."""
    scheduler = scheduler_on(engine)
    (updates,) = run(scheduler, generation)
    scheduler.close()
    return [drawn_of(updates, result) for result in range(len(generation.draws))]


def generations() -> Sequence[Generation]:
    return [
        generation_of(prompt_of(length, seed), seeds=range(seed, seed + num), max_tokens=12, draw=DRAW)
        for seed, (length, num) in enumerate([(1, 1), (90, 3), (128, 1), (300, 2), (515, 1)])
    ]


def test_tokens_and_logprobs_are_equal_alone_and_in_company(engine: Engine) -> None:
    expected = [alone(engine, generation) for generation in generations()]
    # Where a step takes long, prompts are cut into shorter rows.
    for max_sequences, delay, step_s in ((8, 0, 0.001), (3, 1, 0.06), (8, 3, 0.5)):
        scheduler = scheduler_on(engine, max_sequences=max_sequences, step_s=step_s)
        updates: Updates = []
        for index, generation in enumerate(generations()):
            scheduler.add(GenerationId(index), generation)
            for _ in range(delay):
                updates += scheduler.step()
        updates += finish(scheduler)
        for index, generation in enumerate(generations()):
            mine = [update for update in updates if update[0] == index]
            assert [drawn_of(mine, result) for result in range(len(generation.draws))] == expected[index]
        scheduler.close()
    assert engine.free_blocks_ratio() == 1


@pytest.mark.parametrize("cut", [5, 100, 127, 128, 129, 200, 255, 256, 300])
def test_tokens_and_logprobs_are_equal_cold_and_after_a_hit(engine: Engine, cut: int) -> None:
    prompt = prompt_of(400, seed=9)
    generation = generation_of(prompt, seeds=[1], max_tokens=10, draw=DRAW)
    expected = alone(engine, generation)
    scheduler = scheduler_on(engine)
    (first,) = run(scheduler, generation_of(prompt[: cut + 1], max_tokens=1, draw=DRAW))
    (warm,) = run(scheduler, generation)
    assert hits_of(first) == 0
    assert hits_of(warm) == cut + 1
    assert [drawn_of(warm)] == expected
    scheduler.close()


def test_a_second_turn_continues_the_first_bit_by_bit(engine: Engine) -> None:
    prompt = prompt_of(200, seed=3)
    scheduler = scheduler_on(engine)
    (first,) = run(scheduler, generation_of(prompt, max_tokens=30, draw=DRAW))
    following = [*prompt, *(drawn.token for drawn in drawn_of(first)), *prompt_of(20, seed=4)]
    generation = generation_of(following, seeds=[8], max_tokens=20, draw=DRAW)
    (warm,) = run(scheduler, generation)
    assert hits_of(warm) == 229
    scheduler.close()
    assert [drawn_of(warm)] == alone(engine, generation)


def test_tokens_and_logprobs_are_equal_when_memory_is_short(engine: Engine, make_engine: MakeEngine) -> None:
    """Snapshots are evicted and results wait for places; nothing fails, nothing comes out different."""
    wanted = [
        generation_of(prompt_of(100 + 60 * seed, seed), seeds=range(seed, seed + 2), max_tokens=40, draw=DRAW)
        for seed in range(5)
    ]
    small = make_engine(3_000_000)
    assert small.info.capacity_states < 2 * len(wanted)
    scheduler = scheduler_on(small, max_sequences=16)
    together = run(scheduler, *wanted)
    stats = scheduler.stats()
    assert stats.faults == 0
    assert stats.cache_evictions > 0
    scheduler.close()
    assert small.free_blocks_ratio() == 1
    for updates, generation in zip(together, wanted, strict=True):
        assert [drawn_of(updates, result) for result in range(2)] == alone(engine, generation)


def test_tokens_logprobs_and_hits_are_equal_before_and_after_a_restart(make_engine: MakeEngine, tmp_path: Path) -> None:
    """A conversation of three turns; then the fourth, and another answer to the third, on a new server's engine."""
    hits: list[list[int]] = []
    drawn: list[list[list[Drawn]]] = []
    for is_restarted in (False, True):
        running, folder = make_engine(1 << 26), tmp_path / str(is_restarted)
        scheduler = scheduler_with_store(running, folder)
        history = prompt_of(300, seed=6)
        for turn in range(3):
            user_ends = len(history) - 5
            updates = run_with_disk(
                scheduler, generation_of(history, max_tokens=20, boundaries=(user_ends,), draw=DRAW)
            )
            history += [drawn.token for drawn in drawn_of(updates)]
            history += prompt_of(30, seed=turn)
        if is_restarted:
            scheduler.close()
            assert running.free_blocks_ratio() == 1
            scheduler = scheduler_with_store(make_engine(1 << 26), folder)
        followers = [
            generation_of(history, seeds=range(2), max_tokens=15, draw=DRAW),
            generation_of([*history[:user_ends], 7, 7, 7], seeds=[5], max_tokens=15, draw=DRAW),
        ]
        answers = [run_with_disk(scheduler, follower) for follower in followers]
        hits.append([hits_of(answer) for answer in answers])
        drawn.append([drawn_of(answer, result) for answer in answers for result in range(2)])
        assert scheduler.stats().disk_cache_hits == (2 if is_restarted else 0)
        scheduler.close()
    assert hits[0] == hits[1] == [len(history) - 31, user_ends]
    assert drawn[0] == drawn[1]
    assert drawn[0][:2] == alone(make_engine(1 << 26), followers[0])
    assert drawn[0][2:3] == alone(make_engine(1 << 26), followers[1])


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("place", [0, 5])
def test_tokens_and_logprobs_are_equal_whether_tokens_are_forced_together_or_drawn_one_by_one(
    engine: Engine, place: int, is_late: bool
) -> None:
    """Fast-forward is a matter of speed: the row of forced tokens leaves the state that single steps leave."""
    generation = generation_of(prompt_of(120, seed=12), seeds=[4], max_tokens=60, draw=DRAW)
    forced = prompt_of(40, seed=13)

    def drawn_with(guide: ScriptedGuide) -> list[Drawn]:
        (drawn,) = alone(engine, msgspec.structs.replace(generation, guides=(guide,)))
        return drawn

    together = drawn_with(ScriptedGuide({place: forced}, vocab_size=VOCAB_SIZE))
    masks = {place + number: [token] for number, token in enumerate(forced)}
    one_by_one = drawn_with(ScriptedGuide({}, masks=masks, vocab_size=VOCAB_SIZE, is_late=is_late))
    assert [drawn.token for drawn in together][place : place + 40] == forced
    assert together == one_by_one
    assert together[place + 40 :] != alone(engine, generation)[0][place + 40 :]


def test_a_damaged_file_costs_time_and_nothing_else(engine: Engine, tmp_path: Path) -> None:
    prompt = prompt_of(400, seed=11)
    scheduler = scheduler_with_store(engine, tmp_path)
    run_with_disk(scheduler, generation_of(prompt, max_tokens=1, draw=DRAW))
    scheduler.close()
    (path,) = paths_in(tmp_path)
    content = path.read_bytes()
    generation = generation_of([*prompt, 1], seeds=[2], max_tokens=10, draw=DRAW)
    expected = alone(engine, generation)
    for place in (0, 20, 60, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        scheduler = scheduler_with_store(engine, tmp_path)
        updates = run_with_disk(scheduler, generation)
        assert hits_of(updates) == 0
        assert [drawn_of(updates)] == expected
        assert not path.exists()
    path.write_bytes(content)
    updates = run_with_disk(scheduler_with_store(engine, tmp_path), generation)
    assert hits_of(updates) == 400
    assert [drawn_of(updates)] == expected


def scheduler_with_store(engine: Engine, folder: Path) -> Scheduler:
    clock = itertools.count().__next__
    return Scheduler(engine, max_sequences=8, clock=clock, store=store_at(folder), save_s=1e9)


def run_with_disk(scheduler: Scheduler, generation: Generation) -> Updates:
    scheduler.add(GenerationId(0), generation)
    return finish_with_disk(scheduler)
