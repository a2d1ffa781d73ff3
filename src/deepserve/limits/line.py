"""Where requests wait for their turn: each key has a line of its own, and nobody passes anybody in it.

Places are few, for a waiting request holds a connection. When all are taken, the tenant that holds most of them loses
its newest to a tenant that holds fewer, so that nobody keeps the others out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from deepserve.core.tenant import KeyId, TenantId


class LineFull(Exception):
    """There is no place to wait in."""


class Place:
    """One who waits. `stir` ends its wait early: something has changed."""

    def __init__(self, tenant: TenantId, key: KeyId) -> None:
        self.tenant = tenant
        self.key = key
        self.is_lost = False
        """Its place was given to another."""
        self.stirred = asyncio.Event()


class Line:
    """One for each server. places: how many may wait in all."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._by_key: dict[KeyId, deque[Place]] = {}
        self._by_tenant: dict[TenantId, list[Place]] = {}
        self._num_waiting = 0

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    @contextmanager
    def join(self, tenant: TenantId, key: KeyId) -> Iterator[Place]:
        """A place at the end. Raises LineFull."""
        if self._num_waiting >= self.places:
            self._make_room(tenant)
        place = Place(tenant, key)
        self._by_key.setdefault(key, deque()).append(place)
        self._by_tenant.setdefault(tenant, []).append(place)
        self._num_waiting += 1
        try:
            yield place
        finally:
            if not place.is_lost:
                self._remove(place)

    def is_first(self, place: Place) -> bool:
        return self._by_key[place.key][0] is place

    def stir(self, key: KeyId) -> None:
        """Let the first with this key look again."""
        places = self._by_key.get(key)
        if places:
            places[0].stirred.set()

    def _make_room(self, newcomer: TenantId) -> None:
        holding = max(self._by_tenant, key=lambda tenant: len(self._by_tenant[tenant]), default=newcomer)
        held, wanted = (len(self._by_tenant.get(tenant, ())) for tenant in (holding, newcomer))
        if held <= wanted + 1:  # it would only turn the two about
            raise LineFull
        loser = self._by_tenant[holding][-1]
        self._remove(loser)
        loser.is_lost = True
        loser.stirred.set()

    def _remove(self, place: Place) -> None:
        line, held = self._by_key[place.key], self._by_tenant[place.tenant]
        was_first = line[0] is place
        line.remove(place)
        held.remove(place)
        self._num_waiting -= 1
        if not held:
            del self._by_tenant[place.tenant]
        if not line:
            del self._by_key[place.key]
        elif was_first:
            line[0].stirred.set()
