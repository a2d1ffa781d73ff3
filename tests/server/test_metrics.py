"""What Prometheus reads."""

from __future__ import annotations

from deepserve.server.metrics import Metrics


def test_the_back_ends_numbers_are_read_anew_at_every_scrape() -> None:
    numbers = {"cache_bytes": 1.0}
    metrics = Metrics(["m"], clock=lambda: 0.0, gauges=lambda: numbers)
    assert b"deepserve_engine_cache_bytes 1.0" in metrics.render()
    numbers["cache_bytes"] = 2.0
    assert b"deepserve_engine_cache_bytes 2.0" in metrics.render()


def test_a_back_end_without_numbers_changes_nothing() -> None:
    assert b"deepserve_engine" not in Metrics(["m"], clock=lambda: 0.0).render()
