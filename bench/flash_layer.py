"""Layers of DeepSeek-V4-Flash in their real dimensions and formats (FP8, experts in FP4), with random weights.

    python -m bench.flash_layer

The whole network takes more memory than most machines have, one layer with all its 256 experts 3.4 GB. What a layer
costs is measured with one and with two threads and held against the bandwidth of the same number of threads; what the
whole network would cost is extrapolated, and says so. One thread's times are its CPU seconds, two threads' the clock's
on the wall.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.bandwidth import bandwidth_probe
from bench.c_loop import CLoop
from bench.random_weights import random_tensors
from bench.results import Recorder
from bench.rounds import Clock, cpu_seconds, random_tokens, turns, wall_seconds
from bench.shapes import FLASH, FLASH_RATIOS, FLASH_VOCAB_SIZE, Fields
from deepserve.engine.interface import CHUNK_TOKENS
from deepserve.engine.native import abi
from deepserve.engine.native.abi import Format
from deepserve.engine.native.shared_library import load_library
from deepserve.engine.network_config import decode_config

CSA, HCA = 4, 128
VOCAB_SIZE = 1024
"""A small head, so that the layer is what is measured; tokens differ enough to reach all experts."""
SHORT_CONTEXT = 256
NUM_STEPS = 12
STATE_BYTES = 64 << 20

SERVER_GB_S = 12 * 38.4
"""Twelve channels of DDR5-4800, nominal."""
SERVER_SHARE = 0.78
"""Of the nominal bandwidth, what such servers sustain when all cores read."""

MILLION = 1_048_576 - CHUNK_TOKENS
"""A position with 128 tokens left in the context."""
NO_SCAN = 4096
"""A context where the indexer already chooses, but has little to look through."""


class LayerTime(NamedTuple):
    seconds: float
    read_bytes: int
    head_bytes: int


def main() -> int:
    probe = bandwidth_probe()
    recorder = Recorder("Layers of V4-Flash, FP8 + FP4 experts, random weights", probe=probe)
    if probe is None:
        recorder.note("skipped: the native core is not part of this installation")
        return recorder.finish()
    alone = {ratio: measure_layer(ratio, 1, recorder) for ratio in (CSA, HCA)}
    extrapolate("one core", alone, recorder)
    if (os.cpu_count() or 1) > 1:
        together = {ratio: measure_layer(ratio, 2, recorder) for ratio in (CSA, HCA)}
        extrapolate("two cores", together, recorder)
    else:
        recorder.note("two cores are not measured: this machine has one")
    measure_million(recorder)
    return recorder.finish()


def layer(ratio: int, **fields: object) -> Fields:
    """A network of one layer."""
    return {
        **FLASH,
        "num_hidden_layers": 1,
        "compress_ratios": [ratio],
        "num_hash_layers": 0,
        "vocab_size": VOCAB_SIZE,
        **fields,
    }


def load(fields: Fields, *, num_threads: int = 1, memory_bytes: int = STATE_BYTES) -> CLoop:
    return CLoop(
        decode_config(fields),
        random_tensors(fields, dense="F8_E4M3"),
        dense=Format.FP8,
        experts=Format.FP4,
        head=Format.BF16,
        num_threads=num_threads,
        memory_bytes=memory_bytes,
    )


def measure_layer(ratio: int, num_threads: int, recorder: Recorder) -> LayerTime:
    kind, cores = "CSA" if ratio == CSA else "HCA", "one core" if num_threads == 1 else "two cores"
    probe = bandwidth_probe(num_threads)
    assert probe is not None
    with load(layer(ratio), num_threads=num_threads) as loop:
        sequence = loop.create()
        loop.prefill(sequence, random_tokens(SHORT_CONTEXT, VOCAB_SIZE))
        clock = cpu_seconds if num_threads == 1 else wall_seconds
        # Several threads try out how best to share the work first.
        step_seconds(loop, sequence, 3 * NUM_STEPS)
        seconds, readable_gb_s = turns(recorder, lambda: step_seconds(loop, sequence, NUM_STEPS, clock=clock), probe)
        info = loop.info
    read_gb_s = info.active_weight_bytes / seconds / 1e9
    details = f"{1e3 * seconds:.2f} ms for {info.active_weight_bytes / 1e6:.0f} MB, {read_gb_s:.1f} GB/s"
    what = f"{kind} layer, {cores}"
    if num_threads == 1:
        share = 100 * read_gb_s / readable_gb_s
        recorder.add(f"{what}, of the probe", share, "%", details=f"{details} of {readable_gb_s:.1f}", at_least=90)
    else:
        details += f" of {readable_gb_s:.1f}; {info.num_threads} threads used"
        recorder.add(what, read_gb_s, "GB/s", details=details, at_least=45)
    head_bytes = 2 * VOCAB_SIZE * FLASH["hidden_size"]
    return LayerTime(seconds, info.active_weight_bytes, head_bytes)


def step_seconds(loop: CLoop, sequence: int, number: int, *, clock: Clock = cpu_seconds) -> float:
    """Median of so many steps; random tokens, so that every step reads other experts."""
    tokens = random_tokens(number, VOCAB_SIZE)
    times = [clock(partial(loop.step, [(sequence, [token])], wants_token=True)) for token in tokens]
    return statistics.median(times)


def extrapolate(cores: str, times: dict[int, LayerTime], recorder: Recorder) -> None:
    """All 43 layers and the whole head from the two kinds measured; window layers are the HCA layer without its
    compressor, taken as it is."""
    slowest = max(time.seconds / time.read_bytes for time in times.values())
    head = 2 * FLASH_VOCAB_SIZE * FLASH["hidden_size"]
    seconds, read_bytes = head * slowest, float(head)
    for ratio in FLASH_RATIOS:
        time = times[CSA if ratio == CSA else HCA]
        layer_bytes = time.read_bytes - time.head_bytes
        seconds += time.seconds * layer_bytes / time.read_bytes
        read_bytes += layer_bytes
    details = f"EXTRAPOLATED to {len(FLASH_RATIOS)} layers and the head, {read_bytes / 1e9:.1f} GB a token"
    recorder.add(f"V4-Flash whole, {cores}", 1 / seconds, "tok/s", details=details)
    if cores == "one core":
        details = f"EXTRAPOLATED: {SERVER_SHARE:.0%} of {SERVER_GB_S:.0f} GB/s, nothing lost between the cores"
        rate = SERVER_SHARE * SERVER_GB_S * 1e9 / read_bytes
        recorder.add("V4-Flash whole, 12-channel server, at most", rate, "tok/s", details=details)


# One million tokens


def measure_million(recorder: Recorder) -> None:
    """What a step costs more at a million tokens than at few, in layers with few experts."""
    near_position = NO_SCAN
    with load(small_experts(CSA), memory_bytes=1 << 30) as loop:
        num_entries, number = MILLION // CSA, loop.config.index_topk
        scores = np.random.default_rng(0).standard_normal(num_entries).astype(np.float32)
        far, near = at_million(loop), at_position(loop, near_position)
        far_s, near_s, choice_s, worst_s = turns(
            recorder,
            lambda: step_seconds(loop, far, NUM_STEPS),
            lambda: step_seconds(loop, near, NUM_STEPS),
            lambda: choice_seconds(scores, number),
            lambda: choice_seconds(np.sort(scores), number),
        )
    details = f"step {1e3 * far_s:.2f} ms, {1e3 * near_s:.2f} at {near_position:,} tokens; without the choice"
    scan_ms = 1e3 * (far_s - near_s - choice_s)
    recorder.add("index scan of a CSA layer at 1M tokens", scan_ms, "ms", details=details, at_most=11, keep_probes=True)
    details = f"if scores rise, the worst order: {1e3 * worst_s:.2f} ms"
    recorder.add(f"choice of {number} of {num_entries:,} entries", 1e3 * choice_s, "ms", details=details, at_most=1)

    with load(small_experts(HCA), memory_bytes=1 << 30) as loop:
        far, near = at_million(loop), at_position(loop, SHORT_CONTEXT)
        far_s, near_s = turns(
            recorder, lambda: step_seconds(loop, far, NUM_STEPS), lambda: step_seconds(loop, near, NUM_STEPS)
        )
    details = f"step {1e3 * far_s:.2f} ms, {1e3 * near_s:.2f} at {SHORT_CONTEXT} tokens"
    recorder.add("attention of an HCA layer at 1M tokens", 1e3 * (far_s - near_s), "ms", details=details, at_most=8)


def choice_seconds(scores: NDArray[np.float32], number: int) -> float:
    """CPU seconds of choosing the best of so many scores, by itself."""
    select, chosen, fault = load_library().ds_test_select, (ctypes.c_int32 * number)(), abi.Fault()
    values = scores.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return statistics.median(
        cpu_seconds(lambda: select(None, values, len(scores), number, chosen, fault)) for _ in range(NUM_STEPS)
    )


def small_experts(ratio: int, **fields: object) -> Fields:
    return layer(ratio, n_routed_experts=8, moe_intermediate_size=256, **fields)


def at_position(loop: CLoop, position: int) -> int:
    sequence = loop.create()
    loop.prefill(sequence, random_tokens(position, VOCAB_SIZE))
    return sequence


def at_million(loop: CLoop) -> int:
    return loop.load(random_state(loop, MILLION))


def random_state(loop: CLoop, position: int) -> NDArray[np.uint8]:
    """The state blob of a sequence that never was; layout: docs/engine.md."""
    config, generator = loop.config, np.random.default_rng(0)
    ratios = config.compress_ratios
    header = [np.frombuffer(b"DSSTATE\x01", np.uint8), _bytes(np.array([position], np.int64))]
    sizes = (len(ratios), config.head_dim, config.index_head_dim, config.sliding_window, 1, 1)
    header.append(_bytes(np.array(sizes, np.int32)))
    parts: list[NDArray[np.uint8]] = []
    for number, ratio in enumerate(ratios):
        is_csa = config.kind(number) == "csa"
        header.append(_bytes(np.array([ratio, is_csa, is_csa], np.int32)))
        parts.append(_rows(min(position, config.sliding_window), config.head_dim, generator))
        entries = position // ratio
        tail = position - max(0, entries * ratio - (ratio if is_csa else 0))
        per_token = (2 if is_csa else 1) * 2  # halves; content and gate
        parts.append(_rows(entries, config.head_dim, generator))
        parts.append(np.zeros(tail * per_token * config.head_dim * 4, np.uint8))
        if is_csa:
            keys = np.empty((entries, config.index_head_dim + 4), np.uint8)
            values = generator.integers(-127, 128, (entries, config.index_head_dim), np.int8)
            keys[:, : config.index_head_dim] = values.view(np.uint8)
            keys[:, config.index_head_dim :] = _bytes(np.full(1, 0.01, np.float32))
            parts += [keys.reshape(-1), np.zeros(tail * per_token * config.index_head_dim * 4, np.uint8)]
    return np.concatenate([*header, *parts])


def _rows(number: int, width: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Normal values in bf16; the same few thousand rows again and again."""
    some = (generator.standard_normal((4099, width), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return _bytes(some[np.arange(number) % len(some)])


def _bytes(
    values: NDArray[np.int32] | NDArray[np.int64] | NDArray[np.uint16] | NDArray[np.float32],
) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
