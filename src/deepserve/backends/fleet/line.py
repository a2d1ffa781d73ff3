"""Places in lanes, and those who wait for one: first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from deepserve.backends.fleet.lane import Lane


class WaitingLine:
    """One for a whole fleet, so that a request can wait for whichever of several lanes has a place first.

    max_waiting  more are turned away
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._waiting: deque[tuple[asyncio.Future[Lane], tuple[Lane, ...]]] = deque()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def take(self, lanes: Sequence[Lane]) -> Lane | None:
        """A place in the first that has one now."""
        for lane in lanes:
            if lane.has_room:
                lane.num_running += 1
                return lane
        return None

    async def wait(self, lanes: Sequence[Lane], seconds: float) -> Lane | None:
        """A place in the first that gets one; None: too many wait already, or it took too long."""
        if len(self._waiting) >= self.max_waiting:
            return None
        place: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        entry = (place, tuple(lanes))
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(seconds):
                return await place
        except TimeoutError:
            return self._given(place, keeps=True)
        except asyncio.CancelledError:
            self._given(place, keeps=False)
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _given(self, place: asyncio.Future[Lane], *, keeps: bool) -> Lane | None:
        """A place that was given in the very moment in which its taker gave up."""
        if not place.done() or place.cancelled():
            return None
        lane = place.result()
        if not keeps:
            self.leave(lane)
        return lane

    def leave(self, lane: Lane) -> None:
        """Give a place back: to the first who waits for it, if it is of use to anybody now."""
        lane.num_running -= 1
        if not self._waiting or not lane.has_room or not lane.is_able():
            return
        for entry in self._waiting:
            place, lanes = entry
            if lane in lanes and not place.done():
                lane.num_running += 1
                place.set_result(lane)
                self._waiting.remove(entry)
                return
