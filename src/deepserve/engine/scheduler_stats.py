"""What a scheduler counts, and what can be seen of it."""

from __future__ import annotations

import msgspec


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges and totals since the start; ready to be printed as metrics.

    tokens_forced  reported, but not drawn: their guides left no choice
    """

    running: int
    waiting: int
    cache_bytes: int
    cache_snapshots: int
    cache_evictions: int
    disk_cache_hits: int
    disk_cache_misses: int
    disk_cache_hit_tokens: int
    memory_free_ratio: float
    steps: int
    step_seconds: float
    longest_step_s: float
    prompt_tokens_computed: int
    prompt_tokens_restored: int
    tokens_drawn: int
    tokens_forced: int
    preemptions: int
    faults: int


class SchedulerTotals(msgspec.Struct):
    """Counted since the start."""

    steps: int = 0
    step_seconds: float = 0.0
    longest_step_s: float = 0.0
    prompt_tokens_computed: int = 0
    prompt_tokens_restored: int = 0
    tokens_drawn: int = 0
    tokens_forced: int = 0
    preemptions: int = 0
    faults: int = 0
