"""A bounded memory that tenants share: when it is full, whoever keeps most gives up its oldest.

So a tenant that keeps no more than an even share loses nothing to others, and one that is alone has all the room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from deepserve.core.tenant import TenantId

Entry = TypeVar("Entry")


class _Kept(msgspec.Struct, Generic[Entry], frozen=True):
    entry: Entry
    size_bytes: int
    until: float


class _Board(Generic[Entry]):
    """What one tenant keeps, the oldest first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, _Kept[Entry]] = OrderedDict()
        self.size_bytes = 0

    def remove(self, name: str) -> None:
        kept = self.kept.pop(name, None)
        self.size_bytes -= 0 if kept is None else kept.size_bytes

    def remove_oldest(self) -> None:
        self.remove(next(iter(self.kept)))

    def forget(self, now: float) -> None:
        while self.kept and next(iter(self.kept.values())).until <= now:
            self.remove_oldest()


class SharedShelf(Generic[Entry]):
    """max_entries, max_bytes: of all tenants together. keep_s: of each entry. clock: monotonic seconds."""

    def __init__(self, *, max_entries: int, max_bytes: int, keep_s: float, clock: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._boards: dict[TenantId, _Board[Entry]] = {}

    def put(self, tenant: TenantId, name: str, entry: Entry, *, size_bytes: int) -> None:
        """Keep it as the tenant's newest. What is too large by itself is not kept, and pushes nothing out."""
        board = self._boards.setdefault(tenant, _Board())
        board.remove(name)
        if size_bytes <= self._max_bytes:
            board.kept[name] = _Kept(entry, size_bytes, self._clock() + self._keep_s)
            board.size_bytes += size_bytes
        self._make_room(tenant)

    def find(self, tenant: TenantId, name: str) -> Entry | None:
        board = self._boards.get(tenant)
        kept = None if board is None else board.kept.get(name)
        return None if kept is None or kept.until <= self._clock() else kept.entry

    def _make_room(self, newcomer: TenantId) -> None:
        num_entries, size_bytes = self._totals()
        if num_entries > self._max_entries or size_bytes > self._max_bytes:
            now = self._clock()
            for board in self._boards.values():
                board.forget(now)
            num_entries, size_bytes = self._totals()
        while num_entries > self._max_entries or size_bytes > self._max_bytes:
            is_by_size = size_bytes > self._max_bytes
            most = max(
                self._boards.items(),
                key=lambda item: (item[1].size_bytes if is_by_size else len(item[1].kept), item[0] == newcomer),
            )[1]
            before = most.size_bytes
            most.remove_oldest()
            num_entries, size_bytes = num_entries - 1, size_bytes - (before - most.size_bytes)
        self._boards = {tenant: board for tenant, board in self._boards.items() if board.kept}

    def _totals(self) -> tuple[int, int]:
        boards = self._boards.values()
        return sum(len(board.kept) for board in boards), sum(board.size_bytes for board in boards)
