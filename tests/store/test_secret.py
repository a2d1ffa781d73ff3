"""The keys of a state directory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from deepserve.store.secret import load_secret


def test_the_secret_is_random_and_stays(tmp_path: Path) -> None:
    one, two = load_secret(tmp_path / "one"), load_secret(tmp_path / "two")
    assert len(one) == 32
    assert one != two
    assert load_secret(tmp_path / "one") == one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_servers_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    secrets: list[bytes] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        secrets.append(load_secret(tmp_path / "key"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 8
    assert len(set(secrets)) == 1


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_damaged_secret_is_made_anew(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert len(load_secret(path)) == 32
    assert "damaged" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_a_secret_that_others_could_read_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = bytes(32)
    path = tmp_path / "key"
    path.write_bytes(known)
    path.chmod(0o640)
    assert load_secret(path) != known
    assert path.stat().st_mode & 0o777 == 0o600
    assert "open to other users" in caplog.text
