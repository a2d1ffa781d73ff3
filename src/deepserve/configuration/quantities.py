"""Sizes and times as people write them: `512m`, `4g`; `90s`, `10m`, `7d`. Numbers are bytes and seconds."""

from __future__ import annotations

import math
import re
from typing import Final

_SIZE_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TIME_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.ASCII)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd]?)", re.ASCII)


def read_size(text: str) -> int | None:
    """Bytes; units k, m, g, t of 1024, with or without b. None: this is no size."""
    match = _SIZE.fullmatch(text.strip().lower())
    return None if match is None else int(float(match[1]) * _SIZE_UNITS[match[2]])


def read_seconds(text: str) -> float | None:
    """Seconds; units ms, s, m, h, d. None: this is no length of time."""
    match = _TIME.fullmatch(text.strip().lower())
    return None if match is None else float(match[1]) * _TIME_UNITS[match[2]]


def show_size(size_bytes: int) -> str:
    """Reads back as exactly so many bytes."""
    for unit in ("t", "g", "m", "k"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]}{unit}"
    return str(size_bytes)


def show_seconds(seconds: float) -> str:
    """Reads back as exactly so many seconds."""
    for unit in ("d", "h", "m"):
        number = seconds / _TIME_UNITS[unit]
        if number >= 1 and math.isfinite(number) and number == int(number):
            return f"{int(number)}{unit}"
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds!r}s"
