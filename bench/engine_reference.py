"""The reference engine against transformers in the same process, one thread, random weights, the *nano* shape.

    python -m bench.engine_reference

Times are CPU seconds of this process: on a shared machine they move far less than the clock on the wall. Contenders
take turns, and the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM, DynamicCache

from bench.results import Recorder
from bench.shapes import NANO
from deepserve.engine.interface import CHUNK_TOKENS, Draw, Row, SequenceId, Snapshot
from deepserve.engine.network_config import decode_config
from deepserve.engine.reference.engine import ReferenceEngine
from deepserve.engine.reference.network import Network

GREEDY = Draw(temperature=0)


class Ours:
    def __init__(self) -> None:
        network = Network(decode_config(NANO))
        network.initialise(torch.Generator().manual_seed(0))
        self.engine = ReferenceEngine(network, memory_bytes=1 << 30)

    def prefill(self, tokens: list[int], sequence: SequenceId | None = None) -> SequenceId:
        """Append tokens and draw the first one after them."""
        sequence = self.engine.create() if sequence is None else sequence
        while tokens:
            size = CHUNK_TOKENS - self.engine.length(sequence) % CHUNK_TOKENS
            chunk, tokens = tokens[:size], tokens[size:]
            self.engine.step([Row(sequence=sequence, tokens=chunk, draw=None if tokens else GREEDY)])
        return sequence

    def decode(self, sequences: list[SequenceId], number: int) -> None:
        tokens = [5] * len(sequences)
        for _ in range(number):
            rows = [Row(sequence=s, tokens=[t], draw=GREEDY) for s, t in zip(sequences, tokens, strict=True)]
            tokens = [getattr(drawn, "token", 0) for drawn in self.engine.step(rows)]


class Theirs:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model: Any = DeepseekV4ForCausalLM(DeepseekV4Config(**NANO, bos_token_id=0, eos_token_id=None))
        for name, buffer in self.model.named_buffers():
            if name.endswith("tid2eid"):
                buffer.copy_(torch.rand(8192, 16).argsort(-1)[:, :4])
        self.model.train(False)

    @torch.inference_mode()
    def prefill(self, tokens: list[int], chunk: int) -> Any:
        cache = DynamicCache(config=self.model.config)
        for first in range(0, len(tokens), chunk):
            part = torch.tensor([tokens[first : first + chunk]])
            self.model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    @torch.inference_mode()
    def decode(self, cache: Any, number: int) -> None:
        token = torch.tensor([[5]])
        for _ in range(number):
            logits = self.model(input_ids=token, past_key_values=cache, use_cache=True).logits
            token = logits[:, -1:].argmax(-1)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def turns(rounds: int, *contenders: Callable[[], object]) -> list[float]:
    """Median CPU seconds of each contender, after one round that does not count."""
    taken: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for work, times in zip(contenders, taken, strict=True):
            times += [seconds(work)] if number else []
            if not number:
                work()
    return [statistics.median(times) for times in taken]


def prompt(length: int) -> list[int]:
    return torch.randint(3, 8192, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def bench_decode(ours: Ours, recorder: Recorder) -> None:
    theirs, number = Theirs(), 24
    sequence, cache = ours.prefill(prompt(128)), theirs.prefill(prompt(128), 128)
    ours_s, theirs_s = turns(7, lambda: ours.decode([sequence], number), lambda: theirs.decode(cache, number))
    figures = f"{number / ours_s:.1f} tok/s, transformers {number / theirs_s:.1f}"
    recorder.add("decode after 128 tokens", theirs_s / ours_s, "x", details=figures, at_least=1.5)


def bench_prefill(ours: Ours, recorder: Recorder) -> None:
    theirs, tokens = Theirs(), prompt(4096)
    ours_s, chunked_s = turns(3, lambda: ours.engine.free(ours.prefill(tokens)), lambda: theirs.prefill(tokens, 512))
    once_s = seconds(lambda: theirs.prefill(tokens, len(tokens)))
    figures = f"{4096 / ours_s:.0f} tok/s, transformers {4096 / once_s:.0f} at once"
    chunked = f"{4096 / ours_s:.0f} tok/s, transformers {4096 / chunked_s:.0f} in chunks of 512"
    recorder.add("prefill of 4096 against one shot", once_s / ours_s, "x", details=figures, at_least=5.0)
    recorder.add("prefill of 4096 against chunks", chunked_s / ours_s, "x", details=chunked, at_least=1.0)


def bench_long(ours: Ours, recorder: Recorder) -> None:
    long, short = prompt(32768), prompt(4096)
    rates = []
    for _ in range(2):
        short_s = statistics.median(seconds(lambda: ours.engine.free(ours.prefill(short))) for _ in range(3))
        long_s = seconds(lambda: ours.engine.free(ours.prefill(long)))
        rates.append((4096 / short_s, 32768 / long_s))
    short_rate, long_rate = max(rates, key=lambda pair: pair[1] / pair[0])
    figures = f"{long_rate:.0f} tok/s at 32k, {short_rate:.0f} at 4k"
    recorder.add("prefill speed kept at 32k", 100 * long_rate / short_rate, "%", details=figures, at_least=60)


def bench_streams(ours: Ours, recorder: Recorder) -> None:
    sequences, number = [ours.prefill(prompt(128 + 8 * i)) for i in range(8)], 24
    one_s, eight_s = turns(7, lambda: ours.decode(sequences[:1], number), lambda: ours.decode(sequences, number))
    figures = f"{8 * number / eight_s:.1f} tok/s together, one alone {number / one_s:.1f}"
    recorder.add("8 streams against one", 8 * one_s / eight_s, "x", details=figures, at_least=2.5)


def bench_state(ours: Ours, recorder: Recorder) -> None:
    sizes = []
    for length in (128, 16384 + 128):
        sequence = ours.prefill(prompt(length))
        snapshot = ours.engine.snapshot(sequence)
        sizes.append(snapshot.size_bytes)
        ours.engine.release(snapshot)
        ours.engine.free(sequence)
    growth = (sizes[1] - sizes[0]) / 16384
    ratios = NANO["compress_ratios"]
    csa, hca = ratios.count(4), ratios.count(128)
    expected = (csa * (NANO["head_dim"] + NANO["index_head_dim"]) / 4 + hca * NANO["head_dim"] / 128) * 4
    figures = f"{growth:.1f} bytes a token, formula {expected:.1f}"
    deviation = abs(growth / expected - 1)
    recorder.add("growth of the state, deviation", 100 * deviation, "%", details=figures, at_most=10)


def bench_prefix(ours: Ours, recorder: Recorder) -> None:
    first, second = prompt(4096), prompt(32)

    def cold() -> None:
        ours.engine.free(ours.prefill(first + second))

    def warm(snapshot: Snapshot) -> None:
        ours.engine.free(ours.prefill(second, ours.engine.restore(snapshot)))

    sequence = ours.prefill(first)
    snapshot = ours.engine.snapshot(sequence)
    ours.engine.free(sequence)
    cold_s, warm_s = turns(3, cold, lambda: warm(snapshot))
    ours.engine.release(snapshot)
    figures = f"first token after {1e3 * warm_s:.0f} ms, cold {1e3 * cold_s:.0f} ms"
    recorder.add("second turn on 4096 tokens", 100 * warm_s / cold_s, "%", details=figures, at_most=10)


def main() -> int:
    torch.set_num_threads(1)
    recorder = Recorder("PyTorch reference against transformers, nano shape, float32, one thread")
    ours = Ours()
    info = ours.engine.info
    recorder.note(f"{info.total_parameters / 1e6:.1f}M parameters, {info.active_parameters / 1e6:.1f}M active")
    for measure in (bench_decode, bench_prefill, bench_long, bench_streams, bench_state, bench_prefix):
        measure(ours, recorder)
    return recorder.finish()


if __name__ == "__main__":
    sys.exit(main())
