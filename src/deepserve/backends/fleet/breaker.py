"""Keeps away from what has failed, for a time that grows, and tries it with one request before it is trusted again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

BreakerState = Literal["closed", "open", "half-open"]


class BreakerRule(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens, and for how long.

    consecutive  so many bad ends in a row open it; 0: a row does not
    ratio        or so large a part of the last `window` ends, once there are `least`
    open_s       for how long at first; every probe that fails multiplies it by `growth`, up to max_open_s
    """

    consecutive: int = 5
    ratio: float = 0.5
    window: int = 20
    least: int = 10
    open_s: float = 2.0
    max_open_s: float = 120.0
    growth: float = 2.0


class Breaker:
    """`allows` before, `begin` at the start, and `settle` once at the end of each attempt. clock: monotonic seconds."""

    def __init__(self, rule: BreakerRule, clock: Callable[[], float]) -> None:
        self._rule = rule
        self._clock = clock
        self._ends: deque[bool] = deque(maxlen=rule.window)
        self._num_in_a_row = 0
        self._open_s = rule.open_s
        self._opens_until: float | None = None
        self._is_probing = False

    @property
    def state(self) -> BreakerState:
        if self._opens_until is None:
            return "closed"
        return "half-open" if self._is_probing or self._clock() >= self._opens_until else "open"

    @property
    def left_s(self) -> float:
        """Until the next probe may be made; 0 where it may be now, or none is needed."""
        return 0.0 if self._opens_until is None else max(self._opens_until - self._clock(), 0.0)

    def allows(self) -> bool:
        """Whether an attempt may begin now."""
        return self._opens_until is None or (not self._is_probing and self._clock() >= self._opens_until)

    def begin(self) -> bool:
        """Whether this attempt is the probe, to be said again to `settle`. Also where nobody asked `allows`."""
        if self._opens_until is None or self._is_probing or self._clock() < self._opens_until:
            return False
        self._is_probing = True
        return True

    def settle(self, is_good: bool | None, *, is_probe: bool) -> bool:
        """The end of an attempt; None: it tells nothing. Whether this opened the breaker."""
        if self._opens_until is not None:
            if is_probe:
                self._is_probing = False
                if is_good:
                    self._close()
                elif is_good is not None:
                    self._open_s = min(self._open_s * self._rule.growth, self._rule.max_open_s)
                    self._opens_until = self._clock() + self._open_s
                    return True
            return False  # begun before it opened: known already
        if is_good is None:
            return False
        self._ends.append(is_good)
        self._num_in_a_row = 0 if is_good else self._num_in_a_row + 1
        if is_good or not self._is_enough():
            return False
        self._opens_until = self._clock() + self._open_s
        return True

    def _is_enough(self) -> bool:
        rule = self._rule
        if rule.consecutive and self._num_in_a_row >= rule.consecutive:
            return True
        return len(self._ends) >= rule.least and self._ends.count(False) >= rule.ratio * len(self._ends)

    def _close(self) -> None:
        self._opens_until = None
        self._open_s = self._rule.open_s
        self._num_in_a_row = 0
        self._ends.clear()
