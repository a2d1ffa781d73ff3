"""Asks every upstream a small question now and then, so that a bad one is noticed before a client meets it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from uuid import uuid4

from deepserve.backends.fleet.canary_question import canary_request
from deepserve.backends.fleet.fleet import FleetBackend
from deepserve.core.errors import DeepserveError
from deepserve.core.events import Event
from deepserve.core.request import Request, RequestId

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 30.0
"""Whether the operator wants canaries by now."""


class Canaries:
    """answer: whoever answers clients, so that canaries are recorded and paid for like everything else.

    What an answer is worth is noticed by the fleet, as for all answers; nothing more is done with it here.

    num_processes  that do the same at one address: together they ask as often as one would
    """

    def __init__(
        self,
        fleet: FleetBackend,
        answer: Callable[[Request], AsyncGenerator[Event]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: uuid4().hex,
        num_processes: int = 1,
    ) -> None:
        self._fleet = fleet
        self._answer = answer
        self._sleep = sleep
        self._now = now
        self._new_id = new_id
        self._num_processes = num_processes
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            every_s = self._fleet.settings.canary_s
            await self._sleep(_LOOK_EVERY_S if every_s is None else every_s * self._num_processes)
            if every_s is not None and self._fleet.settings.canary_s is not None:
                await self.ask_all()

    async def ask_all(self) -> None:
        """Once each; those that are drained or that must rest are left alone."""
        lanes = [
            (member.id, lane.model)
            for member in self._fleet.members
            if member.upstream is not None
            for lane in member.lanes.values()
            if lane.is_able()
        ]
        await asyncio.gather(*(self._ask(member, model) for member, model in lanes))

    async def _ask(self, member: str, model: str) -> None:
        request = canary_request(RequestId(self._new_id()), member=member, model=model, now=self._now)
        try:
            async with aclosing(self._answer(request)) as events:
                async for _ in events:
                    pass
        except DeepserveError as error:
            _log.warning("The canary of %s/%s came to nothing: %s", member, model, error.message)
        except Exception:  # noqa: BLE001 - supervised and logged: the next canary may fare better
            _log.exception("The canary of %s/%s met a fault of the server", member, model)
