"""Where rows of the ledger wait while the database cannot take them: files of the state directory.

Each process has a file of its own, and takes over those that dead processes left. A row is there once `append` has
returned, whatever happens to the process or the machine; what is loaded back is found by its attempt's id, so that it
is never counted twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from deepserve.store.ledger_row import LedgerRow
from deepserve.store.private_file import write_all

_log = logging.getLogger(__name__)

_ENDING = ".spill"
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


class Unwritten(msgspec.Struct, frozen=True):
    """A row on its way. release: the reservation that it is taken from; None: none was made."""

    row: LedgerRow
    release: str | None = None


class SpillFile:
    """What one process could not write. Any thread may use it."""

    def __init__(self, directory: Path, *, name: str | None = None) -> None:
        self._directory = directory
        self._path = directory / f"ledger-{name or secrets.token_hex(8)}{_ENDING}"
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._num_rows = 0

    def __len__(self) -> int:
        """Rows that wait here."""
        return self._num_rows

    def append(self, rows: Sequence[Unwritten]) -> None:
        """Write rows so that not even a loss of power loses them. Raises OSError."""
        with self._lock:
            if self._descriptor is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINKS
                self._descriptor = os.open(self._path, flags, 0o600)
                _claim(self._descriptor)
                _sync_directory(self._directory)
            before = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
                os.fsync(self._descriptor)
            except OSError:
                # Half a row must not stand before the next one.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, before)
                raise
            self._num_rows += len(rows)

    def load(self, write: Callable[[Sequence[Unwritten]], None]) -> int:
        """Hand everything to `write` and forget it once that has returned. Returns how many rows there were."""
        with self._lock:
            if self._descriptor is None or not self._num_rows:
                return 0
            rows, _ = _read(self._descriptor)
            write(rows)
            os.ftruncate(self._descriptor, 0)
            os.fsync(self._descriptor)
            self._num_rows = 0
            return len(rows)

    def load_left_behind(self, write: Callable[[Sequence[Unwritten]], None]) -> int:
        """The same for the files of processes that are no more."""
        num_rows = 0
        for path in sorted(self._directory.glob(f"ledger-*{_ENDING}")):
            if path == self._path:
                continue
            try:
                descriptor = os.open(path, os.O_RDWR | _NO_LINKS)
            except OSError as error:
                _log.error("ledger: %s cannot be read: %s", path, error.strerror)
                continue
            try:
                if not _claim(descriptor):
                    continue  # its process lives
                rows, damaged = _read(descriptor)
                write(rows)
                num_rows += len(rows)
                if damaged:
                    # Nobody was told that these were written. They are kept for a person to look at.
                    _log.error("ledger: %d lines of %s cannot be read and are kept there", damaged, path)
                    path.rename(path.with_suffix(".damaged"))
                else:
                    path.unlink()
            finally:
                os.close(descriptor)
        return num_rows

    def close(self) -> None:
        """An empty file is removed."""
        with self._lock:
            if self._descriptor is None:
                return
            if not self._num_rows:
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _read(descriptor: int) -> tuple[list[Unwritten], int]:
    """The rows of a file, and how many lines are none: the last may be torn where power failed."""
    content = b""
    os.lseek(descriptor, 0, os.SEEK_SET)
    while piece := os.read(descriptor, 1 << 20):
        content += piece
    rows: list[Unwritten] = []
    num_damaged = 0
    for line in content.split(b"\n"):
        if not line:
            continue
        try:
            rows.append(msgspec.json.decode(line, type=Unwritten))
        except (msgspec.DecodeError, UnicodeDecodeError):
            num_damaged += 1
    return rows, num_damaged


def _claim(descriptor: int) -> bool:
    """Whether the file is this process's now; its death gives it free. Windows has no such locks: there all are."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    """So that the new name outlives a loss of power, too."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
