"""Files that only their owner can read, made without a moment in which others could."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# Windows has neither; its files are private to the user's profile.
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def create_private(path: Path) -> Iterator[int]:
    """A descriptor to write a new file with. Raises FileExistsError where there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def open_private(path: Path) -> int:
    """A descriptor to read with; a symbolic link is not followed but an error."""
    return os.open(path, os.O_RDONLY | _NO_LINKS | _BINARY)
