"""What changes during a run: lengths, the share of copying, learning rates."""

from __future__ import annotations

from training.batches import Plan

MATRIX_RATE = 0.02
OTHER_RATE = 3e-3
WARM_UP_STEPS = 60
INDEX_LOSS_EVERY = 8
"""Steps between short batches that also train the indexer; long ones do so whenever they read densely."""
LONG = 1024
"""From this length on the indexer's choice matters."""


def plan(progress: float, number: int) -> Plan:
    """What the next batch is made of; progress runs from 0 to 1.

    Bare copying first, short; then conversations, and ever longer rows: whole prompts with tools at 1,024, recall
    over 4,096 from 30 % on, over 16,384 now and then in the last 40 %.
    """
    copy_share = 0.6 if progress < 0.1 else max(0.1, 0.6 - (progress - 0.1) * 2.0)
    if progress > 0.6 and number % 80 == 0:
        return Plan(rows=1, length=16384, copy_share=0.3, long_share=0.7)
    if progress > 0.3 and number % 10 == 5:
        return Plan(rows=2, length=4096, copy_share=0.2, long_share=0.8)
    if progress > 0.15 and number % 5 == 1:
        return Plan(rows=4, length=2048, copy_share=0.3, long_share=0.5)
    if progress < 0.1:
        return Plan(rows=16, length=256, copy_share=copy_share)
    if progress < 0.3 and number % 2 == 0:
        return Plan(rows=8, length=512, copy_share=copy_share)
    return Plan(rows=6, length=1024, copy_share=copy_share, long_share=0.06)


def reads_densely(progress: float, number: int) -> bool:
    """Whether every readable entry is read, as distillation needs, instead of the indexer's choice, as when serving."""
    return progress < 0.5 or number % 2 == 1


def trains_indexer(progress: float, number: int, length: int) -> bool:
    """Whether a batch also trains the indexers."""
    if length < LONG:
        return number % INDEX_LOSS_EVERY == 0
    return reads_densely(progress, number)


def rounds_experts(progress: float) -> bool:
    """Whether the experts are already used in the precision in which they ship."""
    return progress >= 0.6


def rate(progress: float, number: int) -> float:
    """The factor on both learning rates: a short warm-up, level, then a straight line to nothing."""
    warm_up = min(1.0, (number + 1) / WARM_UP_STEPS)
    return warm_up * min(1.0, max(0.02, (1.0 - progress) / 0.6))
