"""Masks that a thread computes while the core goes through the layers."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Sequence

import pytest
from typing_extensions import override

from deepserve.engine.interface import Draw, Drawn, Row, RowFault
from deepserve.engine.mask_source import MaskSource
from deepserve.engine.native.core import load_core
from deepserve.engine.native.engine import NativeEngine
from deepserve.engine.native.mask_worker import MaskJob, MaskWorker
from deepserve.engine.options import EngineOptions
from tests.engine.native.networks import MEMORY_BYTES, NARROW, Checkpoints, cold, feed, some_tokens

MASK_BYTES = 38
ONLY_TWO = bytes([0b100, *bytes(MASK_BYTES - 1)])
WAIT_S = 30  # never reached; a test that would wait for ever fails instead

MakeEngine = Callable[..., NativeEngine]


@pytest.fixture
def make_engine(checkpoints: Checkpoints) -> MakeEngine:
    """An engine that has every mask computed in the thread."""

    def make(
        *, worker: type[MaskWorker] = MaskWorker, num_threads: int = 1, has_thread: bool = True, waking_s: float = 0.0
    ) -> NativeEngine:
        options = EngineOptions(memory_bytes=MEMORY_BYTES, num_threads=num_threads)
        core = load_core(checkpoints.folder(NARROW, "bf16"), options)
        vocab_size = core.info.vocab_size
        masks = worker(core.shared_library, vocab_size=vocab_size, has_thread=has_thread, waking_s=waking_s)
        return NativeEngine(core, masks=masks)

    return make


def step(engine: NativeEngine, masks: Sequence[bytes | MaskSource]) -> list[Drawn | RowFault | None]:
    """A row for each mask, all after the same tokens."""
    sequences = [engine.create() for _ in masks]
    draws = [Draw(allowed=mask, num_top_logprobs=3, seed=seed) for seed, mask in enumerate(masks)]
    rows = [Row(sequence=each, tokens=some_tokens(20), draw=draw) for each, draw in zip(sequences, draws, strict=True)]
    drawn = engine.step(rows)
    for each in sequences:
        engine.free(each)
    return drawn


def test_the_step_begins_before_its_masks_are_there(make_engine: MakeEngine) -> None:
    has_begun = threading.Event()

    class Watched(MaskWorker):
        @override
        def take(self, jobs: Sequence[MaskJob]) -> None:
            super().take(jobs)
            has_begun.set()

    def compute() -> bytes:
        assert has_begun.wait(WAIT_S)
        return ONLY_TWO

    assert [drawn.token for drawn in step(make_engine(worker=Watched), [compute] * 3) if isinstance(drawn, Drawn)] == [
        2,
        2,
        2,
    ]


def names_of_threads(engine: NativeEngine) -> set[str]:
    names: set[str] = set()

    def compute() -> bytes:
        names.add(threading.current_thread().name)
        return ONLY_TWO

    step(engine, [compute] * 4)
    return names


def test_masks_get_a_thread_only_where_they_take_longer_than_waking_it(make_engine: MakeEngine) -> None:
    here = threading.current_thread().name
    dear, cheap, single = make_engine(), make_engine(waking_s=1e9), make_engine(has_thread=False)
    for _ in range(2):  # nothing is known before the first
        found = [names_of_threads(engine) for engine in (dear, cheap, single)]
    assert found == [{"deepserve-masks"}, {here}, {here}]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_late_masks_draw_what_given_ones_do(make_engine: MakeEngine, num_threads: int) -> None:
    """Whatever way the step is spread over threads: two of them are tried in several."""
    engine, chance = make_engine(num_threads=num_threads), random.Random(5)
    for _ in range(12):
        masks = [
            bytes(chance.choice([255, 255, 0, chance.randrange(256)]) for _ in range(MASK_BYTES)) for _ in range(6)
        ]
        late: list[bytes | MaskSource] = [lambda mask=mask: mask for mask in masks]  # type: ignore[misc]  # bound now
        assert step(engine, late) == step(engine, masks)
        mixed = [mask if number % 2 else late[number] for number, mask in enumerate(masks)]
        assert step(engine, mixed) == step(engine, masks)


def test_a_step_that_is_refused_leaves_no_mask_behind_that_is_still_computed(make_engine: MakeEngine) -> None:
    engine, computed = make_engine(), []

    def compute() -> bytes:
        computed.append(ONLY_TWO)
        return ONLY_TWO

    sequences = [engine.create() for _ in range(5)]
    rows = [Row(sequence=each, tokens=[1], draw=Draw(allowed=compute)) for each in sequences]
    rows[3] = Row(sequence=sequences[3], tokens=[NARROW["vocab_size"]])
    with pytest.raises(ValueError, match="token ids"):
        engine.step(rows)
    assert len(computed) == 4
    assert [engine.length(each) for each in sequences] == [0] * 5
    tokens = some_tokens(30)
    assert feed(engine, sequences[0], tokens) == cold(engine, tokens)


def test_the_thread_ends_with_the_engine(make_engine: MakeEngine) -> None:
    others = set(threading.enumerate())
    engine = make_engine()
    step(engine, [lambda: ONLY_TWO])
    step(engine, [lambda: ONLY_TWO])
    (thread,) = set(threading.enumerate()) - others
    del engine
    gc.collect()
    thread.join(WAIT_S)
    assert not thread.is_alive()
