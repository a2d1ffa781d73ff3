"""The native core against llama.cpp: same random weights, same formats (bf16, experts in FP4), one thread each.

    python -m bench.engine_native

Times are CPU seconds of the process that computes. The core is driven by a plain loop (`c_loop`) that takes the best
token; llama.cpp by llama-bench's loop, which takes none.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.bandwidth import bandwidth_probe
from bench.c_loop import CLoop
from bench.gguf import write_gguf
from bench.llama import VERSION, Llama, find_llama
from bench.llama_logits import compare_logits
from bench.random_weights import RawTensor, random_tensors
from bench.results import Recorder
from bench.rounds import cpu_seconds, random_tokens, turns
from bench.shapes import NANO, SMALL, Fields
from deepserve.engine.native.abi import Format, StateType
from deepserve.engine.native.shared_library import instruction_sets, load_library
from deepserve.engine.network_config import decode_config

SHORT_CONTEXT = 128
LONG_CONTEXT = 32_768
PREFILL = 512
NUM_STREAMS = 8


class Shape(NamedTuple):
    """A network, and how many times llama.cpp's speed is asked for; None: only told."""

    name: str
    fields: Fields
    decode: float
    streams: float
    prefill: float
    decode_after_long: float | None


SHAPES = (
    Shape("nano", NANO, decode=4.5, streams=6.0, prefill=4.2, decode_after_long=13.0),
    Shape("small", SMALL, decode=2.1, streams=3.8, prefill=3.2, decode_after_long=None),
)


def main() -> int:
    probe = bandwidth_probe()
    recorder = Recorder("Native core against llama.cpp, bf16 + FP4 experts, one thread", probe=probe)
    if probe is None:
        recorder.note("skipped: the native core is not part of this installation")
        return recorder.finish()
    python = find_llama()
    if python is None:
        recorder.note(f"llama-cpp-python {VERSION} could not be built: nothing is compared with llama.cpp")
    for shape in SHAPES:
        tensors = dict(random_tensors(shape.fields))
        with CLoop(decode_config(shape.fields), tensors.items()) as ours:
            if python is not None:
                compare(shape, ours, tensors, python, recorder)
            measure_long_prefill(shape, ours, recorder)
            measure_avx2(shape, ours, tensors, recorder)
            measure_formats(shape, ours, tensors, recorder)
    if python is not None:
        compare_logits(python, recorder)
    return recorder.finish()


def compare(shape: Shape, ours: CLoop, tensors: Mapping[str, RawTensor], python: Path, recorder: Recorder) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.gguf"
        write_gguf(model, ours.config, tensors)
        with Llama(python, model) as theirs:
            if shape.name == SHAPES[0].name:
                recorder.note(f"llama-cpp-python {VERSION} with {theirs.features}")
            compare_decode(shape, ours, theirs, recorder)
            compare_streams(shape, ours, theirs, recorder)
            compare_prefill(shape, ours, theirs, recorder)
            compare_decode_after_long(shape, ours, theirs, recorder)


def compare_decode(shape: Shape, ours: CLoop, theirs: Llama, recorder: Recorder) -> None:
    theirs.open(2 * SHORT_CONTEXT)

    def their_seconds() -> float:
        theirs.clear()
        theirs.prefill(SHORT_CONTEXT)
        return theirs.decode(48).cpu / 48

    theirs_s, ours_s = turns(recorder, their_seconds, lambda: seconds_a_token(ours, [SHORT_CONTEXT], 96))
    read_gb_s = ours.info.active_weight_bytes / ours_s / 1e9
    details = f"{rates(ours_s, theirs_s)}; reads weights at {read_gb_s / recorder.latest_bandwidth:.0%} of the probe"
    recorder.add(f"{shape.name}: decode", theirs_s / ours_s, "x", details=details, at_least=shape.decode)


def compare_streams(shape: Shape, ours: CLoop, theirs: Llama, recorder: Recorder) -> None:
    theirs.open(2 * SHORT_CONTEXT, num_sequences=NUM_STREAMS)

    def their_seconds() -> float:
        theirs.clear()
        for sequence in range(NUM_STREAMS):
            theirs.prefill(SHORT_CONTEXT, sequence)
        return theirs.decode(24).cpu / 24 / NUM_STREAMS

    lengths = [SHORT_CONTEXT] * NUM_STREAMS
    theirs_s, ours_s = turns(recorder, their_seconds, lambda: seconds_a_token(ours, lengths, 48))
    what = f"{shape.name}: {NUM_STREAMS} streams in total"
    recorder.add(what, theirs_s / ours_s, "x", details=rates(ours_s, theirs_s), at_least=shape.streams)


def compare_prefill(shape: Shape, ours: CLoop, theirs: Llama, recorder: Recorder) -> None:
    theirs.open(PREFILL)

    def their_seconds() -> float:
        theirs.clear()
        return theirs.prefill(PREFILL).cpu / PREFILL

    theirs_s, ours_s = turns(recorder, their_seconds, lambda: prefill_seconds(ours, PREFILL))
    what = f"{shape.name}: prefill of {PREFILL}"
    recorder.add(what, theirs_s / ours_s, "x", details=rates(ours_s, theirs_s), at_least=shape.prefill)


def compare_decode_after_long(shape: Shape, ours: CLoop, theirs: Llama, recorder: Recorder) -> None:
    print(f"  {shape.name}: llama.cpp reads {LONG_CONTEXT:,} tokens, which takes minutes", file=sys.stderr, flush=True)
    theirs.open(LONG_CONTEXT + 1024)
    theirs.prefill(LONG_CONTEXT)
    sequence = ours.create()
    ours.prefill(sequence, random_tokens(LONG_CONTEXT))
    theirs_s, ours_s = turns(
        recorder,
        lambda: theirs.decode(12).cpu / 12,
        lambda: cpu_seconds(lambda: ours.decode([sequence], 24)) / 24,
    )
    ours.free(sequence)
    what = f"{shape.name}: decode after {LONG_CONTEXT:,}"
    goal = shape.decode_after_long
    recorder.add(what, theirs_s / ours_s, "x", details=rates(ours_s, theirs_s), at_least=goal)


def measure_long_prefill(shape: Shape, ours: CLoop, recorder: Recorder) -> None:
    short_s, long_s = turns(
        recorder,
        lambda: statistics.fmean(prefill_seconds(ours, PREFILL) for _ in range(4)),
        lambda: prefill_seconds(ours, LONG_CONTEXT),
    )
    what = f"{shape.name}: prefill of {LONG_CONTEXT:,} against {PREFILL}"
    details = f"{1 / long_s:,.0f} tok/s on average, {1 / short_s:,.0f} over {PREFILL}"
    recorder.add(what, 100 * short_s / long_s, "%", details=details, at_least=50)


def measure_avx2(shape: Shape, ours: CLoop, tensors: Mapping[str, RawTensor], recorder: Recorder) -> None:
    runnable = instruction_sets(load_library())
    if not {"avx2", "avx512"} <= set(runnable):
        recorder.note(f"{shape.name}: AVX2 is not compared with AVX-512, this machine and build have {runnable}")
        return
    with CLoop(ours.config, tensors.items(), isa="avx2") as narrow:
        narrow_s, best_s = turns(
            recorder,
            lambda: seconds_a_token(narrow, [SHORT_CONTEXT], 96),
            lambda: seconds_a_token(ours, [SHORT_CONTEXT], 96),
        )
    details = f"{1 / narrow_s:,.0f} tok/s, AVX-512 {1 / best_s:,.0f}"
    what = f"{shape.name}: decode with AVX2 against AVX-512"
    recorder.add(what, 100 * best_s / narrow_s, "%", details=details, at_least=50)


def measure_formats(shape: Shape, ours: CLoop, tensors: Mapping[str, RawTensor], recorder: Recorder) -> None:
    """Other formats of the same weights; told, not judged."""
    for title, dense, experts, states in (
        ("float32", Format.F32, Format.F32, StateType.F32),
        ("bf16", Format.BF16, Format.BF16, StateType.BF16),
        ("int8, FP4 experts", Format.INT8, Format.FP4, StateType.BF16),
    ):
        kept = CLoop(ours.config, tensors.items(), dense=dense, experts=experts, head=dense, states=states)
        with kept as other:
            [seconds] = turns(recorder, partial(seconds_a_token, other, [SHORT_CONTEXT], 96))
        recorder.add(f"{shape.name}: decode in {title}", 1 / seconds, "tok/s")


def seconds_a_token(
    loop: CLoop, lengths: Sequence[int], number: int, *, temperature: float = 0.0, top_p: float = 1.0
) -> float:
    """CPU seconds per token of decoding side by side after prompts of these lengths."""
    sequences = [loop.create() for _ in lengths]
    for sequence, length in zip(sequences, lengths, strict=True):
        loop.prefill(sequence, random_tokens(length))
    seconds = cpu_seconds(lambda: loop.decode(sequences, number, temperature=temperature, top_p=top_p))
    for sequence in sequences:
        loop.free(sequence)
    return seconds / number / len(lengths)


def prefill_seconds(loop: CLoop, num_tokens: int) -> float:
    """CPU seconds per token."""
    sequence, tokens = loop.create(), random_tokens(num_tokens)
    seconds = cpu_seconds(lambda: loop.prefill(sequence, tokens))
    loop.free(sequence)
    return seconds / num_tokens


def rates(ours_s: float, theirs_s: float) -> str:
    return f"{1 / ours_s:,.0f} tok/s, llama.cpp {1 / theirs_s:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
