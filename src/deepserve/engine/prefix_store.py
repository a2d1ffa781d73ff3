"""Cached prefixes on the disk, within a budget: found by their tokens, read and written beside the step loop.

    step loop      find -> a name, fetch -> later a blob or None, put -> queued or refused; none of them waits
    reader thread  reads and checks
    writer thread  seals and writes, removes what goes over the budget, looks now and then what other servers did

Everything that can be wrong with a file makes it a miss. What is wrong with the disk (full, read-only, gone) is
logged once, and nothing more is written.

Several servers may share a directory: files appear and vanish as wholes, and each server keeps to the budget what it
knows of, which it refreshes after every sixteenth of the budget that it writes.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import msgspec

from deepserve.engine.prefix_files import HEADER_BYTES, DamagedPrefix, PrefixFiles, PrefixName
from deepserve.engine.prefix_index import TOKEN_BYTES, CacheKey
from deepserve.engine.prefix_table import PrefixTable
from deepserve.store.secret import load_secret

_logger = logging.getLogger(__name__)

_MAX_FILES = 4096
"""Bounds the look at the directory at start, some 30 ms, and the hashes of a look-up, some 3 ms."""

_MAX_WAITING_BYTES = 256 << 20
"""Of blobs between the step loop and the disk; a single larger one is still let in."""

_MAX_AGE_S = 30 * 86_400.0
"""Nobody asked for it so long: a revoked key's prefixes, another model's."""

_SCAN_EVERY = 1 / 16
"""Part of the budget written between two looks at the directory."""

_LARGEST_SHARE = 1 / 4
"""Part of the budget that one file may take."""


class PrefixStoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges, then totals since the start.

    dropped_writes  states that were not written: the disk was too slow, or is out of order
    damaged_files   files that were not what their names say; removed
    """

    files: int
    bytes: int
    waiting_bytes: int
    written_bytes: int
    evictions: int
    dropped_writes: int
    damaged_files: int


class _Totals(msgspec.Struct):
    written_bytes: int = 0
    evictions: int = 0
    dropped_writes: int = 0
    damaged_files: int = 0


class _Write(msgspec.Struct, frozen=True, eq=False):
    name: PrefixName
    blob: bytes

    @property
    def size_bytes(self) -> int:
        return HEADER_BYTES + len(self.blob)


class PrefixStore:
    """Safe to call from any thread.

    reader  where files are read; its threads start when first needed, and so does the writer
    clock   seconds since the epoch, to compare with the times of files
    """

    def __init__(
        self,
        files: PrefixFiles,
        *,
        max_bytes: int,
        reader: Executor | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._max_bytes = self._budget_bytes = max_bytes
        self._reader = reader or ThreadPoolExecutor(max_workers=1, thread_name_prefix="deepserve-disk-read")
        self._clock = clock
        self._table = PrefixTable()
        self._totals = _Totals()
        self._queue: deque[_Write] = deque()
        self._waiting: dict[PrefixName, int] = {}
        """Sizes of what is in the queue or being written; in the table too, so that it is not written twice."""
        self._changed = threading.Condition()
        self._writer: threading.Thread | None = None
        self._is_writable = True
        self._is_closed = False
        self._bytes_since_scan = 0
        self.on_room: Callable[[], None] = lambda: None
        """Called by the writer after each file; must return at once."""
        self._scan()

    @property
    def max_file_bytes(self) -> int:
        """What is larger is not worth its place."""
        return int(self._budget_bytes * _LARGEST_SHARE)

    @property
    def budget_bytes(self) -> int:
        """What files may take together: as configured, but at most half of what the disk could give."""
        return self._budget_bytes

    def stats(self) -> PrefixStoreStats:
        with self._changed:
            waiting = [size_bytes for name, size_bytes in self._waiting.items() if name in self._table]
            return PrefixStoreStats(
                files=len(self._table) - len(waiting),
                bytes=self._table.size_bytes - sum(waiting),
                waiting_bytes=sum(waiting),
                **msgspec.structs.asdict(self._totals),
            )

    # Looking up

    def find(self, key: CacheKey, tokens: bytes, *, limit: int) -> PrefixName | None:
        """The stored prefix that covers most of the packed tokens, at most `limit` of them."""
        tenant, owner = self._files.tenant_of(key), self._files.owner_of(key)
        running, view, best = self._files.token_hash(owner), memoryview(tokens), None
        limit = min(limit, len(tokens) // TOKEN_BYTES)
        with self._changed:
            hashed = 0
            for position in self._table.positions(owner, limit=limit):
                running.update(view[hashed * TOKEN_BYTES : position * TOKEN_BYTES])
                hashed = position
                name = PrefixName(tenant=tenant, owner=owner, position=position, tokens=running.hexdigest())
                if name in self._table:
                    best = name
        return best

    def has(self, key: CacheKey, tokens: bytes) -> bool:
        """Whether the state of exactly these packed tokens is stored, or waits to be."""
        with self._changed:
            return self._name(key, tokens) in self._table

    def touch(self, name: PrefixName) -> None:
        """It is in use: in memory now, but after a restart it will be wanted from here."""
        with self._changed:
            self._table.touch(name)
        self._reader.submit(self._touch_file, name)

    def fetch(self, name: PrefixName, deliver: Callable[[bytes | None], None]) -> None:
        """Read a state and hand it to `deliver` on the reader's thread; None if there is nothing usable."""
        self._reader.submit(lambda: deliver(self._read(name)))

    def discard(self, name: PrefixName) -> None:
        """Remove a file that turned out to be of no use."""
        with self._changed:
            self._totals.damaged_files += 1
        self._drop(name)

    # Writing

    def has_room(self, size_bytes: int) -> bool:
        """Whether `put` would take a blob of that size now."""
        with self._changed:
            return self._has_room(size_bytes)

    def put(self, key: CacheKey, tokens: bytes, blob: bytes, *, wait_s: float = 0) -> bool:
        """Queue the state of exactly these packed tokens; False if it will not be written.

        wait_s  how long to wait for room
        """
        name = self._name(key, tokens)
        with self._changed:
            if name in self._table:
                return True
            write = _Write(name, blob)
            if write.size_bytes <= self.max_file_bytes:
                self._changed.wait_for(lambda: self._has_room(write.size_bytes) or not self._takes_writes, wait_s)
            if write.size_bytes > self.max_file_bytes or not self._has_room(write.size_bytes):
                self._totals.dropped_writes += 1
                return False
            self._table.add(name, write.size_bytes)
            self._waiting[name] = write.size_bytes
            self._queue.append(write)
            self._changed.notify_all()
            if self._writer is None:
                self._writer = threading.Thread(target=self._run, name="deepserve-disk-write", daemon=True)
                self._writer.start()
        return True

    def count_dropped(self, number: int) -> None:
        """Note states that were given up before they got here."""
        with self._changed:
            self._totals.dropped_writes += number

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued is written; False if it took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout=timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write what is queued, as far as the time goes, and stop. What is cut off half-way is swept out later."""
        is_flushed = self.flush(timeout_s)
        with self._changed:
            self._is_closed = True
            self._totals.dropped_writes += len(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        if is_flushed and self._writer is not None:
            self._writer.join()
        self._reader.shutdown(wait=False, cancel_futures=True)

    # The reader's thread

    def _read(self, name: PrefixName) -> bytes | None:
        try:
            blob = self._files.read(name)
        except FileNotFoundError:
            # Not written yet, or removed by another server.
            with self._changed:
                if name not in self._waiting:
                    self._table.discard(name)
            return None
        except DamagedPrefix as error:
            _logger.warning("cached prefix: %s; removed", error)
            self.discard(name)
            return None
        except Exception:  # whatever it is: a request waits for the answer
            _logger.warning("cached prefix: %s cannot be read", name.file, exc_info=True)
            return None
        with self._changed:
            self._table.touch(name)
        self._touch_file(name)
        return blob

    def _touch_file(self, name: PrefixName) -> None:
        try:
            self._files.touch(name)
        except OSError:
            _logger.debug("cached prefix: %s cannot be touched", name.file, exc_info=True)

    # The writer's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if not self._queue:
                    return
                write = self._queue.popleft()
            try:
                self._write(write)
            except OSError as error:
                self._give_up(error.strerror or str(error))
            except Exception as error:
                _logger.exception("cached prefix: %s could not be written", write.name.file)
                self._give_up(type(error).__name__)
            with self._changed:
                self._waiting.pop(write.name, None)
                self._changed.notify_all()
            self.on_room()

    def _write(self, write: _Write) -> None:
        self._make_room()
        with self._changed:
            if write.name not in self._table:
                return  # it did not fit itself
        self._files.write(write.name, write.blob)
        with self._changed:
            self._waiting.pop(write.name, None)
            self._totals.written_bytes += write.size_bytes
            self._bytes_since_scan += write.size_bytes
            is_scan_due = self._bytes_since_scan > self._budget_bytes * _SCAN_EVERY
        if is_scan_due:
            self._scan()

    def _make_room(self) -> None:
        while True:
            with self._changed:
                if self._table.size_bytes <= self._budget_bytes and len(self._table) <= _MAX_FILES:
                    return
                victim = self._table.victim()
                assert victim is not None, "an empty table is within any budget"
                self._totals.evictions += 1
            self._drop(victim)

    def _give_up(self, reason: str) -> None:
        """Stop writing: what failed once would fail again, and cost a copy of the state each time."""
        _logger.warning(
            "No more prefixes are cached on disk until the server restarts: %s cannot be written (%s).",
            self._files.directory,
            reason,
        )
        with self._changed:
            self._is_writable = False
            self._totals.dropped_writes += len(self._waiting)
            for name in self._waiting:
                self._table.discard(name)
            self._waiting.clear()
            self._queue.clear()

    # Both

    def _scan(self) -> None:
        """Take in what the directory holds now. Raises OSError."""
        now = self._clock()
        found = self._files.list(now)
        free_bytes = shutil.disk_usage(self._files.directory).free
        table = PrefixTable()
        for file in found:
            if now - file.used_at > _MAX_AGE_S:
                self._remove_file(file.name)
            else:
                table.add(file.name, file.size_bytes)
        with self._changed:
            self._budget_bytes = min(self._max_bytes, (table.size_bytes + free_bytes) // 2)
            for name, size_bytes in self._waiting.items():
                table.add(name, size_bytes)
            self._table = table
            self._bytes_since_scan = 0

    def _drop(self, name: PrefixName) -> None:
        with self._changed:
            self._table.discard(name)
        self._remove_file(name)

    def _remove_file(self, name: PrefixName) -> None:
        try:
            self._files.remove(name)
        except OSError:
            _logger.debug("cached prefix: %s cannot be removed", name.file, exc_info=True)

    def _name(self, key: CacheKey, tokens: bytes) -> PrefixName:
        owner = self._files.owner_of(key)
        digest = self._files.token_hash(owner)
        digest.update(tokens)
        return PrefixName(
            tenant=self._files.tenant_of(key),
            owner=owner,
            position=len(tokens) // TOKEN_BYTES,
            tokens=digest.hexdigest(),
        )

    @property
    def _takes_writes(self) -> bool:
        return self._is_writable and not self._is_closed

    def _has_room(self, size_bytes: int) -> bool:
        waiting = sum(self._waiting.values())
        return self._takes_writes and (not waiting or waiting + size_bytes <= _MAX_WAITING_BYTES)


def open_prefix_store(state_dir: Path, *, max_bytes: int, binding: str) -> PrefixStore | None:
    """The store of one state directory; None, and a warning, where it cannot be used."""
    try:
        secret = load_secret(state_dir / "prefix-cache.key")
        files = PrefixFiles(state_dir / "prefix-cache", secret=secret, binding=binding)
        return PrefixStore(files, max_bytes=max_bytes)
    except OSError as error:
        _logger.warning("Prefixes are not cached on disk: %s cannot be used (%s).", state_dir, error.strerror or error)
        return None
