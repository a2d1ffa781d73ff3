"""Masks computed beside the core: while it goes through the layers, another thread works out what may be drawn.

llguidance releases the GIL while it computes, and so does the call into the core. The core waits for a mask only when
it has the logits. Masks that are quicker computed than a thread is woken are computed before the step; what is drawn
is the same.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Sequence
from time import perf_counter

from deepserve.engine.mask_source import MaskSource, computed_mask
from deepserve.engine.native.abi import LateMask

WAKING_S = 40e-6
"""What a step loses to a thread that is woken and wants the GIL; masks that take less altogether do not get one."""

_SMOOTHING = 0.05


class MaskJob:
    """One mask of a step. `bits` stay here until the step is over: the core reads them where they are."""

    def __init__(self, source: MaskSource, late: LateMask) -> None:
        self._source = source
        self._late = late
        self._bits: bytes | None = None

    def do(self, library: ctypes.CDLL, vocab_size: int) -> None:
        self._bits = computed_mask(self._source, vocab_size=vocab_size)
        library.ds_mask_settle(self._late, self._bits, len(self._bits or b""))


class MaskWorker:
    """Takes the jobs of one step after the other; its thread begins with the first it needs. Close it after the last.

    has_thread  where there is one core, two threads only take turns
    waking_s    what a thread costs a step
    """

    def __init__(self, library: ctypes.CDLL, *, vocab_size: int, has_thread: bool, waking_s: float = WAKING_S) -> None:
        self._library = library
        self._has_thread = has_thread
        self._waking_s = waking_s
        self._mask_s = 0.0
        self._vocab_size = vocab_size
        self._steps: queue.SimpleQueue[Sequence[MaskJob]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, jobs: Sequence[MaskJob]) -> None:
        """Begin with a step's jobs, in the order in which the core will wait for them, or do them at once."""
        if not self._has_thread or len(jobs) * self._mask_s < self._waking_s:
            self._do(jobs)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="deepserve-masks", daemon=True)
            self._thread.start()
        self._steps.put(jobs)

    def close(self) -> None:
        self._steps.put(())

    def _work(self) -> None:
        while jobs := self._steps.get():
            self._do(jobs)

    def _do(self, jobs: Sequence[MaskJob]) -> None:
        for job in jobs:
            started = perf_counter()
            job.do(self._library, self._vocab_size)
            self._mask_s += _SMOOTHING * (perf_counter() - started - self._mask_s)
