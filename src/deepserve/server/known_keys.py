"""Keys that were looked up a moment ago, so that requests do not wait for a database.

A change or a revocation takes effect when what is known is a second old.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from deepserve.core.tenant import Tenant

_FRESH_S: Final = 1.0
_MOST_KEYS: Final = 10_000
_LOOKUP_THREADS: Final = 2


class KnownKeys:
    """Only valid keys are kept, as digests: whoever guesses pushes nobody out. clock: monotonic seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, most_keys: int = _MOST_KEYS) -> None:
        self._clock = clock
        self._most_keys = most_keys
        self._known: OrderedDict[bytes, tuple[float, Tenant]] = OrderedDict()
        self._asking: dict[tuple[Callable[[str], Tenant | None], bytes], asyncio.Task[Tenant | None]] = {}
        # Of its own: whatever else threads are busy with, everybody has to come past here. Begun when first used, and
        # ended with this object.
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="deepserve-keys")

    def get(self, key: str) -> Tenant | None:
        """Whose key it is, where that has just been looked up."""
        digest = _digest(key)
        known = self._known.get(digest)
        if known is None:
            return None
        asked_at, tenant = known
        if self._clock() - asked_at < _FRESH_S:
            return tenant
        del self._known[digest]
        return None

    async def ask(self, find: Callable[[str], Tenant | None], key: str) -> Tenant | None:
        """The same from where keys are kept, in a thread. All who ask for one key at the same time ask once."""
        wanted = find, _digest(key)
        asking = self._asking.get(wanted)
        if asking is None:
            asking = self._asking[wanted] = asyncio.create_task(self._look_up(find, key))
            asking.add_done_callback(lambda _: self._asking.pop(wanted, None))
        return await asyncio.shield(asking)

    async def _look_up(self, find: Callable[[str], Tenant | None], key: str) -> Tenant | None:
        asked_at = self._clock()  # what changes while it is looked up may not be seen any more
        tenant = await asyncio.get_running_loop().run_in_executor(self._threads, find, key)
        if tenant is not None:
            self._known[_digest(key)] = asked_at, tenant
            while len(self._known) > self._most_keys:
                self._known.popitem(last=False)
        return tenant


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
