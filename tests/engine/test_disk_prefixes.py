"""What goes to the disk and comes back, with schedulers over the fake engine that stand for runs of a server."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from deepserve.config import Settings
from deepserve.core.errors import EngineFailure
from deepserve.engine import disk_prefixes, prefix_store
from deepserve.engine.disk_prefixes import MIN_TOKENS
from deepserve.engine.generation import Admitted, Generation, GenerationId, Progress, TokenDrawn
from deepserve.engine.interface import Snapshot
from deepserve.engine.prefix_files import PrefixFiles, PrefixName
from deepserve.engine.prefix_index import pack_tokens
from deepserve.engine.prefix_store import PrefixStore
from deepserve.engine.scheduler import Scheduler
from deepserve.engine.step_loop import StepLoop
from tests.engine.disk_setup import Held, files_at, finish_with_disk, paths_in, store_at
from tests.engine.fake_engine import FakeEngine, FakeSnapshot
from tests.engine.test_scheduler import (
    Updates,
    assert_all_is_free,
    ends_of,
    generation_of,
    hits_of,
    prompt_of,
    run,
    scheduler_of,
    tokens_of,
)

PATIENCE_S = 20.0


class Server:
    """One run of a server on a state directory."""

    def __init__(
        self,
        folder: Path,
        *,
        engine: FakeEngine | None = None,
        max_bytes: int = 1 << 30,
        reader: Executor | None = None,
        max_sequences: int = 8,
        clock: Callable[[], float] = lambda: 0.0,
        binding: str = "f",
    ) -> None:
        self.engine = engine or FakeEngine(capacity_states=400)
        self.store = store_at(folder, max_bytes=max_bytes, reader=reader, binding=binding)
        self.scheduler = Scheduler(
            self.engine, max_sequences=max_sequences, clock=clock, store=self.store, save_s=PATIENCE_S
        )

    def add(self, *generations: Generation) -> None:
        for index, generation in enumerate(generations):
            self.scheduler.add(GenerationId(index), generation)

    def finish(self) -> Updates:
        return finish_with_disk(self.scheduler)

    def run(self, *generations: Generation) -> list[Updates]:
        """Run generations together; the updates of each. What they leave for the disk is there then."""
        self.add(*generations)
        updates = self.finish()
        assert self.store.flush(PATIENCE_S)
        updates += self.finish()
        return [[(id_, progress) for id_, progress in updates if id_ == index] for index in range(len(generations))]

    def hits(self, prompt: Sequence[int], **changes: object) -> int:
        generation = msgspec.structs.replace(generation_of(prompt, max_tokens=1), **changes)
        return hits_of(self.run(generation)[0])

    def stop(self) -> None:
        self.scheduler.close()
        assert not self.engine.sequences
        assert not self.engine.snapshots

    def crash(self) -> None:
        """Nothing is saved any more."""
        assert self.store.flush(PATIENCE_S)


def alone(generation: Generation) -> list[int]:
    """The tokens without any cache."""
    (updates,) = run(scheduler_of(FakeEngine()), generation)
    return tokens_of(updates)


def saved(folder: Path, prompt: Sequence[int]) -> Path:
    """A run that leaves the file of one prompt and its first answer."""
    server = Server(folder)
    server.run(generation_of(prompt, max_tokens=1))
    server.stop()
    (path,) = paths_in(folder)
    return path


def test_a_restarted_server_hits_as_much_as_one_that_went_on(tmp_path: Path) -> None:
    prompt = prompt_of(700)
    first = generation_of(prompt, max_tokens=40, boundaries=(650,))
    hits: list[list[int]] = []
    tokens: list[list[list[int]]] = []
    for is_restarted in (False, True):
        server = Server(tmp_path / str(is_restarted))
        (updates,) = server.run(first)
        if is_restarted:
            server.stop()
            server = Server(tmp_path / str(is_restarted))
        followers = [[*prompt, *tokens_of(updates), 1, 2], [*prompt[:650], 5, 5], prompt]
        answers = [server.run(generation_of(follower, seeds=[3]))[0] for follower in followers]
        hits.append([hits_of(answer) for answer in answers])
        tokens.append([tokens_of(answer) for answer in answers])
    assert hits[0] == hits[1] == [739, 650, 650]
    assert tokens[0] == tokens[1]
    assert server.scheduler.stats().prompt_tokens_restored == sum(hits[1])
    # The longest was read, and the one between; the third was in memory by then.
    assert server.scheduler.stats().disk_cache_hits == 2
    assert server.scheduler.stats().disk_cache_hit_tokens == 739 + 650
    server.stop()


def test_after_a_crash_most_of_it_is_there(tmp_path: Path) -> None:
    server = Server(tmp_path)
    prompt = prompt_of(700)
    (updates,) = server.run(generation_of(prompt, max_tokens=40, boundaries=(650,)))
    server.crash()
    assert Server(tmp_path).hits([*prompt, *tokens_of(updates), 1]) == 650


def test_a_conversation_writes_at_most_eight_times_what_it_is(tmp_path: Path) -> None:
    """Saved after every turn it would be 120 histories of half the length: sixty times."""
    server = Server(tmp_path)
    history = prompt_of(300)
    largest = 0
    for turn in range(120):
        (updates,) = server.run(generation_of(history, max_tokens=30, boundaries=(len(history) - 2,)))
        history += [*tokens_of(updates), *prompt_of(40, first=turn)]
        stored = server.store.find(generation_of([1]).cache_key, pack_tokens(history), limit=len(history))
        assert stored is not None
        # A crash costs an eighth, or what is short anyhow.
        assert len(history) - stored.position <= max(MIN_TOKENS, len(history) // 8) + 70
        largest = max(largest, *(path.stat().st_size for path in paths_in(tmp_path)))
    written = server.store.stats().written_bytes
    assert 3 * largest < written < 8 * largest
    server.stop()
    assert Server(tmp_path).hits([*history[:-40], 1, 2, 3]) == len(history) - 41


def test_short_prompts_are_not_written(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.run(*(generation_of(prompt_of(MIN_TOKENS - 8, first=first), max_tokens=8) for first in range(5)))
    server.stop()
    assert paths_in(tmp_path) == []
    assert server.scheduler.stats().disk_cache_misses == 0


def test_a_long_prompt_leaves_no_file_along_its_way(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.scheduler.snapshot_interval < 1000
    server.run(generation_of(prompt_of(5000), max_tokens=1))
    assert server.scheduler.stats().cache_snapshots > 5
    server.stop()
    assert [int(path.name.split("-")[2]) for path in paths_in(tmp_path)] == [5000]


def test_a_beginning_that_prompts_share_is_written(tmp_path: Path) -> None:
    shared = prompt_of(600)
    server = Server(tmp_path, engine=FakeEngine(capacity_states=30))
    for first in (200, 201):
        server.run(generation_of([*shared, *prompt_of(400, first=first)], max_tokens=1))
    server.crash()
    assert Server(tmp_path).hits([*shared, 9, 9, 9]) == 512


def test_what_was_under_way_when_the_server_stopped_is_not_lost(tmp_path: Path) -> None:
    """The last snapshot along the way of a long prompt: nothing newer is there."""
    server = Server(tmp_path)
    server.add(generation_of(prompt_of(3000), max_tokens=1))
    while server.engine.num_computed < 2000:
        server.scheduler.step()
    server.stop()
    assert Server(tmp_path).hits(prompt_of(3000)) >= 2000 - server.scheduler.snapshot_interval


def test_other_tenants_users_models_and_engines_never_hit(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    saved(tmp_path, prompt)
    key = generation_of(prompt).cache_key
    for changes in ({"tenant": "b"}, {"user_id": "u"}, {"model": "n"}, {"profile": "0731"}, {"fingerprint": "g"}):
        assert Server(tmp_path).hits(prompt, cache_key=msgspec.structs.replace(key, **changes)) == 0
    assert Server(tmp_path, binding="another engine").hits(prompt) == 0
    assert Server(tmp_path).hits([*prompt, 1]) == 500


@pytest.mark.parametrize("place", [0, 7, 8, 39, 40, 43, 44, 1000, -1])
def test_a_flipped_byte_anywhere_is_a_miss_and_the_answer_is_right(tmp_path: Path, place: int) -> None:
    prompt = prompt_of(500)
    path = saved(tmp_path, prompt)
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    assert_is_missed_and_removed(tmp_path, path, prompt)


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 1000, -1])
def test_a_file_cut_off_anywhere_is_a_miss_and_the_answer_is_right(tmp_path: Path, length: int) -> None:
    prompt = prompt_of(500)
    path = saved(tmp_path, prompt)
    path.write_bytes(path.read_bytes()[:length])
    assert_is_missed_and_removed(tmp_path, path, prompt)


def test_a_file_moved_under_another_prompts_name_is_a_miss(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    saved(tmp_path, prompt)
    other = prompt_of(500, first=9)
    (saved_one,) = paths_in(tmp_path)
    server = Server(tmp_path)
    server.run(generation_of(other, max_tokens=1))
    server.stop()
    (path,) = [path for path in paths_in(tmp_path) if path != saved_one]
    shutil.copy(saved_one, path)
    assert_is_missed_and_removed(tmp_path, path, other)
    assert Server(tmp_path).hits([*prompt, 1]) == 500


def test_a_file_moved_to_another_tenant_is_a_miss(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    stolen = saved(tmp_path, prompt)
    generation = generation_of(prompt, tenant="b", max_tokens=1)
    server = Server(tmp_path)
    server.run(generation)
    server.stop()
    (path,) = [path for path in paths_in(tmp_path) if path != stolen]
    shutil.copy(stolen, path)
    server = Server(tmp_path)
    (updates,) = server.run(generation_of([*prompt, 1], tenant="b"))
    assert hits_of(updates) == 0
    assert server.store.stats().damaged_files == 1


@pytest.mark.parametrize("blob", [b"", b"junk", b"FAKE" + b"\xff" * 400, b"FAKE" + pack_tokens(prompt_of(499))])
def test_a_sealed_state_that_does_not_fit_is_a_miss(tmp_path: Path, blob: bytes) -> None:
    """Written by a server whose engine lays states out differently, which its fingerprint should have told."""
    prompt = prompt_of(500)
    path = saved(tmp_path, prompt)
    files = files_at(tmp_path)
    (stored,) = files.list(now=0)
    files.write(stored.name, blob)
    assert_is_missed_and_removed(tmp_path, path, prompt)


def assert_is_missed_and_removed(folder: Path, path: Path, prompt: list[int]) -> None:
    server = Server(folder)
    generation = generation_of([*prompt, 1], max_tokens=20)
    (updates,) = server.run(generation)
    assert hits_of(updates) == 0
    assert tokens_of(updates) == alone(generation)
    assert not path.exists()
    assert server.store.stats().damaged_files == 1
    assert (server.scheduler.stats().disk_cache_hits, server.scheduler.stats().disk_cache_misses) == (0, 1)
    assert_all_is_free(server.engine, server.scheduler)


def test_others_go_on_while_a_file_is_read(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    saved(tmp_path, prompt)
    reader = Held()
    server = Server(tmp_path, reader=reader)
    waiting, other = generation_of([*prompt, 1], max_tokens=3), generation_of(prompt_of(300, first=2), max_tokens=50)
    server.add(waiting, other)
    updates = server.finish()
    assert {id_ for id_, _ in updates} == {1}
    assert tokens_of(updates) == alone(other)
    assert server.scheduler.stats().waiting == 1
    reader.run()
    updates = server.finish()
    assert hits_of(updates) == 500
    assert tokens_of(updates) == alone(waiting)
    server.stop()


def test_news_from_the_disk_are_told(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    saved(tmp_path, prompt)
    reader = Held()
    server = Server(tmp_path, reader=reader)
    server.add(generation_of([*prompt, 1]))
    assert server.finish() == []
    news: list[bool] = []
    server.scheduler.on_news = lambda: news.append(True)
    reader.run()
    assert news == [True]


@pytest.mark.parametrize("is_read", [False, True])
def test_leaving_while_a_file_is_read_leaves_nothing_behind(tmp_path: Path, is_read: bool) -> None:
    prompt = prompt_of(500)
    saved(tmp_path, prompt)
    reader = Held()
    server = Server(tmp_path, reader=reader)
    server.add(generation_of([*prompt, 1]))
    server.scheduler.step()
    if is_read:
        reader.run()
    server.scheduler.cancel(GenerationId(0))
    reader.run()
    assert server.finish() == []
    assert server.scheduler.stats().waiting == 0
    # The same id again, as a new request: the old file must not be taken for its own.
    other = generation_of(prompt_of(300, first=2))
    server.add(other)
    assert tokens_of(server.finish()) == alone(other)
    assert_all_is_free(server.engine, server.scheduler)


def test_stopping_while_a_file_is_read_ends_who_waits_for_it(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    saved(tmp_path, prompt)
    server = Server(tmp_path, reader=Held())
    server.add(generation_of([*prompt, 1], seeds=range(2)))
    server.scheduler.step()
    assert ends_of(server.scheduler.abandon(EngineFailure("over"))) == {0: "failed", 1: "failed"}
    server.stop()


def test_prompts_with_one_beginning_read_it_once(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    saved(tmp_path, prompt)
    reader = Held()
    server = Server(tmp_path, reader=reader)
    generations = [generation_of([*prompt, first]) for first in range(5)]
    server.add(*generations)
    server.finish()
    assert len(reader.jobs) == 1
    server.scheduler.cancel(GenerationId(0))
    reader.run()
    updates = server.finish()
    for index, generation in list(enumerate(generations))[1:]:
        mine = [update for update in updates if update[0] == index]
        assert hits_of(mine) == 500
        assert tokens_of(mine) == alone(generation)
    server.stop()


def test_no_more_files_are_read_than_results_may_run(tmp_path: Path) -> None:
    prompts = [prompt_of(500, first=first) for first in range(6)]
    server = Server(tmp_path)
    server.run(*(generation_of(prompt, max_tokens=1) for prompt in prompts))
    server.stop()
    reader = Held()
    server = Server(tmp_path, reader=reader, max_sequences=2)
    server.add(*(generation_of([*prompt, 1]) for prompt in prompts))
    server.finish()
    assert len(reader.jobs) == 2
    updates: Updates = []
    while reader.jobs:
        reader.run()
        updates += server.finish()
    assert [progress.hit_tokens for _, progress in updates if isinstance(progress, Admitted)] == [500] * 6
    server.stop()


def test_several_results_of_a_stored_prompt(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    saved(tmp_path, prompt)
    generation = generation_of([*prompt, 1], seeds=range(3))
    (cold,) = run(scheduler_of(FakeEngine()), generation)
    server = Server(tmp_path)
    (warm,) = server.run(generation)
    assert hits_of(warm) == 500
    assert [tokens_of(warm, result) for result in range(3)] == [tokens_of(cold, result) for result in range(3)]
    assert_all_is_free(server.engine, server.scheduler)


def test_what_memory_has_is_not_read(tmp_path: Path) -> None:
    prompt = prompt_of(500)
    server = Server(tmp_path, reader=Held())
    (first,) = server.run(generation_of(prompt, max_tokens=40))
    assert paths_in(tmp_path)
    assert server.hits([*prompt, *tokens_of(first), 1]) == 539
    assert server.scheduler.stats().disk_cache_hits == 0


def test_nothing_is_copied_for_the_disk_while_results_are_computed(tmp_path: Path) -> None:
    """Copying a state takes as long as reading it; the tokens of everybody would wait for it."""
    dumps: list[int] = []

    class Dumping(FakeEngine):
        @override
        def dump(self, snapshot: Snapshot) -> bytes:
            dumps.append(len(self.sequences))
            return super().dump(snapshot)

    server = Server(tmp_path, engine=Dumping())
    server.run(*(generation_of(prompt_of(400, first=first), max_tokens=20 * first + 1) for first in range(8)))
    assert dumps == [0] * 8


def test_a_server_that_is_never_idle_writes_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_prefixes, "_MAX_UNSAVED", 2)
    server = Server(tmp_path)
    server.add(generation_of([1], max_tokens=5000))
    for number in range(1, 9):
        server.scheduler.add(GenerationId(number), generation_of(prompt_of(400, first=number), max_tokens=1))
        for _ in range(10):
            server.scheduler.step()
    assert server.store.flush(PATIENCE_S)
    assert len(paths_in(tmp_path)) == 6
    assert server.scheduler.stats().running == 1


def test_units_wait_for_room_in_the_queue_and_the_oldest_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_prefixes, "_MAX_UNSAVED", 2)
    server = Server(tmp_path)
    has_room = False
    monkeypatch.setattr(server.store, "has_room", lambda size_bytes: has_room)
    server.run(*(generation_of(prompt_of(400, first=number), max_tokens=1) for number in range(5)))
    assert not server.scheduler.made_progress
    assert server.store.stats().dropped_writes == 3
    has_room = True
    server.finish()
    assert server.store.flush(PATIENCE_S)
    assert len(paths_in(tmp_path)) == 2
    server.stop()
    assert len(paths_in(tmp_path)) == 5  # memory still had them


def test_a_stop_that_may_not_take_long_writes_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Slow(FakeEngine):
        @override
        def dump(self, snapshot: Snapshot) -> bytes:
            nonlocal now
            now += PATIENCE_S / 5
            return super().dump(snapshot)

    server = Server(tmp_path, engine=Slow(), clock=lambda: now)
    monkeypatch.setattr(server.store, "has_room", lambda size_bytes: False)
    for number in range(8):
        server.run(generation_of(prompt_of(400, first=number), max_tokens=1))
    assert paths_in(tmp_path) == []
    server.stop()
    restarted = Server(tmp_path)
    assert [restarted.hits([*prompt_of(400, first=number), 1]) for number in range(8)] == [0] * 5 + [400] * 3


def test_a_stop_never_pushes_out_what_it_just_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engine states are estimated, and the fake engine's at 39,400 bytes: half of this budget holds four."""
    server = Server(tmp_path, max_bytes=8 * 40_000)
    monkeypatch.setattr(server.store, "has_room", lambda size_bytes: False)
    for number in range(8):
        server.run(generation_of(prompt_of(400, first=number), max_tokens=1))
    server.stop()
    restarted = Server(tmp_path)
    assert [restarted.hits([*prompt_of(400, first=number), 1]) for number in range(8)] == [0] * 4 + [400] * 4


def test_an_engine_that_cannot_dump_answers_all_the_same(tmp_path: Path) -> None:
    class Mute(FakeEngine):
        @override
        def dump(self, snapshot: Snapshot) -> bytes:
            raise MemoryError

    server = Server(tmp_path, engine=Mute())
    generation = generation_of(prompt_of(500))
    (updates,) = server.run(generation)
    assert tokens_of(updates) == alone(generation)
    server.stop()
    assert paths_in(tmp_path) == []
    assert server.store.stats().dropped_writes > 0


def test_an_engine_without_room_for_a_state_computes_the_prompt_and_keeps_the_file(tmp_path: Path) -> None:
    class Full(FakeEngine):
        @override
        def load(self, blob: bytes) -> FakeSnapshot:
            raise EngineFailure("out of states")

    prompt = prompt_of(500)
    path = saved(tmp_path, prompt)
    server = Server(tmp_path, engine=Full())
    assert server.hits([*prompt, 1]) == 0
    assert path.exists()
    assert server.store.stats().damaged_files == 0


def test_memory_that_is_short_makes_room_for_a_state_from_the_disk(tmp_path: Path) -> None:
    prompt = prompt_of(600)
    saved(tmp_path, prompt)
    server = Server(tmp_path, engine=FakeEngine(capacity_tokens=2000, capacity_states=40, max_context=1024))
    for first in range(3, 9):
        server.run(generation_of(prompt_of(500, first=first), max_tokens=1))
    assert server.scheduler.stats().memory_free_ratio < 0.4
    generation = generation_of([*prompt, 1])
    (updates,) = server.run(generation)
    assert hits_of(updates) == 600
    assert tokens_of(updates) == alone(generation)
    assert server.engine.most_used <= 1
    server.stop()


def test_a_full_disk_does_not_touch_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: PrefixFiles, name: PrefixName, blob: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PrefixFiles, "write", write)
    server = Server(tmp_path)
    generations = [generation_of(prompt_of(400, first=number)) for number in range(30)]
    for generation in generations:
        (updates,) = server.run(generation)
        assert tokens_of(updates) == alone(generation)
    server.stop()


def test_the_step_loop_wakes_up_for_what_the_disk_brings(tmp_path: Path) -> None:
    """Nothing else runs, so without the news the loop would sleep for ever on a file that has been read."""
    prompt = prompt_of(500)
    generation = generation_of([*prompt, 1], max_tokens=5)

    async def ask(loop: StepLoop, generation: Generation) -> list[Progress]:
        async with aclosing(loop.submit(generation)) as stream:
            return [progress async for batch in stream for progress in batch]

    async def main() -> None:
        for expected in (0, 500):
            engine = FakeEngine()
            scheduler = Scheduler(
                engine, max_sequences=2, clock=lambda: 0.0, store=store_with_threads(tmp_path), save_s=PATIENCE_S
            )
            loop = StepLoop(scheduler, max_queue_tokens=10_000)
            loop.start()
            found = await ask(loop, generation if expected else generation_of(prompt, max_tokens=1))
            await asyncio.to_thread(loop.stop)
            admitted = found[0]
            assert isinstance(admitted, Admitted)
            assert admitted.hit_tokens == expected
            assert not engine.snapshots
        assert [item.drawn.token for item in found if isinstance(item, TokenDrawn)] == alone(generation)

    asyncio.run(asyncio.wait_for(main(), timeout=PATIENCE_S))


def test_the_documentation_has_the_numbers_of_the_code() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "prefix-cache.md").read_text().split())
    assert f"from {MIN_TOKENS} tokens on" in text
    assert f"At most {Settings().disk_cache_bytes / 2**30:g} GiB" in text
    assert f"in {prefix_store._MAX_AGE_S / 86_400:g} days" in text
    assert "a quarter of the budget" in text
    assert prefix_store._LARGEST_SHARE == 1 / 4
    assert "an eighth of it is new" in text
    assert disk_prefixes._GROWTH == 8


def store_with_threads(folder: Path) -> PrefixStore:
    return PrefixStore(files_at(folder), max_bytes=1 << 30)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_happens_every_answer_is_the_one_without_a_cache(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Random prompts, restarts, crashes, damage, a second server on the same files, budgets and memory too small."""
    randomness = random.Random(seed)
    folder = tmp_path_factory.mktemp("state")
    base = prompt_of(900)

    def start() -> tuple[Server, Held]:
        reader = Held()
        engine = FakeEngine(
            capacity_states=randomness.choice([6, 12, 400]),
            capacity_tokens=randomness.choice([3000, 6000, 1 << 23]),
            max_context=2048,
        )
        max_bytes = randomness.choice([200_000, 1 << 30])
        return Server(folder, engine=engine, reader=reader, max_bytes=max_bytes, max_sequences=3), reader

    servers = [start(), start()]
    for _ in range(8):
        index = randomness.randrange(2)
        server, reader = servers[index]
        generations = [
            generation_of(
                [*base[: randomness.choice([0, 300, 512, 800])], *prompt_of(randomness.randint(1, 300), first=number)],
                max_tokens=randomness.randint(1, 30),
                tenant=randomness.choice("ab"),
                boundaries=(randomness.randint(1, 700),),
            )
            for number in range(randomness.randint(1, 4))
        ]
        server.add(*generations)
        cancelled = randomness.randrange(8)
        updates: Updates = []
        for _ in range(randomness.randint(0, 10)):
            updates += server.scheduler.step()
        server.scheduler.cancel(GenerationId(cancelled))
        updates += server.finish()
        while reader.jobs:
            reader.run()
            updates += server.finish()
        for number, generation in enumerate(generations):
            if number != cancelled:
                mine = [update for update in updates if update[0] == number]
                assert ends_of(mine) == {0: "length"}
                assert tokens_of(mine) == alone(generation)
        match randomness.randrange(4):
            case 0:
                server.stop()
                servers[index] = start()
            case 1:
                server.crash()
                servers[index] = start()
            case 2:
                server.store.flush(PATIENCE_S)
                for path in paths_in(folder):
                    content = bytearray(path.read_bytes())
                    content[randomness.randrange(len(content))] ^= randomness.choice([0, 0, 1, 128])
                    path.write_bytes(content)
    for server, _ in servers:
        assert_all_is_free(server.engine, server.scheduler)
