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
from time import thread_time
from typing import NamedTuple

from deepserve.engine.mask_source import MaskSource, computed_mask
from deepserve.engine.native.abi import LateMask

WAKING_S = 20e-6
"""What a step loses to a thread that is woken and wants the GIL; masks that take less altogether do not get one."""

_SMOOTHING = 0.05


class MaskJob(NamedTuple):
    """One mask of a step, and where the core waits for it."""

    source: MaskSource
    late: LateMask


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
        self._kept: list[bytes | None] = []

    def is_worth_waking(self, num_masks: int) -> bool:
        """Whether a step's masks are better taken by the thread than computed before the step."""
        return self._has_thread and num_masks * self._mask_s >= self._waking_s

    def compute(self, source: MaskSource) -> bytes | None:
        """The mask, here and now; None where it cannot be computed."""
        started = thread_time()  # of this thread alone: waiting for the GIL would look as if masks were dear
        mask = computed_mask(source, vocab_size=self._vocab_size)
        self._note(thread_time() - started, 1)
        return mask

    def _note(self, seconds: float, num_masks: int) -> None:
        """Keep the running mean of what a mask takes."""
        self._mask_s += min(1.0, _SMOOTHING * num_masks) * (seconds / num_masks - self._mask_s)

    def take(self, jobs: Sequence[MaskJob]) -> None:
        """Begin with a step's jobs, in the order in which the core will wait for them."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="deepserve-masks", daemon=True)
            self._thread.start()
        self._steps.put(jobs)

    def close(self) -> None:
        self._steps.put(())

    def _work(self) -> None:
        while jobs := self._steps.get():
            # The core reads the bits where they are: they stay until the next step, which begins after this one ended.
            self._kept = []
            started = thread_time()
            for job in jobs:
                mask = computed_mask(job.source, vocab_size=self._vocab_size)
                self._kept.append(mask)
                self._library.ds_mask_settle(job.late, mask, len(mask or b""))
            self._note(thread_time() - started, len(jobs))
