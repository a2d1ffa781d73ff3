"""How long one attempt is waited for."""

from __future__ import annotations

import asyncio

from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.dialects.chat.upstream_answer import AnswerDecoder


class Patience:
    """When the patience with one attempt ends, in the loop's time. is_whole: nothing comes before everything does."""

    def __init__(self, limits: UpstreamLimits, *, is_whole: bool) -> None:
        self._limits = limits
        self._time = asyncio.get_running_loop().time
        self._moved_at = self._time()
        self._ends_at = self._moved_at + limits.total_s
        self.first_event_s = limits.first_event_s + (limits.idle_s if is_whole else 0.0)
        self.first_event_at = self._moved_at + self.first_event_s

    def advance(self) -> None:
        self._moved_at = self._time()

    def deadline(self, decoder: AnswerDecoder) -> float:
        if not decoder.has_begun:
            return min(self.first_event_at, self._ends_at)
        patience_s = self._limits.linger_s if decoder.has_all_ends else self._limits.idle_s
        return min(self._moved_at + patience_s, self._ends_at)
