"""How fast one thread reads memory now: what every measurement is held against."""

from __future__ import annotations

from collections.abc import Callable

from deepserve.engine.native.shared_library import find_library, load_library

PROBE_BYTES = 256 << 20
"""Beyond any cache, and read in about ten milliseconds."""


def bandwidth_probe(num_threads: int = 1) -> Callable[[], float] | None:
    """A function that measures GB/s; None without the native core, which does the reading."""
    if find_library() is None:
        return None
    measure = load_library().ds_measure_read_bandwidth

    def probe() -> float:
        bytes_per_second: float = measure(PROBE_BYTES, num_threads)
        if bytes_per_second < 0:
            raise MemoryError("no memory for the bandwidth probe")
        return bytes_per_second / 1e9

    return probe
