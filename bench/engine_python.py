"""What Python around the native core costs, and what a remembered prefix saves. Nano shape, one thread.

python -m bench.engine_python
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.bandwidth import bandwidth_probe
from bench.c_loop import CLoop
from bench.engine_native import LONG_CONTEXT, SHORT_CONTEXT, seconds_a_token
from bench.random_weights import random_tensors, write_checkpoint
from bench.results import Recorder
from bench.rounds import cpu_seconds, random_tokens, turns, wall_seconds
from bench.shapes import NANO
from deepserve.core.tenant import TenantId
from deepserve.engine.generation import Generation, GenerationId, TokenDrawn
from deepserve.engine.interface import CHUNK_TOKENS, Draw, Drawn, Engine, Row, SequenceId
from deepserve.engine.loader import load_engine
from deepserve.engine.network_config import decode_config
from deepserve.engine.options import EngineOptions
from deepserve.engine.prefix_index import CacheKey
from deepserve.engine.scheduler import Scheduler

NUM_TOKENS = 192
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
    """Decoding through the engine and the scheduler, sampled; the C loop takes the best token."""
    with CLoop(decode_config(NANO), random_tensors(NANO)) as loop:
        engine_s, scheduler_s, alone_s, sampled_s = turns(
            recorder,
            lambda: engine_seconds(engine) / NUM_TOKENS,
            lambda: scheduler_seconds(engine) / NUM_TOKENS,
            lambda: seconds_a_token(loop, [SHORT_CONTEXT], NUM_TOKENS),
            lambda: seconds_a_token(loop, [SHORT_CONTEXT], NUM_TOKENS, temperature=TEMPERATURE, top_p=TOP_P),
        )
    for what, seconds in (("NativeEngine.step", engine_s), ("Scheduler.step", scheduler_s)):
        details = f"{1 / seconds:,.0f} tok/s sampled, C loop {1 / alone_s:,.0f} greedy, {1 / sampled_s:,.0f} sampled"
        is_last = what == "Scheduler.step"
        recorder.add(
            f"decode through {what}",
            100 * alone_s / seconds,
            "%",
            details=details,
            at_least=85,
            keep_probes=not is_last,
        )


def engine_seconds(engine: Engine) -> float:
    sequence = read(engine, engine.create(), random_tokens(SHORT_CONTEXT))

    def decode() -> None:
        token = 5
        for position in range(NUM_TOKENS):
            [drawn] = engine.step([Row(sequence=sequence, tokens=[token], draw=sampled(position))])
            assert isinstance(drawn, Drawn)
            token = drawn.token

    seconds = cpu_seconds(decode)
    engine.free(sequence)
    return seconds


def scheduler_seconds(engine: Engine) -> float:
    """As a server runs it, without text: one generation, every token reported."""
    scheduler = Scheduler(engine, max_sequences=8, clock=time.perf_counter)
    fingerprint = engine.info.fingerprint
    key = CacheKey(tenant=TenantId("bench"), user_id=None, model="", profile="", fingerprint=fingerprint)
    generation = Generation(
        prompt=random_tokens(SHORT_CONTEXT),
        draws=(sampled(0),),
        max_tokens=NUM_TOKENS + 1,
        stop_tokens=frozenset(),
        cache_key=key,
    )
    scheduler.add(GenerationId(1), generation)
    while not any(isinstance(progress, TokenDrawn) for _, progress in scheduler.step()):
        pass

    def decode() -> None:
        while scheduler.step():
            pass

    seconds = cpu_seconds(decode)
    scheduler.close()
    return seconds


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
