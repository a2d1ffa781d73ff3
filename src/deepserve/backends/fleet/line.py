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
        self._waiting: deque[tuple[asyncio.Future[Lane | None], tuple[Lane, ...]]] = deque()

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

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self.max_waiting

    async def wait(self, lanes: Sequence[Lane], until: float) -> Lane | None:
        """A place in the first that gets one; None: one of them may not be asked any more, so look again.

        until: the loop's time. Raises TimeoutError then.
        """
        place: asyncio.Future[Lane | None] = asyncio.get_running_loop().create_future()
        entry = (place, tuple(lanes))
        self._waiting.append(entry)
        try:
            async with asyncio.timeout_at(until):
                return await place
        except TimeoutError:
            # A place may have been given in this very moment.
            lane = _given(place)
            if lane is None:
                raise
            return lane
        except asyncio.CancelledError:
            lane = _given(place)
            if lane is not None:
                self.leave(lane)
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def leave(self, lane: Lane) -> None:
        """Give a place back: to the first who waits for it."""
        lane.num_running -= 1
        if not self._waiting or not lane.has_room:
            return
        is_able = lane.is_able()
        for entry in tuple(self._waiting):
            place, lanes = entry
            if lane in lanes and not place.done():
                self._waiting.remove(entry)
                if is_able:
                    lane.num_running += 1
                    place.set_result(lane)
                    return
                place.set_result(None)  # whoever waited for it must not wait for ever


def _given(place: asyncio.Future[Lane | None]) -> Lane | None:
    return place.result() if place.done() and not place.cancelled() else None
