"""Counts and durations look as if the library had kept them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.registry import Collector

from deepserve.server.tallies import DurationTally, Tally

BOUNDS = (0.005, 0.5, 1, 600)
SECONDS = (0.0, 0.005, 0.0051, 0.7, 1, 1.0001, 600, 601, 1e9)


def shown(*collectors: Collector) -> list[str]:
    """Without the moments at which the library began to count."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_counts_are_shown_as_those_of_the_library() -> None:
    ours, theirs = Tally("things", "All.", ("kind", "end")), Counter("things", "All.", ("kind", "end"), registry=None)
    for kind, end, count in (("a", "good", 1), ("a", "bad", 0), ("b", "good", 20), ("a", "good", 2)):
        ours.add(kind, end, count=count)
        theirs.labels(kind, end).inc(count)
    assert shown(ours) == shown(theirs)
    assert 'things_total{end="good",kind="a"} 3.0' in shown(ours)


def test_durations_are_shown_as_those_of_the_library() -> None:
    ours = DurationTally("taken", "All.", ("model",), bounds=BOUNDS)
    theirs = Histogram("taken", "All.", ("model",), buckets=BOUNDS, registry=None)
    for number, seconds in enumerate(SECONDS):
        model = f"m{number % 2}"
        ours.add(model, seconds=seconds)
        theirs.labels(model).observe(seconds)
    assert shown(ours) == shown(theirs)
    assert 'taken_bucket{le="+Inf",model="m0"} 5.0' in shown(ours)
