"""What Python around the native core costs, and what a remembered prefix saves. Nano shape, one thread.

python -m bench.engine_python
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec

from bench.bandwidth import bandwidth_probe
from bench.c_loop import CLoop, Rows
from bench.engine_native import LONG_CONTEXT, SHORT_CONTEXT
from bench.random_weights import random_tensors, write_checkpoint
from bench.results import Recorder
from bench.rounds import ROUNDS, cpu_seconds, random_tokens, turns, wall_seconds
from bench.shapes import NANO
from deepserve.core.tenant import TenantId
from deepserve.engine.generation import Generation, GenerationId, TokenDrawn
from deepserve.engine.interface import CHUNK_TOKENS, Draw, Drawn, Engine, Row, SequenceId
from deepserve.engine.loader import load_engine
from deepserve.engine.native.abi import Want
from deepserve.engine.network_config import decode_config
from deepserve.engine.options import EngineOptions
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.scheduler import Scheduler

NUM_TURNS, WARM_UP_TOKENS, TURN_TOKENS = 12, 4, 16
TEMPERATURE, TOP_P = 1.0, 0.95
NUM_QUESTION_TOKENS = 32


def main() -> int:
    probe = bandwidth_probe()
    recorder = Recorder("Native engine through Python, nano shape, one thread", probe=probe)
    if probe is None:
        recorder.note("skipped: the native core is not part of this installation")
        return recorder.finish()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder, NANO)
        engine = load_engine(folder, EngineOptions(memory_bytes=1 << 30, name="native", num_threads=1))
        recorder.note(f"formats: {engine.info.formats}")
        measure_loops(engine, recorder)
        measure_prefix(engine, folder, recorder)
    return recorder.finish()


def measure_loops(engine: Engine, recorder: Recorder) -> None:
    """Decoding through the engine and the scheduler, sampled, held against the C loop that samples as well.

    They take turns of some milliseconds, because a shared machine's speed changes within a second.
    """
    rounds: list[Seconds] = []
    with CLoop(decode_config(NANO), random_tensors(NANO)) as loop:
        for _ in range(ROUNDS + 1):
            recorder.probe()
            rounds.append(measure_round(engine, loop))
    del rounds[0]  # what came first had to be brought into the caches
    greedy, sampled = (median([getattr(seconds, name) for seconds in rounds]) for name in ("greedy", "sampled"))
    for what, name in (("NativeEngine.step", "engine"), ("Scheduler.step", "scheduler")):
        of_sampled = median([seconds.sampled / getattr(seconds, name) for seconds in rounds])
        of_greedy = median([seconds.greedy / getattr(seconds, name) for seconds in rounds])
        through = median([getattr(seconds, name) for seconds in rounds])
        recorder.add(
            f"{what} of the C loop, both sampled",
            100 * of_sampled,
            "%",
            details=f"{100 * of_greedy:.0f} % of the greedy C loop; "
            f"{1 / through:,.0f} tok/s, C loop {1 / sampled:,.0f} sampled, {1 / greedy:,.0f} greedy",
            at_least=85,
            keep_probes=name == "engine",
        )


class Seconds(msgspec.Struct):
    """CPU time of a token in each loop."""

    engine: float = 0.0
    scheduler: float = 0.0
    greedy: float = 0.0
    sampled: float = 0.0


def measure_round(engine: Engine, loop: CLoop) -> Seconds:
    """New sequences of the same length for each, decoded side by side.

    The two C loops have weights of their own, which fall out of the caches while others run: the first tokens of a turn
    bring them back and do not count, and turns alternate between the two copies.
    """
    seconds = Seconds()
    with (
        through_engine(engine) as by_engine,
        through_scheduler(engine) as by_scheduler,
        in_c(loop, temperature=0.0, top_p=1.0) as greedily,
        in_c(loop, temperature=TEMPERATURE, top_p=TOP_P) as in_core,
    ):
        order = {"engine": by_engine, "sampled": in_core, "scheduler": by_scheduler, "greedy": greedily}
        for _ in range(NUM_TURNS):
            for name, decode in order.items():
                decode(WARM_UP_TOKENS)
                taken = cpu_seconds(lambda decode=decode: decode(TURN_TOKENS))  # type: ignore[misc]  # bound now
                setattr(seconds, name, getattr(seconds, name) + taken / (NUM_TURNS * TURN_TOKENS))
    return seconds


Decode = Callable[[int], None]
"""Draws so many tokens more."""


@contextmanager
def through_engine(engine: Engine) -> Iterator[Decode]:
    sequence = read(engine, engine.create(), random_tokens(SHORT_CONTEXT))
    draw, token = sampled(0), 5

    def decode(number: int) -> None:
        nonlocal token
        for _ in range(number):
            draw.position += 1
            [drawn] = engine.step([Row(sequence=sequence, tokens=[token], draw=draw)])
            assert isinstance(drawn, Drawn)
            token = drawn.token

    yield decode
    engine.free(sequence)


@contextmanager
def through_scheduler(engine: Engine) -> Iterator[Decode]:
    """As a server runs it, without text: one generation, every token reported."""
    scheduler = Scheduler(engine, max_sequences=8, clock=time.perf_counter)
    fingerprint = engine.info.fingerprint
    key = CacheKey(tenant=TenantId("bench"), user_id=None, model="", profile="", fingerprint=fingerprint)
    generation = Generation(
        prompt=random_tokens(SHORT_CONTEXT),
        draws=(sampled(0),),
        max_tokens=2 * NUM_TURNS * (WARM_UP_TOKENS + TURN_TOKENS),
        stop_tokens=frozenset(),
        cache_key=key,
    )
    scheduler.add(GenerationId(1), generation)
    while not any(isinstance(progress, TokenDrawn) for _, progress in scheduler.step()):
        pass

    def decode(number: int) -> None:
        for _ in range(number):
            [(_, progress)] = scheduler.step()
            assert isinstance(progress, TokenDrawn)

    yield decode
    scheduler.close()


@contextmanager
def in_c(loop: CLoop, *, temperature: float, top_p: float) -> Iterator[Decode]:
    sequence = loop.create()
    loop.prefill(sequence, random_tokens(SHORT_CONTEXT))
    rows = Rows(1, temperature=temperature, top_p=top_p)
    rows.set(0, sequence, [5], Want.TOKEN)

    def decode(number: int) -> None:
        for _ in range(number):
            rows.draw.position += 1
            loop.run(rows)
            rows.tokens[0][0] = rows.drawn[0].token

    yield decode
    loop.free(sequence)


def measure_prefix(engine: Engine, folder: Path, recorder: Recorder) -> None:
    """A question after a long prefix: all of it computed, after a snapshot in memory, after one in a file."""
    prefix, question = random_tokens(LONG_CONTEXT), random_tokens(NUM_QUESTION_TOKENS)
    sequence = read(engine, engine.create(), prefix)
    snapshot = engine.snapshot(sequence)
    engine.free(sequence)
    file = folder / "prefix"
    file.write_bytes(engine.dump(snapshot))

    def answer(sequence: SequenceId) -> None:
        engine.free(read(engine, sequence, question))

    def answer_from_file() -> None:
        loaded = engine.load(file.read_bytes())
        answer(engine.restore(loaded))
        engine.release(loaded)

    cold_s, memory_s, file_s = turns(
        recorder,
        lambda: wall_seconds(lambda: answer(read(engine, engine.create(), prefix))),
        lambda: wall_seconds(lambda: answer(engine.restore(snapshot))),
        lambda: wall_seconds(answer_from_file),
    )
    size_mb = file.stat().st_size / 1e6
    for where, seconds, goal in (("memory", memory_s, 3), (f"a file of {size_mb:.0f} MB", file_s, 8)):
        recorder.add(
            f"first token on {LONG_CONTEXT:,} in {where}",
            100 * seconds / cold_s,
            "%",
            details=f"{1e3 * seconds:.1f} ms of {1e3 * cold_s:,.0f} cold",
            at_most=goal,
            keep_probes=where == "memory",
        )
    engine.release(snapshot)


def read(engine: Engine, sequence: SequenceId, tokens: Sequence[int]) -> SequenceId:
    """Append tokens and draw the first one after them."""
    while tokens:
        size = CHUNK_TOKENS - engine.length(sequence) % CHUNK_TOKENS
        chunk, tokens = tokens[:size], tokens[size:]
        engine.step([Row(sequence=sequence, tokens=chunk, draw=None if tokens else sampled(0))])
    return sequence


def sampled(position: int) -> Draw:
    return Draw(temperature=TEMPERATURE, top_p=TOP_P, seed=1, position=position)


if __name__ == "__main__":
    sys.exit(main())
