"""The memory of an engine as a scheduler shares it out: how full it is, and what in it only saves time.

Running results come first. What they leave, snapshots of prefixes may hold until it is needed again.
"""

from __future__ import annotations

import logging

from deepserve.core.tenant import TenantId
from deepserve.engine.interface import CHUNK_TOKENS, Engine, SequenceId, Snapshot
from deepserve.engine.prefix_index import PrefixIndex

_logger = logging.getLogger(__name__)

_CACHE_SHARE = 0.75
"""Of the memory, the most that remembered prefixes may hold; running results take what they need of it."""


class StateMemory:
    """Belongs to the scheduler; not thread-safe. index: the prefixes that are remembered."""

    def __init__(self, engine: Engine) -> None:
        info = engine.info
        self._engine = engine
        self._capacity_tokens = max(1, info.capacity_tokens)
        self._capacity_states = max(1, info.capacity_states)
        memory_bytes = info.capacity_tokens * info.state_bytes_per_token + info.capacity_states * info.state_bytes_fixed
        self.index = PrefixIndex(info=info, max_bytes=int(memory_bytes * _CACHE_SHARE), release=self.release)

    def free_ratio(self) -> float:
        return self._engine.free_blocks_ratio()

    def is_free(self, *, tokens: int, states: int = 0) -> bool:
        """Whether so many tokens in whole blocks and so many states fit beside what is there.

        The sum of their shares is compared: who took the last free state would leave a free share of 0, and the next
        step find no room to grow.
        """
        return tokens / self._capacity_tokens + states / self._capacity_states <= self._engine.free_blocks_ratio()

    def has_space(self, tenant: TenantId, tokens: int) -> bool:
        """Whether a snapshot that adds so many tokens fits, other remembered prefixes evicted if need be."""
        while not self.is_free(tokens=tokens, states=1):
            if not self.index.evict(tenant):
                return False
        return True

    def snapshot(self, sequence: SequenceId | None, tenant: TenantId) -> Snapshot | None:
        """A sequence's state as it is; None when there is no room for it, or the engine fails."""
        assert sequence is not None
        if not self.has_space(tenant, CHUNK_TOKENS):
            return None
        try:
            return self._engine.snapshot(sequence)
        except Exception:
            _logger.exception("the engine could not take a snapshot")
            return None

    def release(self, snapshot: Snapshot) -> None:
        try:
            self._engine.release(snapshot)
        except Exception:
            _logger.exception("the engine could not release a snapshot")
