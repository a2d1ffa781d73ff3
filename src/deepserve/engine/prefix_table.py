"""Which prefixes lie on the disk, how large they are, and who has to go first. In memory only; not thread-safe."""

from __future__ import annotations

from collections import Counter, OrderedDict

from deepserve.engine.prefix_files import PrefixName


class PrefixTable:
    """Names with their sizes, tenant by tenant, least recently used first."""

    def __init__(self) -> None:
        self._recent: dict[str, OrderedDict[PrefixName, int]] = {}  # by tenant; none is empty
        self._bytes: Counter[str] = Counter()
        self._positions: dict[str, Counter[int]] = {}  # by owner: how many names cover so many tokens

    def __len__(self) -> int:
        return sum(map(len, self._recent.values()))

    def __contains__(self, name: PrefixName) -> bool:
        return name in self._recent.get(name.tenant, ())

    @property
    def size_bytes(self) -> int:
        return self._bytes.total()

    def positions(self, owner: str, *, limit: int) -> list[int]:
        """Where an owner has prefixes of at most `limit` tokens, ascending."""
        return sorted(position for position in self._positions.get(owner, ()) if position <= limit)

    def add(self, name: PrefixName, size_bytes: int) -> None:
        """Enter a name as the most recently used; once more with another size if it is there."""
        self.discard(name)
        self._recent.setdefault(name.tenant, OrderedDict())[name] = size_bytes
        self._bytes[name.tenant] += size_bytes
        self._positions.setdefault(name.owner, Counter())[name.position] += 1

    def touch(self, name: PrefixName) -> None:
        """It was used just now; unknown names are fine."""
        if name in self:
            self._recent[name.tenant].move_to_end(name)

    def discard(self, name: PrefixName) -> None:
        if name not in self:
            return
        recent, positions = self._recent[name.tenant], self._positions[name.owner]
        self._bytes[name.tenant] -= recent.pop(name)
        if not recent:
            del self._recent[name.tenant], self._bytes[name.tenant]
        positions[name.position] -= 1
        if not positions[name.position]:
            del positions[name.position]
        if not positions:
            del self._positions[name.owner]

    def victim(self) -> PrefixName | None:
        """Who goes first: the least recently used of the tenant that holds most.

        Over budget that tenant holds more than an equal share, so nobody can push another below it.
        """
        if not self._recent:
            return None
        tenant = max(self._recent, key=lambda tenant: (self._bytes[tenant], tenant))
        return next(iter(self._recent[tenant]))
