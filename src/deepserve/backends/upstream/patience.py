"""How long one attempt is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.backends.upstream.wire import AnswerDecoder

Value = TypeVar("Value")


class Patience:
    """When the patience with one attempt ends, in the loop's time. is_whole: nothing comes before everything does.

    One timer stands for the whole attempt and looks, when it is due, whether it still is: a time limit around every
    piece of a stream costs more than to read it. `close` it in the end.
    """

    def __init__(self, limits: UpstreamLimits, *, is_whole: bool) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._moved_at = self._loop.time()
        self._ends_at = self._moved_at + limits.total_s
        self.first_event_s = limits.first_event_s + (limits.idle_s if is_whole else 0.0)
        self.first_event_at = self._moved_at + self.first_event_s
        self._waiting: asyncio.Task[Any] | None = None
        self._deadline = self._looks_at = self.first_event_at
        self._has_expired = False
        self._timer = self._loop.call_at(self._looks_at, self._look)

    def advance(self) -> None:
        self._moved_at = self._loop.time()

    def deadline(self, decoder: AnswerDecoder) -> float:
        if not decoder.has_begun:
            return min(self.first_event_at, self._ends_at)
        patience_s = self._limits.linger_s if decoder.has_all_ends else self._limits.idle_s
        return min(self._moved_at + patience_s, self._ends_at)

    async def wait(self, coming: Coroutine[Any, Any, Value], deadline: float) -> Value:
        """What is coming. Raises TimeoutError where the deadline comes first."""
        task = asyncio.current_task()
        assert task is not None
        num_cancels = task.cancelling()
        self._waiting, self._deadline = task, deadline
        if deadline < self._looks_at:
            self._look_at(deadline)
        try:
            return await coming
        except asyncio.CancelledError as error:
            if self._has_expired and task.uncancel() <= num_cancels:
                raise TimeoutError from error
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        self._timer.cancel()

    def _look_at(self, at: float) -> None:
        self._timer.cancel()
        self._looks_at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if self._waiting is None:  # whoever reads the answer takes a while; the next wait has a deadline of its own
            self._looks_at = float("inf")
        elif now < self._deadline:
            self._look_at(self._deadline)
        else:
            self._has_expired = True
            self._waiting.cancel()
