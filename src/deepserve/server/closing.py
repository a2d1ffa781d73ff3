"""The end of a server's life: answers in flight finish, or are ended with a word."""

from __future__ import annotations

import asyncio
from typing import Any


class Closing:
    """Knows the answers in flight. `drain` refuses readiness; `end` cancels what still runs."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()  # Any: what the tasks return is nobody's business here
        self.is_draining = False
        self.is_ending = False

    def register(self, task: asyncio.Task[Any]) -> None:
        """A task that, when it is cancelled while `is_ending`, tells its client so and ends normally.

        To be forgotten when it is done.
        """
        self._tasks.add(task)
        if self.is_ending:
            task.cancel()

    def forget(self, task: asyncio.Task[Any]) -> None:
        """The task is done, or goes on, and what it does from now on is not an answer."""
        self._tasks.discard(task)

    def drain(self) -> None:
        self.is_draining = True

    def end(self) -> None:
        self.is_draining = self.is_ending = True
        for task in self._tasks:
            task.cancel()
