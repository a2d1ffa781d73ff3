"""What is the native engine's own: its use of ctypes, running out of the machine's memory, being collected."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from deepserve.engine.interface import CHUNK_TOKENS, Draw, Drawn, Row, SequenceId
from deepserve.engine.native.engine import NativeEngine
from tests.engine.native.networks import (
    KINDS,
    NARROW,
    Checkpoints,
    cold,
    config_of,
    feed,
    random_network,
    save,
    some_tokens,
)


@pytest.fixture(scope="module")
def shared(checkpoints: Checkpoints) -> NativeEngine:
    return checkpoints.engine("bf16")


@pytest.fixture
def engine(shared: NativeEngine) -> NativeEngine:
    assert shared.free_blocks_ratio() == 1.0
    return shared


def test_integers_of_other_libraries_are_tokens(engine: NativeEngine) -> None:
    tokens = some_tokens(20)
    sequence = engine.create()
    assert feed(engine, sequence, [*np.array(tokens, np.int64)]) == cold(engine, tokens)
    engine.free(sequence)


@pytest.mark.parametrize(
    "draw",
    [
        Draw(temperature=-0.1),
        Draw(temperature=float("nan")),
        Draw(temperature=float("inf")),
        Draw(top_p=0.0),
        Draw(top_p=1.1),
        Draw(top_k=-1),
        Draw(top_k=1 << 31),
        Draw(min_p=1.5),
        Draw(repetition_penalty=0.0),
        Draw(frequency_penalty=float("nan")),
        Draw(presence_penalty=float("inf")),
        Draw(num_top_logprobs=21),
        Draw(output_counts={1: 1 << 31}, presence_penalty=1.0),
    ],
    ids=lambda draw: next(name for name in draw.__struct_fields__ if getattr(draw, name) != getattr(Draw(), name)),
)
def test_a_draw_out_of_range_is_a_value_error_and_changes_nothing(engine: NativeEngine, draw: Draw) -> None:
    """`Draw` says that all is validated above; the core looks again, for it would read outside its memory."""
    sequence = engine.create()
    with pytest.raises(ValueError, match=r"draw|num_top_logprobs"):
        engine.step([Row(sequence=sequence, tokens=[1], draw=draw)])
    assert engine.length(sequence) == 0
    assert isinstance(engine.step([Row(sequence=sequence, tokens=[1], draw=Draw())])[0], Drawn)
    engine.free(sequence)


def test_logits_outlive_later_steps(engine: NativeEngine) -> None:
    sequence = engine.create()
    ((first,),) = engine.logits([Row(sequence=sequence, tokens=[5])])
    before = bytes(first)
    feed(engine, sequence, some_tokens(200))
    assert bytes(first) == before
    engine.free(sequence)


def test_draws_that_are_not_wanted_are_not_read_for_logits(engine: NativeEngine) -> None:
    sequence = engine.create()
    ((logits,),) = engine.logits([Row(sequence=sequence, tokens=[5], draw=Draw(temperature=-1))])
    assert len(logits) == NARROW["vocab_size"]
    engine.free(sequence)


def test_free_shares_are_those_of_the_core(checkpoints: Checkpoints) -> None:
    engine = checkpoints.engine("bf16", memory_bytes=4_000_000)
    info = engine.core_info()
    assert (info.num_blocks * CHUNK_TOKENS, info.num_slots) == (
        engine.info.capacity_tokens,
        engine.info.capacity_states,
    )
    sequences = [engine.create() for _ in range(3)]
    assert engine.free_blocks_ratio() == 1 - 3 / info.num_slots
    engine.step([Row(sequence=each, tokens=[1]) for each in sequences])
    info = engine.core_info()
    assert info.num_blocks - info.free_blocks == 3
    for each in sequences:
        engine.free(each)
    assert engine.free_blocks_ratio() == 1.0


def test_a_forgotten_engine_gives_its_memory_back(checkpoints: Checkpoints) -> None:
    """Also with sequences and snapshots left, which go with it."""

    def size_bytes() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * 4096

    if sys.platform != "linux":
        pytest.skip("needs /proc")
    sizes = []
    for _ in range(4):
        engine = checkpoints.engine("mapped fp8", memory_bytes=1 << 30, num_threads=2)
        sequence = engine.create()
        feed(engine, sequence, some_tokens(130))
        engine.snapshot(sequence)
        del engine, sequence
        gc.collect()
        sizes.append(size_bytes())
    assert sizes[-1] - sizes[0] < 1 << 29


RUN_OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from deepserve.core.errors import EngineFailure
from deepserve.engine.interface import Draw, Row
from deepserve.engine.native.engine import load_native_engine
from deepserve.engine.options import EngineOptions

options = EngineOptions(memory_bytes=1 << 28, num_threads=int(sys.argv[2]))
engine = load_native_engine(Path(sys.argv[1]), options)
draw = Draw(temperature=0)
tokens = [(7 * at) % 301 for at in range(128)]
sequences = [engine.create() for _ in range(100)]
bystander = engine.create()
engine.step([Row(sequence=bystander, tokens=tokens)])
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
rows = [Row(sequence=each, tokens=tokens, draw=draw) for each in sequences]
num_failures = 0
for _ in range(2):
    try:
        engine.step(rows)
    except EngineFailure as error:
        assert "memory" in str(error), error
        num_failures += 1
assert [engine.length(each) for each in (*sequences, bystander)] == [0] * 100 + [128]
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
after = engine.step(rows)
assert [engine.length(each) for each in sequences] == [128] * 100
(one,) = engine.step([Row(sequence=engine.create(), tokens=tokens, draw=draw)])
assert after == [one] * 100
(next_token,) = engine.step([Row(sequence=bystander, tokens=[1], draw=draw)])
for each in (*sequences, bystander):
    engine.free(each)
print(num_failures)
"""


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_machine_without_memory_fails_the_step_and_not_the_process(
    checkpoints: Checkpoints, num_threads: int
) -> None:
    """Sequences of the step keep their length or lose everything, which the scheduler then computes again."""
    if sys.platform != "linux":
        pytest.skip("needs RLIMIT_AS and /proc")
    folder = checkpoints.folder(KINDS["bf16"].sizes, KINDS["bf16"].stored)
    command = [sys.executable, "-c", RUN_OUT_OF_MEMORY, str(folder), str(num_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"


RUN_OUT_OF_MEMORY_BESIDE = """
import resource, sys
from pathlib import Path
from deepserve.core.errors import EngineFailure
from deepserve.engine.interface import Row
from deepserve.engine.native.engine import load_native_engine
from deepserve.engine.options import EngineOptions

alone, both = (
    load_native_engine(Path(sys.argv[1]), EngineOptions(memory_bytes=1 << 28, num_threads=number)) for number in (1, 2)
)
sequence = alone.create()
for first in range(0, 1024, 128):
    alone.step([Row(sequence=sequence, tokens=[(7 * at) % 301 for at in range(first, first + 128)])])
blob = alone.dump(alone.snapshot(sequence))
snapshot = both.load(blob)
sequence = both.restore(snapshot)
for _ in range(3):  # by the first thread alone
    both.step([Row(sequence=sequence, tokens=[1, 2])])
assert both.core_info().num_threads == 1
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
try:
    both.step([Row(sequence=sequence, tokens=[1, 2])])  # the second thread's first work
except EngineFailure as error:
    message = str(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert both.length(sequence) == 0
both.free(sequence)
sequence = both.restore(snapshot)
(logits,) = both.logits([Row(sequence=sequence, tokens=[1, 2])])
assert both.core_info().num_threads == 2
(expected,) = alone.logits([Row(sequence=alone.restore(alone.load(blob)), tokens=[1, 2])])
assert [bytes(row) for row in logits] == [bytes(row) for row in expected]
print(message)
"""


def test_a_thread_without_memory_fails_the_step_and_not_the_process(tmp_path: Path) -> None:
    """An exception that left a thread of the core's own ended the server."""
    if sys.platform != "linux":
        pytest.skip("needs RLIMIT_AS and /proc")
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the address sanitizer ends a process without memory")
    wide = {"num_attention_heads": 512, "head_dim": 16, "sliding_window": 1024, "num_hidden_layers": 1}
    save(random_network(config_of(NARROW, **wide, compress_ratios=(0,))), tmp_path, "bf16")
    command = [sys.executable, "-c", RUN_OUT_OF_MEMORY_BESIDE, str(tmp_path)]
    # Else glibc sets 64 MB aside for every thread.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no memory for this step" in done.stdout


def test_rows_of_one_step_may_be_many_and_different(engine: NativeEngine) -> None:
    """The arrays that rows are written into grow; what stood in them before does not matter."""
    texts = [some_tokens(length, seed=length) for length in (1, 128, 3, 40, 1, 77, 128, 2, 9, 30, 31, 32)]
    for number in (1, 12, 2, 9):
        sequences: list[SequenceId] = [engine.create() for _ in texts[:number]]
        rows = [Row(sequence=each, tokens=text) for each, text in zip(sequences, texts[:number], strict=True)]
        found = [[bytes(row) for row in logits] for logits in engine.logits(rows)]
        assert found == [cold(engine, text) for text in texts[:number]]
        for each in sequences:
            engine.free(each)


def test_engines_in_several_threads_do_not_disturb_each_other(checkpoints: Checkpoints) -> None:
    """One caller for each engine is enough: the core has no state of its own, and calls let other threads run."""
    tokens = some_tokens(300)
    engines = [checkpoints.engine(kind) for kind in ("bf16", "fp8", "int8", "fp8")]
    expected = [cold(engine, tokens) for engine in engines]
    with ThreadPoolExecutor(len(engines)) as threads:
        for _ in range(3):
            assert list(threads.map(lambda engine: cold(engine, tokens), engines)) == expected


def test_handles_are_never_given_twice(engine: NativeEngine) -> None:
    given = []
    for _ in itertools.repeat(None, 50):
        sequence = engine.create()
        engine.free(sequence)
        given.append(sequence)
    assert len(set(given)) == 50
