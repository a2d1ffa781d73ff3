from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deepserve.engine.prefix_files import HEADER_BYTES, DamagedPrefix, PrefixFiles, PrefixName
from deepserve.engine.prefix_index import CacheKey, pack_tokens
from tests.engine.disk_setup import files_at, key_of, paths_in

BLOB = bytes(range(50)) * 2


def name_of(files: PrefixFiles, tokens: list[int], key: CacheKey | None = None) -> PrefixName:
    key = key or key_of()
    owner = files.owner_of(key)
    digest = files.token_hash(owner)
    digest.update(pack_tokens(tokens))
    return PrefixName(tenant=files.tenant_of(key), owner=owner, position=len(tokens), tokens=digest.hexdigest())


def is_damaged(files: PrefixFiles, name: PrefixName) -> bool:
    try:
        files.read(name)
    except DamagedPrefix:
        return True
    return False


def test_a_state_is_read_as_it_was_written_also_by_another_process(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    name = name_of(files, [1, 2, 3])
    files.write(name, BLOB)
    assert files.read(name) == BLOB
    again = files_at(tmp_path)
    assert name_of(again, [1, 2, 3]) == name
    assert again.read(name) == BLOB
    (file,) = again.list(now=0)
    assert file.name == name
    assert file.size_bytes == HEADER_BYTES + len(BLOB)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_only_the_owner_can_read_anything(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        files = files_at(tmp_path / "state")
        files.write(name_of(files, [1]), BLOB)
    finally:
        os.umask(previous)
    (path,) = paths_in(tmp_path / "state")
    modes = [item.stat().st_mode & 0o777 for item in (path, path.parent, tmp_path / "state" / "prefix-cache.key")]
    assert modes == [0o600, 0o700, 0o600]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    name = name_of(files, [1])
    files.write(name, BLOB)
    (path,) = paths_in(tmp_path)
    whole = path.read_bytes()
    for index in range(len(whole)):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << index % 8
        path.write_bytes(damaged)
        assert is_damaged(files, name), index
    path.write_bytes(whole)
    assert not is_damaged(files, name)


def test_every_other_length_is_noticed(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    name = name_of(files, [1])
    files.write(name, BLOB)
    (path,) = paths_in(tmp_path)
    whole = path.read_bytes()
    for wrong in (*(whole[:length] for length in range(len(whole))), whole + b"\0", whole * 2):
        path.write_bytes(wrong)
        assert is_damaged(files, name), len(wrong)


def test_a_file_under_another_name_is_noticed(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    one, longer = name_of(files, [1]), name_of(files, [1, 2])
    foreign = name_of(files, [1], key_of("b"))
    files.write(one, BLOB)
    path = files.directory / one.file
    for other in (longer, foreign):
        (files.directory / other.file).write_bytes(path.read_bytes())
        assert is_damaged(files, other)
    assert files.read(one) == BLOB


def test_without_the_secret_nobody_can_make_a_file(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    forger = PrefixFiles(files.directory, secret=bytes(32), binding="f")
    assert name_of(forger, [1]) != name_of(files, [1])
    name = name_of(files, [1])
    forger.write(name, BLOB)
    assert is_damaged(files, name)


def test_names_depend_on_everything_a_state_depends_on(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    keys = [key_of(), key_of("b"), key_of(user_id=""), key_of(user_id="u"), key_of(fingerprint="g")]
    names = {name_of(files, [1, 2], key) for key in keys}
    names |= {name_of(files_at(tmp_path, binding="other"), [1, 2]), name_of(files, [1, 3]), name_of(files, [1])}
    assert len(names) == len(keys) + 3


def test_names_tell_strangers_nothing_but_the_length(tmp_path: Path) -> None:
    """Not even that two users sent the same prompt, or that a user of two servers is the same."""
    one, two = files_at(tmp_path / "one"), files_at(tmp_path / "two")
    names = [
        name_of(files, [7, 8], key_of("tenant", user_id=user)) for files in (one, two) for user in ("Ada", "Grace")
    ]
    assert len({name.tokens for name in names}) == len({name.owner for name in names}) == 4
    assert names[0].tenant == names[1].tenant != names[2].tenant
    for name in names:
        assert not {"tenant", "Ada", "Grace"} & set(name.file.replace(".", "-").split("-"))


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_at(tmp_path)
    name = name_of(files, [1])
    files.write(name, BLOB)
    write = os.write

    def fill_the_disk(descriptor: int, data: memoryview) -> int:
        if len(data) == len(BLOB):
            return write(descriptor, data[:10])
        if len(data) == len(BLOB) - 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        files.write(name, bytes(len(BLOB)))
    assert [path.name for path in files.directory.iterdir()] == [name.file]
    assert files.read(name) == BLOB


def test_what_a_killed_writer_left_is_no_state_and_is_swept_out_later(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    left = files.directory / f"{name_of(files, [1]).file}.0123456789abcdef.part"
    left.write_bytes(b"DSPREFX\x01")
    written_at = left.stat().st_mtime
    assert files.list(now=written_at + 60) == []
    assert left.exists()  # its writer may be at it
    assert files.list(now=written_at + 86_400) == []
    assert not left.exists()


def test_what_is_not_a_state_is_left_alone(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    name, other = name_of(files, [1]), name_of(files, [2])
    outside = tmp_path / "outside"
    outside.write_bytes(BLOB)
    (files.directory / name.file).symlink_to(outside)
    (files.directory / other.file).mkdir()
    for foreign in ("README", "a-b-1-c.state", f"{name.file}.bak", name.file.upper()):
        (files.directory / foreign).write_bytes(b"")
    before = sorted(files.directory.iterdir())
    assert files.list(now=1e12) == []
    assert sorted(files.directory.iterdir()) == before
    with pytest.raises(OSError, match="symbolic"):
        files.read(name)


def test_a_directory_that_vanishes_is_made_again(tmp_path: Path) -> None:
    files = files_at(tmp_path)
    files.directory.rmdir()
    files.write(name_of(files, [1]), BLOB)
    assert files.read(name_of(files, [1])) == BLOB
