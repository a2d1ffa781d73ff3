"""The same bits however the work is cut up, in every format: rows, batches, threads, snapshots, restarts.

Prefix caching, batching and preemption are right exactly because of this.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from deepserve.config import InstructionSet
from deepserve.engine.interface import CHUNK_TOKENS, Row, SequenceId
from deepserve.engine.native.engine import NativeEngine, load_native_engine
from deepserve.engine.native.shared_library import instruction_sets, load_library
from deepserve.engine.options import EngineOptions
from tests.engine.native.networks import (
    KINDS,
    MEMORY_BYTES,
    NARROW,
    Checkpoints,
    Stored,
    cold,
    cut,
    feed,
    some_tokens,
)

TOKENS = some_tokens(420)
ODD_SIZES = (7, 13, 5, 50, 100, 1, 1, 64, 3)
POSITIONS = [*range(12), *range(12, 120, 9), *range(120, 137), *range(140, 250, 13), *range(250, 262), 383, 384, 400]


@pytest.fixture(params=list(KINDS), scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def engine(kind: str, checkpoints: Checkpoints) -> Iterator[NativeEngine]:
    """Shared; whatever a test leaves behind shows up here."""
    shared = checkpoints.engine(kind)
    yield shared
    assert shared.free_blocks_ratio() == 1.0


@pytest.fixture(scope="module")
def expected(engine: NativeEngine) -> list[bytes]:
    """The logits of TOKENS, appended in rows as long as may be."""
    return cold(engine, TOKENS)


def test_logits_are_of_many_values(expected: list[bytes]) -> None:
    """Else equality would prove nothing."""
    assert len(set(expected)) == len(TOKENS)
    assert all(len(set(memoryview(logits).cast("f"))) > 250 for logits in expected)


def test_single_tokens_give_the_bits_of_whole_rows(engine: NativeEngine, expected: list[bytes]) -> None:
    assert cold(engine, TOKENS, itertools.repeat(1)) == expected


def test_odd_rows_give_the_bits_of_whole_rows(engine: NativeEngine, expected: list[bytes]) -> None:
    assert cold(engine, TOKENS, itertools.cycle(ODD_SIZES)) == expected


def test_a_token_has_the_same_bits_alone_and_in_any_batch(engine: NativeEngine) -> None:
    texts = [some_tokens(length, seed=length) for length in (5, 90, 128, 129, 200, 260)]
    assert in_company(engine, texts, random.Random(5)) == [cold(engine, text) for text in texts]


def test_two_threads_give_the_bits_of_one(
    kind: str, checkpoints: Checkpoints, engine: NativeEngine, expected: list[bytes]
) -> None:
    """Every way of spreading a step: the first nine steps of a size try each way three times, in this order: alone,
    together in every product, and, where there are several rows, each thread with rows of its own."""
    both = checkpoints.engine(kind, num_threads=2)
    sequence = both.create()
    found, used = [], []
    for row in cut(both, sequence, TOKENS[:12], itertools.repeat(1)):
        found += [bytes(logits) for logits in both.logits([row])[0]]
        used.append(both.core_info().num_threads)
    assert used[:6] == [1, 1, 1, 2, 2, 2]
    found += feed(both, sequence, TOKENS[12:100], itertools.repeat(11))
    found += feed(both, sequence, TOKENS[100:])
    both.free(sequence)
    assert found == expected
    for _ in range(3):  # rows of 128, of which one run through has three
        assert cold(both, TOKENS) == expected

    texts = [some_tokens(40, seed=seed) for seed in range(3)]
    sequences = [both.create() for _ in texts]
    seen: list[list[bytes]] = [[] for _ in texts]
    used = []
    for at in range(0, 40, 2):
        rows = [Row(sequence=each, tokens=text[at : at + 2]) for each, text in zip(sequences, texts, strict=True)]
        for mine, logits in zip(seen, both.logits(rows), strict=True):
            mine += map(bytes, logits)
        used.append(both.core_info().num_threads)
    assert used[:9] == [1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert seen == [cold(engine, text) for text in texts]
    for each in sequences:
        both.free(each)
    texts = [some_tokens(length, seed=length) for length in (3, 60, 128, 140, 190)]
    assert in_company(both, texts, random.Random(6)) == [cold(engine, text) for text in texts]
    assert both.free_blocks_ratio() == 1.0


def test_a_snapshot_continues_bit_for_bit(engine: NativeEngine, expected: list[bytes]) -> None:
    """One token, then up to eight; and the snapshots and what is restored from them do not disturb each other."""
    sequence = engine.create()
    snapshots = []
    for position in POSITIONS:
        feed(engine, sequence, TOKENS[engine.length(sequence) : position])
        snapshots.append(engine.snapshot(sequence))
    engine.free(sequence)
    for position, snapshot in zip(POSITIONS, snapshots, strict=True):
        assert snapshot.position == position
        assert continues(engine, engine.restore(snapshot), expected), position
    for snapshot in snapshots:
        engine.release(snapshot)


def test_forks_go_their_own_ways(engine: NativeEngine) -> None:
    start, left, right = some_tokens(137), some_tokens(50, seed=2), some_tokens(50, seed=3)
    sequence = engine.create()
    feed(engine, sequence, start)
    fork = engine.fork(sequence)
    found = [feed(engine, sequence, left), feed(engine, fork, right)]
    assert found == [cold(engine, start + more)[137:] for more in (left, right)]
    engine.free(sequence)
    engine.free(fork)


def test_a_dumped_state_continues_bit_for_bit_in_another_engine(
    kind: str, checkpoints: Checkpoints, engine: NativeEngine, expected: list[bytes]
) -> None:
    other = checkpoints.engine(kind)
    assert other.info == engine.info
    sequence = engine.create()
    for position in POSITIONS:
        feed(engine, sequence, TOKENS[engine.length(sequence) : position])
        snapshot = engine.snapshot(sequence)
        blob = engine.dump(snapshot)
        loaded = other.load(blob)
        assert (loaded.position, loaded.size_bytes) == (position, snapshot.size_bytes)
        assert other.dump(loaded) == blob
        assert continues(other, other.restore(loaded), expected), position
        other.release(loaded)
        engine.release(snapshot)
    engine.free(sequence)
    assert other.free_blocks_ratio() == 1.0


@pytest.mark.parametrize("stored", ["fp32", "bf16"])
def test_windows_of_many_rows_give_the_same_bits(checkpoints: Checkpoints, stored: Stored) -> None:
    """More rows than attention sums in one go, for an odd number of heads."""
    sizes = {
        **NARROW,
        "sliding_window": 700,
        "num_attention_heads": 7,
        "o_groups": 1,
        "num_hidden_layers": 2,
        "compress_ratios": (4, 0),
    }
    folder = checkpoints.folder(sizes, stored)
    tokens = some_tokens(900)
    here = instruction_sets(load_library())
    found = []
    for isa in (
        name for name in get_args(InstructionSet) if name in here and (name != "generic" or here == ("generic",))
    ):
        engine = load_native_engine(folder, EngineOptions(memory_bytes=MEMORY_BYTES, isa=isa))
        rows = itertools.chain([128] * 5, [1] * 100, itertools.cycle(ODD_SIZES))
        found += [cold(engine, tokens), cold(engine, tokens, rows)]
    assert all(logits == found[0] for logits in found)


CONTINUE_ELSEWHERE = """
import hashlib, sys
from pathlib import Path
from deepserve.engine.interface import Row
from deepserve.engine.native.engine import load_native_engine
from deepserve.engine.options import EngineOptions
folder, blob, *tokens = sys.argv[1:]
engine = load_native_engine(Path(folder), EngineOptions(memory_bytes=1 << 26))
sequence = engine.restore(engine.load(Path(blob).read_bytes()))
(logits,) = engine.logits([Row(sequence=sequence, tokens=[int(token) for token in tokens])])
print(engine.info.fingerprint, hashlib.sha256(b"".join(map(bytes, logits))).hexdigest())
"""


def test_a_dumped_state_continues_bit_for_bit_in_another_process(checkpoints: Checkpoints, tmp_path: Path) -> None:
    engine = checkpoints.engine("fp8")
    expected = cold(engine, TOKENS)
    sequence = engine.create()
    feed(engine, sequence, TOKENS[:300])
    path = tmp_path / "state"
    path.write_bytes(engine.dump(engine.snapshot(sequence)))
    folder = checkpoints.folder(KINDS["fp8"].sizes, KINDS["fp8"].stored)
    command = [sys.executable, "-c", CONTINUE_ELSEWHERE, str(folder), str(path), *map(str, TOKENS[300:350])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    digest = hashlib.sha256(b"".join(expected[300:350])).hexdigest()
    assert done.stdout.split() == [engine.info.fingerprint, digest]


@pytest.mark.parametrize("isa", get_args(InstructionSet))
def test_every_instruction_set_gives_the_same_bits(
    kind: str, isa: InstructionSet, checkpoints: Checkpoints, engine: NativeEngine, expected: list[bytes]
) -> None:
    """All but numbers below 2^-126, which AVX-512 takes for zero in products of bf16; real weights have none."""
    if isa not in instruction_sets(load_library()):
        pytest.skip(f"{isa} is not in this build, or not on this machine")
    other = checkpoints.engine(kind, isa=isa)
    assert other.core_info().isa.decode() == isa
    assert other.info.fingerprint == engine.info.fingerprint
    length = 20 if isa == "generic" else len(TOKENS)  # slow where it has to do without fused multiply-add
    assert cold(other, TOKENS[:length], itertools.cycle((1, 20, CHUNK_TOKENS))) == expected[:length]


def continues(engine: NativeEngine, sequence: SequenceId, expected: list[bytes]) -> bool:
    position = engine.length(sequence)
    found = feed(engine, sequence, TOKENS[position : position + 1])
    found += feed(engine, sequence, TOKENS[position + 1 : position + 9])
    engine.free(sequence)
    return found == expected[position : position + 9]


def in_company(engine: NativeEngine, texts: list[list[int]], chance: random.Random) -> list[list[bytes]]:
    """The logits of each text, all growing side by side in rows of random lengths."""
    sequences = [engine.create() for _ in texts]
    seen: list[list[bytes]] = [[] for _ in texts]
    done = [0] * len(texts)
    while any(at < len(text) for at, text in zip(done, texts, strict=True)):
        rows, owners = [], []
        for owner in chance.sample(range(len(texts)), chance.randint(1, len(texts))):
            text, at = texts[owner], done[owner]
            if at == len(text):
                continue
            most = min(len(text) - at, CHUNK_TOKENS - at % CHUNK_TOKENS)
            size = min(most, chance.choice([1, 1, 1, 2, 3, 17, 128]))
            rows.append(Row(sequence=sequences[owner], tokens=text[at : at + size]))
            owners.append(owner)
            done[owner] += size
        for owner, logits in zip(owners, engine.logits(rows), strict=True):
            seen[owner] += map(bytes, logits)
    for sequence in sequences:
        engine.free(sequence)
    return seen
