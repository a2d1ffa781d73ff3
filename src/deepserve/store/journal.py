"""Where rows of the ledger are until the database has them: files of the state directory.

A row is safe once `append` has returned, and is told from others by its attempt's id, so that one which had reached the
database after all is not counted twice. The process that wrote a file has its rows in memory as well and never reads
it; what a process that was killed left behind is read by the next.
"""

from __future__ import annotations

import asyncio
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

_ENDING = ".journal"
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_ENCODER = msgspec.json.Encoder()


class Unwritten(msgspec.Struct, frozen=True):
    """A row on its way. release: the reservation that it is taken from; None: none was made."""

    row: LedgerRow
    release: str | None = None


class Batch:
    """Rows that are settled together.

    is_overdue   the database has not taken them in time, and a file is asked to
    kept_in      the journal's file that has them
    is_recorded  the database has them, or will never take them
    """

    __slots__ = ("future", "is_overdue", "is_recorded", "kept_in", "release", "rows", "settled_at")

    def __init__(
        self, rows: Sequence[LedgerRow], release: str | None, future: asyncio.Future[None], settled_at: float
    ) -> None:
        self.rows = rows
        self.release = release
        self.future = future
        self.settled_at = settled_at
        self.is_overdue = False
        self.is_recorded = False
        self.kept_in: Path | None = None

    def unwritten(self) -> list[Unwritten]:
        return [Unwritten(row, self.release) for row in self.rows]


class Journal:
    """Of one process; any thread may use it.

    is_power_safe  a row outlives a loss of power, too, which costs a wait for the disk
    """

    def __init__(self, directory: Path, *, is_power_safe: bool = True) -> None:
        self._directory = directory
        self._is_power_safe = is_power_safe
        self._path: Path | None = None
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._num_rows = 0
        self.size_bytes = 0

    def append(self, batches: Sequence[Batch]) -> None:
        """Keep what neither the file nor the database has. Raises OSError."""
        with self._lock:
            missing = [batch for batch in batches if batch.kept_in is None and not batch.is_recorded]
            rows = [one for batch in missing for one in batch.unwritten()]
            if not rows:
                return
            try:
                lines = _ENCODER.encode_lines(rows)
            except (UnicodeEncodeError, OverflowError) as error:
                raise OSError(f"a row cannot be spelled: {error}") from error
            descriptor = self._opened()
            try:
                write_all(descriptor, lines)
                if self._is_power_safe:
                    os.fsync(descriptor)
            except OSError:
                # Half a row must not stand before the next one.
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, self.size_bytes)
                raise
            self.size_bytes += len(lines)
            self._num_rows += len(rows)
            for batch in missing:
                batch.kept_in = self._path

    def forget(self, batches: Sequence[Batch]) -> None:
        """They are recorded. Once all are that stand in the file, it is empty again."""
        with self._lock:
            for batch in batches:
                batch.is_recorded = True
                if batch.kept_in is not None and batch.kept_in == self._path:
                    self._num_rows -= len(batch.rows)
            if self._descriptor is not None and self.size_bytes and not self._num_rows:
                try:
                    os.ftruncate(self._descriptor, 0)
                except OSError as error:
                    _log.error("ledger: %s cannot be emptied: %s", self._path, error.strerror)
                else:
                    self.size_bytes = 0

    def load_left_behind(self, write: Callable[[Sequence[Unwritten]], None]) -> int:
        """Hand what processes left that are no more to `write`, and forget it once that has returned. How many rows."""
        num_rows = 0
        for path in sorted(self._directory.glob(f"ledger-*{_ENDING}")):
            if path == self._path:
                continue
            try:
                descriptor = os.open(path, os.O_RDWR | _NO_LINKS)
            except FileNotFoundError:
                continue  # somebody else was faster
            except OSError as error:
                _log.error("ledger: %s cannot be read: %s", path, error.strerror)
                continue
            try:
                if not _claim(descriptor):
                    continue  # its process lives
                rows, num_damaged = _read(descriptor)
                if rows:
                    write(rows)
                num_rows += len(rows)
                if num_damaged:
                    # Nobody writes such a line. They are kept for a person to look at.
                    _log.error("ledger: %d lines of %s cannot be read and are kept there", num_damaged, path)
                    path.rename(path.with_suffix(".damaged"))
                else:
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
        return num_rows

    def close(self) -> None:
        """An empty file is removed; one with rows is left to the next process."""
        with self._lock:
            if self._descriptor is None or self._path is None:
                return
            if not self._num_rows:
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = self._path = None

    def _opened(self) -> int:
        """A file is made with the first row, and again should one come after the end."""
        if self._descriptor is None:
            path = self._directory / f"ledger-{secrets.token_hex(8)}{_ENDING}"
            # Windows neither has such locks nor renames files that are open.
            new = path.with_suffix(".new") if os.name == "posix" else path
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | _NO_LINKS, 0o600)
            # It is ours before it has its name: a process that starts right now would take it for one left behind.
            _claim(descriptor)
            if new != path:
                new.rename(path)
            if self._is_power_safe:
                _sync_directory(self._directory)
            self._descriptor, self._path = descriptor, path
            self._num_rows = self.size_bytes = 0
        return self._descriptor


def num_lines(directory: Path) -> int:
    """Rows in the files of all processes. Those that were written last may be in the database as well."""
    return sum(path.read_bytes().count(b"\n") for path in directory.glob(f"ledger-*{_ENDING}"))


def _read(descriptor: int) -> tuple[list[Unwritten], int]:
    """The rows of a file, and how many of its lines are none."""
    content = b""
    os.lseek(descriptor, 0, os.SEEK_SET)
    while piece := os.read(descriptor, 1 << 20):
        content += piece
    # A line without an end was being written when its process was killed, so that its answer had not ended either.
    *lines, _ = content.split(b"\n")
    rows: list[Unwritten] = []
    num_damaged = 0
    for line in lines:
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
