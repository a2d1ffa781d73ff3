"""The reference engine against transformers in the same process, one thread, random weights, the *nano* shape.

    python bench/engine_reference.py [decode] [prefill] [long] [streams] [state] [prefix]

Times are CPU seconds of this process: on a shared machine they move far less than the clock on the wall. Contenders
take turns, and the median of the rounds counts. Every line ends in `ok` or `BELOW THE GOAL`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM, DynamicCache

from deepserve.engine.interface import CHUNK_TOKENS, Draw, Row, SequenceId, Snapshot
from deepserve.engine.network_config import decode_config
from deepserve.engine.reference.engine import ReferenceEngine
from deepserve.engine.reference.network import Network

NANO: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "head_dim": 64,
    "q_lora_rank": 128,
    "num_experts_per_tok": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "o_groups": 2,
    "o_lora_rank": 64,
    "index_n_heads": 4,
    "index_head_dim": 64,
    "index_topk": 128,
    "sliding_window": 128,
    "qk_rope_head_dim": 32,
    "compress_ratios": [0, 0, 4, 128, 4, 128, 4, 128],
    "num_hash_layers": 3,
    "max_position_embeddings": 65536,
}
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


def say(what: str, figures: str, value: float, goal: float, *, most: bool = False) -> bool:
    met = value <= goal if most else value >= goal
    sign = "<=" if most else ">="
    print(
        f"{what:34s} {figures:58s} {value:6.2f}  goal {sign} {goal:.2f}  {'ok' if met else 'BELOW THE GOAL'}",
        flush=True,
    )
    return met


def bench_decode(ours: Ours) -> bool:
    theirs, number = Theirs(), 24
    sequence, cache = ours.prefill(prompt(128)), theirs.prefill(prompt(128), 128)
    ours_s, theirs_s = turns(7, lambda: ours.decode([sequence], number), lambda: theirs.decode(cache, number))
    figures = f"{number / ours_s:.1f} tok/s, transformers {number / theirs_s:.1f}"
    return say("decode after 128 tokens", figures, theirs_s / ours_s, 1.5)


def bench_prefill(ours: Ours) -> bool:
    theirs, tokens = Theirs(), prompt(4096)
    ours_s, chunked_s = turns(3, lambda: ours.engine.free(ours.prefill(tokens)), lambda: theirs.prefill(tokens, 512))
    once_s = seconds(lambda: theirs.prefill(tokens, len(tokens)))
    figures = f"{4096 / ours_s:.0f} tok/s, transformers {4096 / once_s:.0f} at once"
    chunked = f"{4096 / ours_s:.0f} tok/s, transformers {4096 / chunked_s:.0f} in chunks of 512"
    met = say("prefill of 4096 against one shot", figures, once_s / ours_s, 5.0)
    return say("prefill of 4096 against chunks", chunked, chunked_s / ours_s, 1.0) and met


def bench_long(ours: Ours) -> bool:
    long, short = prompt(32768), prompt(4096)
    rates = []
    for _ in range(2):
        short_s = statistics.median(seconds(lambda: ours.engine.free(ours.prefill(short))) for _ in range(3))
        long_s = seconds(lambda: ours.engine.free(ours.prefill(long)))
        rates.append((4096 / short_s, 32768 / long_s))
    short_rate, long_rate = max(rates, key=lambda pair: pair[1] / pair[0])
    figures = f"{long_rate:.0f} tok/s at 32k, {short_rate:.0f} at 4k"
    return say("prefill speed kept at 32k", figures, long_rate / short_rate, 0.6)


def bench_streams(ours: Ours) -> bool:
    sequences, number = [ours.prefill(prompt(128 + 8 * i)) for i in range(8)], 24
    one_s, eight_s = turns(7, lambda: ours.decode(sequences[:1], number), lambda: ours.decode(sequences, number))
    figures = f"{8 * number / eight_s:.1f} tok/s together, one alone {number / one_s:.1f}"
    return say("8 streams against one", figures, 8 * one_s / eight_s, 2.5)


def bench_state(ours: Ours) -> bool:
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
    return say("growth of the state, deviation", figures, abs(growth / expected - 1), 0.1, most=True)


def bench_prefix(ours: Ours) -> bool:
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
    return say("second turn on 4096 tokens", figures, warm_s / cold_s, 0.1, most=True)


BENCHES = {
    "decode": bench_decode,
    "prefill": bench_prefill,
    "long": bench_long,
    "streams": bench_streams,
    "state": bench_state,
    "prefix": bench_prefix,
}


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    ours = Ours()
    info = ours.engine.info
    sizes = f"{info.total_parameters / 1e6:.1f}M parameters, {info.active_parameters / 1e6:.1f}M active"
    print(f"nano: {sizes}, fp32, one thread, load {os.getloadavg()[0]:.1f}")
    met = [BENCHES[name](ours) for name in names or BENCHES]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
