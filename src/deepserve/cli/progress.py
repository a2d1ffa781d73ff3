"""How far a large model is loaded, for a person who waits."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

_QUIET_S = 2.0
_APART_S = 5.0


class LoadingProgress:
    """Writes a line to standard error now and then; nothing for a model that is there at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_s = clock() + _QUIET_S

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _APART_S
        click.echo(
            f"Loading the model: {done_bytes / max(1, total_bytes):.0%} of {total_bytes / 1e9:,.1f} GB", err=True
        )
