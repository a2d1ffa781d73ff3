"""Counts and durations that Prometheus reads, kept as plain numbers.

They belong to one event loop, so nothing guards them: the library's own counters take a lock for every step, which
cost a request more than counting it is worth.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override


class Tally(Collector):
    """How often something happened, or how much there was of it, by labels. parts: of which one is counted."""

    def __init__(self, name: str, text: str, labels: Sequence[str], *, parts: int = 1) -> None:
        self._parts = parts
        self._name = name
        self._text = text
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        self._counts[labels] = self._counts.get(labels, 0) + count

    @override
    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count if self._parts == 1 else count / self._parts)
        yield family


class _Durations(msgspec.Struct):
    """counts: of each bucket alone, the last without a bound."""

    counts: list[int]
    seconds: float = 0.0


class DurationTally(Collector):
    """How long something took, by labels, in buckets. bounds: seconds, rising, each within its bucket."""

    def __init__(self, name: str, text: str, labels: Sequence[str], *, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = bounds
        self._spelled_bounds = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._durations: dict[tuple[str, ...], _Durations] = {}

    def add(self, *labels: str, seconds: float) -> None:
        durations = self._durations.get(labels)
        if durations is None:
            durations = self._durations[labels] = _Durations(counts=[0] * (len(self._bounds) + 1))
        durations.counts[bisect_left(self._bounds, seconds)] += 1
        durations.seconds += seconds

    @override
    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, durations in self._durations.items():
            buckets = list(zip(self._spelled_bounds, accumulate(durations.counts), strict=True))
            family.add_metric(labels, buckets, sum_value=durations.seconds)
        yield family
