"""llama.cpp as an independent judge: does it compute the same network from the same weights?"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.c_loop import CLoop
from bench.gguf import write_gguf
from bench.llama import Llama
from bench.random_weights import RawTensor, as_float32, random_tensors
from bench.results import Recorder
from bench.rounds import random_tokens
from bench.shapes import NANO
from deepserve.engine.native.abi import Format, StateType
from deepserve.engine.network_config import NetworkConfig, decode_config

FIELDS = {**NANO, "index_n_heads": 32}
"""More index heads than nano has: with few of them exact ties of scores are normal, and each program breaks them in
its own way."""
NUM_TOKENS = 900
"""Enough for the indexer to choose."""


def compare_logits(python: Path, recorder: Recorder) -> None:
    """In float32, where they must agree but for rounding; and in the formats that are raced, where both round."""
    config, tensors, tokens = decode_config(FIELDS), dict(random_tensors(FIELDS)), random_tokens(NUM_TOKENS)
    wide = as_float32(tensors)
    theirs = llama_logits(python, config, wide, tokens)
    with CLoop(
        config, wide.items(), dense=Format.F32, experts=Format.F32, head=Format.F32, states=StateType.F32
    ) as loop:
        exact = loop.logits(tokens)
    add_comparison(recorder, "logits in float32, ours and llama.cpp's", exact, theirs, at_most=1e-6)
    with CLoop(config, tensors.items()) as loop:
        rounded = loop.logits(tokens)
    add_comparison(recorder, "ours in bf16 + FP4, and float32", exact, rounded)
    add_comparison(
        recorder, "llama.cpp's in bf16 + FP4, and float32", exact, llama_logits(python, config, tensors, tokens)
    )


def llama_logits(
    python: Path, config: NetworkConfig, tensors: Mapping[str, RawTensor], tokens: Sequence[int]
) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_gguf(folder / "model.gguf", config, tensors)
        with Llama(python, folder / "model.gguf") as llama:
            llama.open(len(tokens), exact=True)
            llama.logits(tokens, folder / "logits")
        return np.fromfile(folder / "logits", np.float32).reshape(len(tokens), -1)


def add_comparison(
    recorder: Recorder,
    what: str,
    exact: NDArray[np.float32],
    other: NDArray[np.float32],
    *,
    at_most: float | None = None,
) -> None:
    largest = float(np.abs(exact - other).max())
    agree = float((exact.argmax(-1) == other.argmax(-1)).mean())
    details = f"largest difference {largest:.1e}, spread {exact.std():.2f}, best token the same {agree:.1%}"
    recorder.add(what, mean_divergence(exact, other), "nat KL", details=details, at_most=at_most)


def mean_divergence(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence of their next-token distribution from ours, in nats."""
    p, q = _log_probabilities(ours), _log_probabilities(theirs)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(-1, keepdims=True))
    return wide
