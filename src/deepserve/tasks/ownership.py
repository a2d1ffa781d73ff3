"""Which of several servers on one state directory may take over what a dead one held.

A lock of the operating system ends with the process that holds it, however it dies. Who gets the lock is called
`main`; everything that `main` held before therefore belongs to nobody. Further servers on the same directory take
names of their own, and what they leave behind is free when its lease has run out. So it is with all servers on a
database that other machines use too, where no such lock reaches.
"""

from __future__ import annotations

import os
from pathlib import Path

MAIN = "main"


class Ownership:
    """path: the lock file; None: there is no other process to share with. is_shared: nor a lock that reaches all."""

    def __init__(self, path: Path | None, *, other_name: str, is_shared: bool = False) -> None:
        self._descriptor: int | None = None
        is_main = not is_shared and (path is None or self._lock(path))
        self.name = MAIN if is_main else other_name

    def _lock(self, path: Path) -> bool:
        try:
            import fcntl
        except ImportError:  # Windows: leases alone then tell what is free
            return False
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    @property
    def is_main(self) -> bool:
        return self.name == MAIN

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
