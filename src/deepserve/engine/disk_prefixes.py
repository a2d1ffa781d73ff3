"""The prefix index's second floor: which snapshots go to the disk and when, and how they come back.

What is written. Units that later prompts are likely to continue: ends of what the user said, of what the model said,
and of what several prompts share; not the snapshots that a long prompt leaves along its way. A blob holds the whole
history, so a conversation saved after every turn would write the square of its length. Therefore a unit is only
written when an eighth of it is not stored yet: each file is then 8/7 of the one before or more, and all together are at
most eight times the last one. What that leaves out is written when the server stops, so that only a crash costs the
last eighth.

When. Copying a state keeps the step loop busy for as long as reading it takes, so it waits for a step with nothing to
compute, unless too many units wait already.

How it comes back. A prompt that finds more on the disk than in memory steps aside while the file is read and checked
on another thread, seconds for the longest; what runs goes on. Then its snapshot is put into the index, where the
prompt finds it like any other.

Belongs to the step loop; not thread-safe.
"""

from __future__ import annotations

import logging
import queue
from collections import deque
from collections.abc import Callable

import msgspec

from deepserve.core.tenant import TenantId
from deepserve.engine.generation import GenerationId
from deepserve.engine.interface import CHUNK_TOKENS, Engine, Snapshot
from deepserve.engine.prefix_files import PrefixName
from deepserve.engine.prefix_index import TOKEN_BYTES, CacheKey, PrefixIndex
from deepserve.engine.prefix_store import PrefixStore

_logger = logging.getLogger(__name__)

MIN_TOKENS = 2 * CHUNK_TOKENS
"""Shorter prefixes are computed about as quickly as read."""

_GROWTH = 8
"""A unit is written when at least this part of it, one over this, is not stored yet."""

_WORTH_READING = 32
"""A file is read when at least this part of it, one over this, is not in memory."""

_MAX_UNSAVED = 16
"""Units that may wait for an idle step; from then on one is written in every step."""


class _Sought(msgspec.Struct, frozen=True, eq=False):
    """A state on its way from the disk, and whose prompts begin with it."""

    name: PrefixName
    key: CacheKey
    tokens: bytes
    waiting: list[GenerationId]


class DiskPrefixes:
    """make_room  evicts cached prefixes until so many tokens and a state fit; False if they cannot
    clock      seconds, monotonic; only bounds `save_all`
    wake       called from other threads when there is something to do for `land` or `save_one`

    num_hits    files read and put into the index
    hit_tokens  what they cover together
    num_misses  prompts, long enough, that neither memory nor disk knew a beginning of, and files that were of no use
    """

    def __init__(
        self,
        engine: Engine,
        index: PrefixIndex,
        store: PrefixStore,
        *,
        make_room: Callable[[TenantId, int], bool],
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._index = index
        self._store = store
        self._make_room = make_room
        self._clock = clock
        self._wake = wake
        store.on_room = wake
        self._unsaved: deque[tuple[CacheKey, bytes]] = deque()
        self._sought: dict[PrefixName, _Sought] = {}
        self._arrived: queue.SimpleQueue[tuple[_Sought, bytes | None]] = queue.SimpleQueue()
        self.num_hits = self.num_misses = self.hit_tokens = 0

    # Coming back

    def seek(self, generation: GenerationId, key: CacheKey, tokens: bytes, *, limit: int, known_tokens: int) -> bool:
        """Fetch the stored prefix of a prompt, if it covers so much more than memory does that it is worth it.

        True if it is on its way; `land` then tells when it has come, or could not.
        """
        if limit < MIN_TOKENS or known_tokens >= limit:
            return False
        name = self._store.find(key, tokens, limit=limit)
        if name is None:
            self.num_misses += not known_tokens
            return False
        if name.position - known_tokens < max(CHUNK_TOKENS, name.position // _WORTH_READING):
            self._store.touch(name)
            return False
        if name in self._sought:
            self._sought[name].waiting.append(generation)
            return True
        sought = _Sought(name, key, tokens[: name.position * TOKEN_BYTES], [generation])
        self._sought[name] = sought

        def deliver(blob: bytes | None) -> None:
            self._arrived.put((sought, blob))
            self._wake()

        self._store.fetch(name, deliver)
        return True

    def forget(self, generation: GenerationId) -> None:
        """It does not wait any more."""
        for sought in self._sought.values():
            if generation in sought.waiting:
                sought.waiting.remove(generation)

    def land(self) -> list[GenerationId]:
        """Put what has come into the index; the generations that need not wait any longer."""
        landed: list[GenerationId] = []
        while True:
            try:
                sought, blob = self._arrived.get_nowait()
            except queue.Empty:
                return landed
            del self._sought[sought.name]
            if not sought.waiting:
                continue
            landed += sought.waiting
            snapshot = self._load(sought, blob) if blob is not None else None
            if snapshot is None:
                self.num_misses += 1
                continue
            self.num_hits += 1
            self.hit_tokens += sought.name.position
            self._index.insert(sought.key, sought.tokens, snapshot)

    def _load(self, sought: _Sought, blob: bytes) -> Snapshot | None:
        if not self._make_room(sought.key.tenant, sought.name.position + CHUNK_TOKENS):
            return None
        try:
            snapshot = self._engine.load(blob)
        except ValueError as error:
            _logger.warning("cached prefix: %s does not fit this engine (%s); removed", sought.name.file, error)
            self._store.discard(sought.name)
            return None
        except Exception:
            _logger.exception("the engine could not load a state")
            return None
        if snapshot.position != sought.name.position:
            _logger.warning("cached prefix: %s holds another position; removed", sought.name.file)
            self._store.discard(sought.name)
            self._engine.release(snapshot)
            return None
        return snapshot

    # Going

    @property
    def is_pressing(self) -> bool:
        """Whether units have waited long enough for an idle step."""
        return len(self._unsaved) > _MAX_UNSAVED

    def note(self, key: CacheKey, tokens: bytes) -> None:
        """The index has a unit at the end of these packed tokens: write it at leisure."""
        self._index.mark_unit(key, tokens)
        if self._is_worth_writing(key, tokens):
            self._unsaved.append((key, tokens))

    def save_one(self) -> bool:
        """Hand a noted unit to the writer; False if there is nothing to do now."""
        while self._unsaved:
            key, tokens = self._unsaved[0]
            snapshot = self._index.find(key, tokens)
            if snapshot is None or not self._is_worth_writing(key, tokens):
                self._unsaved.popleft()
                continue
            if not self._store.has_room(self._size_bytes(tokens)):
                if not self.is_pressing:
                    return False
                self._unsaved.popleft()
                self._store.count_dropped(1)
                continue
            self._unsaved.popleft()
            self._save(key, tokens, snapshot, wait_s=0)
            return True
        return False

    def save_all(self, timeout_s: float) -> None:
        """Write what memory knows better than the disk, newest first, as far as time and half the budget go; stop.

        Half of the time is for what the writer still has when the last state was copied. More than half of the budget
        would push out what was written first, the newest.
        """
        ends_at = self._clock() + timeout_s
        copies_end_at = ends_at - timeout_s / 2
        left_bytes = self._store.budget_bytes // 2
        for unit in self._index.units():
            if not self._fits(unit.tokens) or self._store.has(unit.key, unit.tokens):
                continue
            left_s = copies_end_at - self._clock()
            left_bytes -= self._size_bytes(unit.tokens)
            if left_s <= 0 or left_bytes < 0:
                break
            self._save(unit.key, unit.tokens, unit.snapshot, wait_s=left_s)
        self._unsaved.clear()
        self._store.close(max(0.0, ends_at - self._clock()))

    def _save(self, key: CacheKey, tokens: bytes, snapshot: Snapshot, *, wait_s: float) -> None:
        try:
            blob = self._engine.dump(snapshot)
        except Exception:
            _logger.exception("the engine could not dump a state")
            self._store.count_dropped(1)
            return
        self._store.put(key, tokens, blob, wait_s=wait_s)

    def _is_worth_writing(self, key: CacheKey, tokens: bytes) -> bool:
        position = len(tokens) // TOKEN_BYTES
        if not self._fits(tokens):
            return False
        stored = self._store.find(key, tokens, limit=position)
        stored_tokens = stored.position if stored is not None else 0
        return position - stored_tokens >= max(MIN_TOKENS, position // _GROWTH)

    def _fits(self, tokens: bytes) -> bool:
        is_long = len(tokens) >= MIN_TOKENS * TOKEN_BYTES
        return is_long and self._size_bytes(tokens) <= self._store.max_file_bytes

    def _size_bytes(self, tokens: bytes) -> int:
        """About what a blob of these tokens takes."""
        info = self._engine.info
        return round(info.state_bytes_fixed + len(tokens) // TOKEN_BYTES * info.state_bytes_per_token)
