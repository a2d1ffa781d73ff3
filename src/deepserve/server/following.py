"""Clients that follow work in the background: what is told of the work to the one client that handed it in.

Work and client do not wait for each other: a client that leaves ends nothing, and a slow one holds nothing up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager

from deepserve.core.errors import BackendFailure, Cancelled, DeepserveError, Overloaded
from deepserve.core.events import Event, Failed, Finished
from deepserve.core.task import TaskState
from deepserve.core.tenant import TenantId
from deepserve.tasks.runner import TaskRunner

Key = tuple[TenantId, str]


class Line:
    """From one piece of work to the client that follows it."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Event | DeepserveError | None] = asyncio.Queue()
        self._last: Finished | None = None
        self._has_begun = False

    @property
    def num_waiting(self) -> int:
        """What was told and not yet heard."""
        return self._told.qsize()

    # The end where the work is done.

    def begin(self) -> None:
        """An attempt begins. A second one tells everything anew, which a stream cannot take back."""
        if self._has_begun:
            self._told.put_nowait(
                Overloaded("The server was too busy, and begins the response again later.", retry_after_s=5.0)
            )

    async def overhear(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
        """The same events, told to the client, except how it ended."""
        async for event in events:
            match event:
                case Finished():
                    self._last = event
                case Failed():
                    pass  # the work may be tried again: `fail` says when it is not
                case _:
                    self._has_begun = True
                    self._told.put_nowait(event)
            yield event

    def end(self) -> None:
        """The answer is kept now, so that the client finds what it is told."""
        assert self._last is not None, "a collected answer has an end"
        self._told.put_nowait(self._last)

    def fail(self, error: DeepserveError) -> None:
        self._told.put_nowait(Failed(error=error))

    # The end where the client listens.

    async def events(self, tasks: TaskRunner, key: Key) -> AsyncGenerator[Event]:
        """The answer's events. Raises DeepserveError when there is nothing more to hear, though it has not ended."""
        ended = asyncio.create_task(tasks.wait(*key))
        ended.add_done_callback(lambda _: self._told.put_nowait(None))
        try:
            while (told := await self._told.get()) is not None:
                if isinstance(told, DeepserveError):
                    raise told
                yield told
                if isinstance(told, Finished | Failed):
                    return
            raise _silence(await ended)
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)


class Lines:
    """The work that is being followed."""

    def __init__(self) -> None:
        self._lines: dict[Key, Line] = {}

    @contextmanager
    def open(self, key: Key) -> Iterator[Line]:
        assert key not in self._lines, key
        self._lines[key] = line = Line()
        try:
            yield line
        finally:
            del self._lines[key]

    def find(self, key: Key) -> Line | None:
        return self._lines.get(key)


def _silence(state: TaskState | None) -> DeepserveError:
    """Why the work has ended without a word."""
    if state is None or state.status == "cancelled":
        return Cancelled("The response was cancelled.")
    return BackendFailure("The response was worked on by another server, which could not be followed.")
