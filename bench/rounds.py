"""Contenders take turns, and the median of the rounds counts."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np

from bench.results import Recorder

ROUNDS = 5

Clock = Callable[[Callable[[], object]], float]
"""Seconds that some work takes."""


def turns(recorder: Recorder, *contenders: Callable[[], float]) -> list[float]:
    """Median of what each contender returns, after one round that does not count. Every round probes the bandwidth."""
    found: list[list[float]] = [[] for _ in contenders]
    for number in range(ROUNDS + 1):
        if number:
            recorder.probe()
        for measure, values in zip(contenders, found, strict=True):
            value = measure()
            if number:
                values.append(value)
    return [statistics.median(values) for values in found]


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process: for one busy thread, moved far less by a shared machine than the clock on the wall."""
    started = time.process_time()
    work()
    return time.process_time() - started


def wall_seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


_seeds = itertools.count()


def random_tokens(number: int, vocab_size: int = 8000) -> list[int]:
    """No two calls give the same."""
    tokens: list[int] = np.random.default_rng(next(_seeds)).integers(3, vocab_size, number).tolist()
    return tokens
