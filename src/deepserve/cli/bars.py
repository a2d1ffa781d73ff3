"""Amounts as horizontal bars of text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

_EIGHTHS = " ▏▎▍▌▋▊▉"


def format_bars(bars: Sequence[tuple[str, Decimal, str]], *, width: int = 40) -> str:
    """A line for each (name, amount, amount in words): the greatest fills the width. Amounts are not negative."""
    longest = max((len(name) for name, _, _ in bars), default=0)
    most = max((amount for _, amount, _ in bars), default=Decimal(0))
    return "\n".join(f"{name:<{longest}}  {_bar(amount, most, width)}{words}" for name, amount, words in bars)


def _bar(amount: Decimal, most: Decimal, width: int) -> str:
    eighths = 0 if not most else int(amount * width * 8 / most)
    if amount and not eighths:
        eighths = 1  # something is not nothing
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return f"{bar} " if bar else ""
