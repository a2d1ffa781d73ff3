"""What changes during a run: lengths, the share of copying, learning rates."""

from __future__ import annotations

from training.batches import Plan

MATRIX_RATE = 0.02
OTHER_RATE = 3e-3
WARM_UP_STEPS = 60
INDEX_LOSS_EVERY = 8
"""Steps between batches that also train the indexer."""


def plan(progress: float, number: int) -> Plan:
    """What the next batch is made of; progress runs from 0 to 1."""
    copy_share = 0.6 if progress < 0.1 else max(0.15, 0.6 - (progress - 0.1) * 2.0)
    if progress > 0.5 and number % 10 == 0:
        length = 2048 if progress > 0.75 and number % 20 == 0 else 1024
        return Plan(rows=4096 // length, length=length, copy_share=0.1, long_share=0.6)
    if progress < 0.15:
        return Plan(rows=8, length=256, copy_share=copy_share)
    return Plan(rows=6, length=512, copy_share=copy_share, long_share=0.02)


def rate(progress: float, number: int) -> float:
    """The factor on both learning rates: a short warm-up, level, then a straight line to nothing."""
    warm_up = min(1.0, (number + 1) / WARM_UP_STEPS)
    return warm_up * min(1.0, max(0.02, (1.0 - progress) / 0.6))
