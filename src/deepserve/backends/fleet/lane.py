"""One model at one member: how much it may take, how it does, and whether it is to be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from deepserve.backends.fleet.breaker import Breaker, BreakerRule
from deepserve.core.provider import ServedModel

LaneState = Literal["ready", "full", "waiting", "degraded", "failing", "drained"]
"""waiting: the upstream asked for a pause. degraded: its answers are bad. failing: it gives none."""

MAX_CONCURRENT: Final[Mapping[str, int]] = {"deepseek-v4-pro": 500, "deepseek-v4-flash": 2500}
"""api-docs.deepseek.com/quick_start/rate_limit: what one account may have running."""

FAILING = BreakerRule()
DEGRADED = BreakerRule(consecutive=0, open_s=60.0, max_open_s=900.0)
"""Half of the last 20 answers were empty, endless or broken."""

_SMOOTHING = 0.2
_MOST_TOKENS_PER_S = 20_000
"""Nobody generates one answer faster: what does come faster was complete before it was told."""


class LaneCounts(msgspec.Struct, kw_only=True):
    """attempts, and of them those that failed, and those whose answers were bad; rejected: with status 429."""

    attempts: int = 0
    failures: int = 0
    bad_answers: int = 0
    rejected: int = 0
    hedged: int = 0


class Lane:
    """max_concurrent: answers at once; None: no bound. clock: monotonic seconds."""

    def __init__(
        self, served: ServedModel, *, member_id: str, max_concurrent: int | None, clock: Callable[[], float]
    ) -> None:
        self.served = served
        self.member_id = member_id
        self.model = served.id
        self.max_concurrent = MAX_CONCURRENT.get(served.id) if max_concurrent is None else max_concurrent
        self.num_running = 0
        self.is_drained = False
        self.failing = Breaker(FAILING, clock)
        self.degraded = Breaker(DEGRADED, clock)
        self.counts = LaneCounts()
        self.last_problem: str | None = None
        self.first_content_s: float | None = None
        self.tokens_per_s: float | None = None
        self._clock = clock
        self._resumes_at = 0.0

    @property
    def label(self) -> str:
        return f"{self.member_id}/{self.model}"

    @property
    def has_room(self) -> bool:
        return self.max_concurrent is None or self.num_running < self.max_concurrent

    @property
    def pause_s(self) -> float:
        """What is left of the pause that the upstream asked for."""
        return max(self._resumes_at - self._clock(), 0.0) if self._resumes_at else 0.0

    @property
    def state(self) -> LaneState:
        if self.is_drained:
            return "drained"
        if self.failing.state != "closed":
            return "failing"
        if self.degraded.state != "closed":
            return "degraded"
        if self.pause_s:
            return "waiting"
        return "ready" if self.has_room else "full"

    @property
    def retry_s(self) -> float:
        """Until it may be asked again, where its state forbids it now."""
        return max(self.pause_s, self.failing.left_s, self.degraded.left_s if self.state == "degraded" else 0.0)

    def is_able(self) -> bool:
        """Whether it may be asked now, room aside."""
        return not self.is_drained and self.failing.allows() and (not self._resumes_at or not self.pause_s)

    def rest(self, seconds: float) -> None:
        """The upstream wants to be left alone for so long."""
        self._resumes_at = max(self._resumes_at, self._clock() + seconds)

    def time_answer(self, first_content_s: float, output_tokens: int, output_s: float) -> None:
        """What is learned of its speed. An answer that was asked for whole comes at once, and tells nothing."""
        if output_tokens > output_s * _MOST_TOKENS_PER_S:
            return
        self.first_content_s = _smoothed(self.first_content_s, first_content_s)
        if output_tokens > 1 and output_s > 0:
            self.tokens_per_s = _smoothed(self.tokens_per_s, output_tokens / output_s)


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else before + _SMOOTHING * (now - before)
