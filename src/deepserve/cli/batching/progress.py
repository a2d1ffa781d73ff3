"""How far a batch is, for a person who waits: one line that is written over, or lines now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal

import click

_ON_SCREEN_S = 0.2
_IN_LOG_S = 10.0


class BatchProgress:
    """total: how many there are to ask. clock: monotonic seconds."""

    def __init__(self, total: int, clock: Callable[[], float], *, is_screen: bool | None = None) -> None:
        self._total = total
        self._clock = clock
        self._began_s = clock()
        self._is_screen = sys.stderr.isatty() if is_screen is None else is_screen
        self._next_s = self._began_s + (0.0 if self._is_screen else _IN_LOG_S)

    def show(self, num_answered: int, num_failed: int, usd: Decimal) -> None:
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (_ON_SCREEN_S if self._is_screen else _IN_LOG_S)
        line = self.line(num_answered, num_failed, usd, now_s - self._began_s)
        # Erases what a longer line has left.
        click.echo(f"\r\x1b[K{line}" if self._is_screen else line, err=True, nl=not self._is_screen)

    def end(self) -> None:
        if self._is_screen:
            click.echo("\r\x1b[K", err=True, nl=False)

    def line(self, num_answered: int, num_failed: int, usd: Decimal, elapsed_s: float) -> str:
        num_done = num_answered + num_failed
        per_s = num_done / elapsed_s if elapsed_s > 0 else 0.0
        parts = [f"{num_done:,} of {self._total:,}", f"{per_s:.1f}/s", f"${usd:,.4f}"]
        if num_failed:
            parts.insert(1, f"{num_failed:,} failed")
        if per_s and num_done < self._total:
            left_s = round((self._total - num_done) / per_s)
            parts.append(f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left")
        return ", ".join(parts)
