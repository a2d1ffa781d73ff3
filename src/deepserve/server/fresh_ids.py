"""New ids for requests."""

from __future__ import annotations

import os
from uuid import UUID

_ID_BYTES = 16
_NUM_AT_ONCE = 256


class FreshIds:
    """UUIDs of version 4. Randomness is fetched for many at once, for each call of the system lets other threads in
    first. Belongs to one thread of one process, which makes it.
    """

    def __init__(self) -> None:
        self._random = b""
        self._at = 0

    def __call__(self) -> UUID:
        if self._at == len(self._random):
            self._random, self._at = os.urandom(_ID_BYTES * _NUM_AT_ONCE), 0
        begin, self._at = self._at, self._at + _ID_BYTES
        return UUID(bytes=self._random[begin : self._at], version=4)
