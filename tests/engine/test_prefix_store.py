from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import override

from deepserve.engine import prefix_store
from deepserve.engine.prefix_files import HEADER_BYTES, PrefixFiles, PrefixName
from deepserve.engine.prefix_index import CacheKey, pack_tokens
from deepserve.engine.prefix_store import PrefixStore, open_prefix_store
from deepserve.store.secret import load_secret
from tests.engine.disk_setup import Held, Inline, files_at, key_of, paths_in, store_at

PATIENCE_S = 20.0
"""For what another thread does at once; only a failing test waits so long."""


def put(store: PrefixStore, tokens: list[int], blob: bytes | None = None, key: CacheKey | None = None) -> bool:
    """Write the state of some tokens; by default a kilobyte that tells which."""
    is_taken = store.put(key or key_of(), pack_tokens(tokens), blob or blob_of(tokens))
    assert store.flush(PATIENCE_S)
    return is_taken


def blob_of(tokens: list[int]) -> bytes:
    return pack_tokens(tokens).ljust(1000 - HEADER_BYTES, b".")


def find(store: PrefixStore, tokens: list[int], key: CacheKey | None = None, limit: int | None = None) -> int:
    """Tokens that the best stored prefix covers."""
    name = store.find(key or key_of(), pack_tokens(tokens), limit=len(tokens) if limit is None else limit)
    return name.position if name is not None else 0


def fetch(store: PrefixStore, tokens: list[int], key: CacheKey | None = None) -> bytes | None:
    """What is read for a prompt, with a reader that reads at once."""
    name = store.find(key or key_of(), pack_tokens(tokens), limit=len(tokens))
    blobs: list[bytes | None] = []
    if name is not None:
        store.fetch(name, blobs.append)
    return blobs[0] if blobs else None


class GatedFiles(PrefixFiles):
    """Writes nothing until the gate is opened."""

    def __init__(self, folder: Path) -> None:
        self.gate = threading.Event()
        self.is_reached = threading.Event()
        super().__init__(folder / "prefix-cache", secret=load_secret(folder / "prefix-cache.key"), binding="f")

    @override
    def write(self, name: PrefixName, blob: bytes) -> None:
        self.is_reached.set()
        assert self.gate.wait(PATIENCE_S)
        super().write(name, blob)


def test_the_longest_stored_prefix_is_found(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for tokens in ([1, 2], [1, 2, 3, 4], [1, 9]):
        put(store, tokens)
    assert find(store, [1, 2, 3, 4, 5]) == 4
    assert find(store, [1, 2, 3]) == 2
    assert find(store, [1, 2, 3, 4], limit=3) == 2
    assert find(store, [1]) == 0
    assert find(store, [2, 2]) == 0
    assert fetch(store, [1, 2, 3]) == blob_of([1, 2])
    assert store.has(key_of(), pack_tokens([1, 2]))
    assert not store.has(key_of(), pack_tokens([1, 2, 3]))


def test_prefixes_are_found_under_their_own_key_only(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    put(store, [1, 2])
    for key in (key_of("b"), key_of(user_id="u"), key_of(fingerprint="g")):
        assert find(store, [1, 2, 3], key) == 0
    assert find(store_at(tmp_path, binding="another engine"), [1, 2, 3]) == 0


def test_a_restart_finds_everything_and_reads_nothing_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store_at(tmp_path), [1, 2, 3])

    def read(self: PrefixFiles, name: PrefixName) -> bytes:
        raise AssertionError("read at start")

    monkeypatch.setattr(PrefixFiles, "read", read)
    store = store_at(tmp_path)
    assert find(store, [1, 2, 3, 4]) == 3
    assert (store.stats().files, store.stats().bytes) == (1, 1000)


@pytest.fixture
def only_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the directory only at start: files written within a tick of its clock have no order."""
    monkeypatch.setattr(prefix_store, "_SCAN_EVERY", 1000)


@pytest.mark.usefixtures("only_one_look")
def test_the_least_recently_used_goes_first_and_the_budget_holds(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=5000)
    for number in range(5):
        put(store, [number])
    assert fetch(store, [0]) is not None
    assert store.stats().evictions == 0
    put(store, [5])
    put(store, [6])
    assert [find(store, [number]) for number in range(7)] == [1, 0, 0, 1, 1, 1, 1]
    assert store.stats().evictions == 2
    assert sum(path.stat().st_size for path in paths_in(tmp_path)) == store.stats().bytes == 5000


def test_recency_survives_a_restart(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=4000)
    for number in range(4):
        put(store, [number])
        name = store.find(key_of(), pack_tokens([number]), limit=1)
        assert name is not None
        path = tmp_path / "prefix-cache" / name.file
        os.utime(path, (path.stat().st_mtime - 1000 + number,) * 2)
    name = store.find(key_of(), pack_tokens([0]), limit=1)
    assert name is not None
    store.touch(name)
    restarted = store_at(tmp_path, max_bytes=4000)
    put(restarted, [4])
    assert [find(restarted, [number]) for number in range(5)] == [1, 0, 1, 1, 1]


@pytest.mark.usefixtures("only_one_look")
def test_nobody_pushes_another_tenant_below_an_equal_share(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=8000)
    for number in range(4):
        put(store, [number], key=key_of("calm"))
    for number in range(20):
        put(store, [number], key=key_of("greedy"))
    assert [find(store, [number], key_of("calm")) for number in range(4)] == [1, 1, 1, 1]
    assert [find(store, [number], key_of("greedy")) for number in range(20)] == [0] * 16 + [1] * 4


def test_there_are_never_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_store, "_MAX_FILES", 10)
    store = store_at(tmp_path)
    for number in range(15):
        put(store, [number])
    assert len(paths_in(tmp_path)) == 10


def test_files_that_nobody_asked_for_in_a_month_are_removed(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    put(store, [1])
    put(store, [2])
    (path,) = [path for path in paths_in(tmp_path) if path.name == _file_of(store, [1])]
    used_at = path.stat().st_mtime
    os.utime(path, (used_at - 31 * 86_400,) * 2)
    restarted = PrefixStore(files_at(tmp_path), max_bytes=1 << 30, reader=Inline(), clock=lambda: used_at)
    assert [find(restarted, [number]) for number in (1, 2)] == [0, 1]
    assert not path.exists()


def _file_of(store: PrefixStore, tokens: list[int]) -> str:
    name = store.find(key_of(), pack_tokens(tokens), limit=len(tokens))
    assert name is not None
    return name.file


def test_at_most_half_of_what_the_disk_could_give_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")

    def of_nine_files(path: Path) -> usage:
        return usage(free=9000 - sum(file.stat().st_size for file in paths_in(tmp_path)))

    monkeypatch.setattr(shutil, "disk_usage", of_nine_files)
    store = store_at(tmp_path)
    assert store.budget_bytes == 4500
    for number in range(8):
        put(store, [number])
    assert len(paths_in(tmp_path)) == 4
    assert store_at(tmp_path).budget_bytes == 4500  # what it holds itself is there to be used again


def test_a_state_too_large_for_the_budget_is_not_written(tmp_path: Path) -> None:
    store = store_at(tmp_path, max_bytes=4000)
    assert put(store, [1], bytes(1000 - HEADER_BYTES))
    assert not put(store, [2], bytes(1001 - HEADER_BYTES))
    assert store.stats().dropped_writes == 1


def test_a_prefix_is_written_once(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    assert put(store, [1])
    assert put(store, [1])
    assert store.stats().written_bytes == 1000


def test_what_does_not_fit_the_queue_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_store, "_MAX_WAITING_BYTES", 2500)
    files = GatedFiles(tmp_path)
    store = PrefixStore(files, max_bytes=1 << 20, reader=Inline())
    news: list[int] = []
    store.on_room = lambda: news.append(store.stats().waiting_bytes)
    taken = [store.put(key_of(), pack_tokens([number]), blob_of([number])) for number in range(4)]
    assert taken == [True, True, False, False]
    assert store.stats().dropped_writes == 2
    assert not store.has_room(1000)
    # What waits is known, so that it is not queued again, but cannot be read yet, and is not lost for that.
    assert find(store, [0]) == 1
    assert fetch(store, [0]) is None
    files.gate.set()
    assert store.flush(PATIENCE_S)
    assert store.has_room(1000)
    assert [fetch(store, [number]) is not None for number in range(4)] == [True, True, False, False]
    store.close(PATIENCE_S)
    assert news == [1000, 0]


def test_a_put_may_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_store, "_MAX_WAITING_BYTES", 1000)
    files = GatedFiles(tmp_path)
    store = PrefixStore(files, max_bytes=1 << 20, reader=Inline())
    assert store.put(key_of(), pack_tokens([1]), blob_of([1]))

    def open_gate() -> None:
        files.is_reached.wait(PATIENCE_S)
        files.gate.set()

    opening = threading.Thread(target=open_gate)
    opening.start()
    assert store.put(key_of(), pack_tokens([2]), blob_of([2]), wait_s=PATIENCE_S)
    opening.join()
    assert store.flush(PATIENCE_S)
    assert len(paths_in(tmp_path)) == 2


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for number in range(20):
        assert store.put(key_of(), pack_tokens([number]), blob_of([number]))
    store.close(PATIENCE_S)
    assert len(paths_in(tmp_path)) == 20
    assert not store.put(key_of(), pack_tokens([99]), blob_of([99]))


def test_closing_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    files = GatedFiles(tmp_path)
    store = PrefixStore(files, max_bytes=1 << 20, reader=Inline())
    for number in range(3):
        store.put(key_of(), pack_tokens([number]), blob_of([number]))
    assert files.is_reached.wait(PATIENCE_S)
    store.close(0)
    assert store.stats().dropped_writes == 2
    files.gate.set()


def test_a_full_disk_is_one_warning_and_the_end_of_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_at(tmp_path)
    put(store, [1])

    def write(self: PrefixFiles, name: PrefixName, blob: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PrefixFiles, "write", write)
    for number in range(2, 6):
        put(store, [number])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    assert [find(store, [number]) for number in range(1, 6)] == [1, 0, 0, 0, 0]
    assert fetch(store, [1]) == blob_of([1])  # reading goes on
    assert store.stats().dropped_writes == 4
    assert not store.has_room(1)
    store.close(PATIENCE_S)


def test_a_writer_that_fails_in_any_other_way_does_not_hang_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path)

    def write(self: PrefixFiles, name: PrefixName, blob: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(PrefixFiles, "write", write)
    put(store, [1])
    assert not store.put(key_of(), pack_tokens([2]), blob_of([2]), wait_s=PATIENCE_S)
    store.close(PATIENCE_S)


def test_a_state_directory_that_cannot_be_used_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    for folder in (in_the_way, tmp_path / "other"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "prefix-cache").write_text("")
        assert open_prefix_store(folder, max_bytes=1 << 20, binding="f") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert open_prefix_store(tmp_path / "fine", max_bytes=1 << 20, binding="f") is not None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(bytes(5000)),
        lambda path: path.write_bytes(path.read_bytes()[:60] + b"\0" + path.read_bytes()[61:]),
    ],
    ids=["empty", "cut off", "foreign", "flipped"],
)
def test_a_damaged_file_is_a_miss_and_is_removed(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    store = store_at(tmp_path)
    put(store, [1, 2, 3])
    (path,) = paths_in(tmp_path)
    damage(path)
    assert fetch(store, [1, 2, 3]) is None
    assert not path.exists()
    assert find(store, [1, 2, 3]) == 0
    assert (store.stats().damaged_files, store.stats().files) == (1, 0)
    assert "removed" in caplog.text
    put(store, [1, 2, 3])
    assert fetch(store, [1, 2, 3]) == blob_of([1, 2, 3])


def test_two_files_swapped_are_two_misses(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    put(store, [1])
    put(store, [2])
    one, two = paths_in(tmp_path)
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    assert fetch(store, [1]) is None
    assert fetch(store, [2]) is None
    assert store.stats().damaged_files == 2


def test_a_file_that_vanished_is_a_miss_and_no_damage(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    put(store, [1])
    shutil.rmtree(tmp_path / "prefix-cache")
    assert fetch(store, [1]) is None
    assert find(store, [1]) == 0
    assert store.stats().damaged_files == 0
    put(store, [1])
    assert fetch(store, [1]) == blob_of([1])


def test_whatever_happens_to_a_reader_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits for it."""
    store = store_at(tmp_path)
    put(store, [1])

    def read(self: PrefixFiles, name: PrefixName) -> bytes:
        raise MemoryError

    monkeypatch.setattr(PrefixFiles, "read", read)
    blobs: list[bytes | None] = []
    name = store.find(key_of(), pack_tokens([1]), limit=1)
    assert name is not None
    store.fetch(name, blobs.append)
    assert blobs == [None]


def test_what_cannot_be_written_any_more_can_still_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that became read-only even the time of use cannot be noted."""
    put(store_at(tmp_path), [1])

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    store = store_at(tmp_path)
    assert fetch(store, [1]) == blob_of([1])
    name = store.find(key_of(), pack_tokens([1]), limit=1)
    assert name is not None
    store.touch(name)


def test_a_look_around_keeps_what_waits_and_takes_in_what_others_wrote(tmp_path: Path) -> None:
    files = GatedFiles(tmp_path)
    store = PrefixStore(files, max_bytes=20_000, reader=Inline())
    other = store_at(tmp_path, max_bytes=20_000)
    put(other, [100])
    assert find(store, [100]) == 0
    for number in range(3):  # more than a sixteenth of the budget
        store.put(key_of(), pack_tokens([number]), blob_of([number]))
    files.gate.set()
    assert store.flush(PATIENCE_S)
    assert find(store, [100]) == 1
    assert [find(store, [number]) for number in range(3)] == [1, 1, 1]
    store.close(PATIENCE_S)


def test_servers_that_share_a_directory_never_read_wrong_states(tmp_path: Path) -> None:
    """Both write, read, evict and look around in one directory, in four threads."""
    wrong: list[object] = []
    hits = [0, 0]
    stores = [store_at(tmp_path, max_bytes=30_000) for _ in range(2)]

    def serve(index: int) -> None:
        store, randomness = stores[index], random.Random(index)
        for _ in range(300):
            tokens = [randomness.randrange(50)]
            blob = fetch(store, tokens)
            if blob is None:
                put(store, tokens)
            elif blob == blob_of(tokens):
                hits[index] += 1
            else:
                wrong.append(tokens)

    threads = [threading.Thread(target=serve, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close(PATIENCE_S)
        assert store.stats().damaged_files == 0
        assert store.stats().evictions > 0
    assert not wrong
    assert min(hits) > 0
    # Each keeps to the budget what it knows of, and looks again after a sixteenth of it.
    assert sum(path.stat().st_size for path in paths_in(tmp_path)) <= 30_000 * (1 + 1 / 16) + 2000
    leftovers = [path for path in (tmp_path / "prefix-cache").iterdir() if path.suffix != ".state"]
    assert not leftovers


def test_touching_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    reader = Held()
    store = store_at(tmp_path, reader=reader)
    put(store, [1])
    (path,) = paths_in(tmp_path)
    os.utime(path, (1, 1))
    name = store.find(key_of(), pack_tokens([1]), limit=1)
    assert name is not None
    store.touch(name)
    assert path.stat().st_mtime == 1
    reader.run()
    assert path.stat().st_mtime > 1
