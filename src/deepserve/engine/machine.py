"""What this machine offers an engine, and how fast an engine is on it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from deepserve.core.errors import EngineFailure
from deepserve.engine.interface import Draw, Engine, Row, RowFault

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_WARM_UP_TOKENS = 2


def count_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def huge_page_policy(path: Path = _HUGE_PAGES) -> str | None:
    """`always`, `madvise` or `never`; None where the system has no such policy."""
    try:
        chosen = re.search(r"\[(\w+)\]", path.read_text())
    except OSError:
        return None
    return chosen[1] if chosen else None


def measure_decode(engine: Engine, *, seconds: float, max_tokens: int, clock: Callable[[], float]) -> float:
    """Tokens per second of one short sequence, greedy: no prompt, no sampling, nothing beside it.

    Stops after the time or the tokens, whichever comes first, but not before one token was measured. Raises
    EngineFailure.
    """
    sequence = engine.create()
    try:
        token, num_tokens, began_s = 0, 0, clock()
        for position in range(_WARM_UP_TOKENS + max_tokens):
            if position == _WARM_UP_TOKENS:
                began_s = clock()
            draw = Draw(temperature=0.0, position=position)
            (drawn,) = engine.step([Row(sequence=sequence, tokens=[token], draw=draw)])
            if drawn is None or isinstance(drawn, RowFault):
                raise EngineFailure(f"The network draws no token: {drawn.message if drawn else 'nothing came'}.")
            token = drawn.token
            num_tokens = position + 1 - _WARM_UP_TOKENS
            if num_tokens > 0 and clock() - began_s >= seconds:
                break
        return num_tokens / (clock() - began_s)
    finally:
        engine.free(sequence)
