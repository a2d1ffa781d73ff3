"""A folder in which a stranger's program works, or has worked: measured and removed without following its links."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LEVELS = 32


class FolderUse(msgspec.Struct, frozen=True):
    num_files: int
    size_bytes: int


def measure_folder(path: Path, *, most_files: int) -> FolderUse:
    """What is in it, itself not counted. Counting ends beyond `most_files`, or beyond so many levels as nobody needs:
    then it says that there are more than `most_files`."""
    num_files = 0
    size_bytes = 0
    levels = [os.open(path, _OPEN_FOLDER)]
    waiting = [_names(levels[0])]
    try:
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                os.close(levels.pop())
                continue
            name = waiting[-1].pop()
            try:
                status = os.stat(name, dir_fd=levels[-1], follow_symlinks=False)
                num_files += 1
                size_bytes += status.st_blocks * 512
                if num_files > most_files:
                    break
                if stat.S_ISDIR(status.st_mode):
                    if len(levels) == _MOST_LEVELS:
                        num_files = most_files + 1
                        break
                    levels.append(os.open(name, _OPEN_FOLDER, dir_fd=levels[-1]))
                    waiting.append(_names(levels[-1]))
            except OSError:
                # The program goes on meanwhile: this entry is gone, or something else by now.
                continue
    finally:
        for descriptor in levels:
            os.close(descriptor)
    return FolderUse(num_files, size_bytes)


def remove_folder(path: Path) -> None:
    """Remove it with all that is in it, however deep. What is in it is in nobody's use any more.

    Folders in folders are moved up to the top before they are emptied, so that depth costs nothing.
    """
    top = os.open(path, _OPEN_FOLDER)
    os.fchmod(top, 0o700)
    number = 0
    try:
        while names := _names(top):
            for name in names:
                if _unlink(name, top):
                    continue
                inner = _open_all_rights(name, top)
                try:
                    for child in _names(inner):
                        if not _unlink(child, inner):
                            os.close(_open_all_rights(child, inner))
                            number += 1
                            os.rename(child, _free_name(top, number), src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _names(folder: int) -> list[bytes]:
    # As bytes: a name need not be text.
    return [os.fsencode(name) for name in os.listdir(folder)]


def _unlink(name: bytes, folder: int) -> bool:
    """Whether it was no folder, and is gone."""
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    os.unlink(name, dir_fd=folder)
    return True


def _open_all_rights(name: bytes, folder: int) -> int:
    os.chmod(name, 0o700, dir_fd=folder)
    return os.open(name, _OPEN_FOLDER, dir_fd=folder)


def _free_name(folder: int, number: int) -> bytes:
    name = b"%d" % number
    while True:
        try:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return name
        name += b"_"
