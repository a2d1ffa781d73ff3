from __future__ import annotations

import os
from pathlib import Path

from deepserve.tools.sandbox.lease import Lease, is_leased
from deepserve.tools.sandbox.strange_folder import measure_folder, remove_folder


def test_files_and_folders_are_counted_and_links_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "file").write_bytes(bytes(8192))
    (folder / "link").symlink_to("/usr")
    (folder / "a" / "up").symlink_to("..")
    use = measure_folder(folder, most_files=100)
    assert use.num_files == 5
    assert 8192 <= use.size_bytes < 65536


def test_counting_ends_where_there_are_too_many(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).touch()
    assert measure_folder(tmp_path, most_files=10).num_files == 11


def test_a_deep_folder_counts_as_too_much_and_goes_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert measure_folder(folder, most_files=5000).num_files == 5001
    remove_folder(folder)
    assert not folder.exists()


def test_what_links_point_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    folder = tmp_path / "session"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "link").symlink_to(outside)
    (folder / "link").symlink_to(outside / "file")
    (folder / "2" / "3").mkdir(parents=True)
    (folder / "2" / "3" / "file").touch()
    (folder / "2").chmod(0)
    (folder / "1").chmod(0)
    remove_folder(folder)
    assert not folder.exists()
    assert (outside / "file").read_text() == "mine"


def test_a_folder_is_leased_until_it_is_released(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    assert is_leased(tmp_path)
    lease.release()
    assert not is_leased(tmp_path)
