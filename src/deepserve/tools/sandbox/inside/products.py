"""What a cell leaves behind besides text: open figures, and new or changed files of the working folder."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from typing import Any

State = dict[str, tuple[int, int, int]]
"""Of each file its inode, time of change and size."""


def folder_state(folder: str) -> State:
    """The plain files right in `folder`; names that begin with a dot are private."""
    found = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and not entry.name.startswith("."):
                    found[entry.name] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


def changed_files(folder: str, before: State, *, most: int, most_bytes: int) -> tuple[list[tuple[str, bytes]], int]:
    """Up to `most` files of up to `most_bytes`, by name, and how many were left out."""
    after = folder_state(folder)
    changed = sorted(name for name, state in after.items() if before.get(name) != state)
    kept: list[tuple[str, bytes]] = []
    for name in changed:
        content = _content(os.path.join(folder, name), most_bytes) if len(kept) < most else None
        if content is not None:
            kept.append((name, content))
    return kept, len(changed) - len(kept)


def _content(path: str, most_bytes: int) -> bytes | None:
    # Neither a link nor a pipe is followed, even if one took the file's place just now.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                content = file.read(most_bytes + 1)
                return content if len(content) <= most_bytes else None
    return None


def take_figures() -> list[bytes]:
    """Every open figure as SVG; they are closed."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")  # Any: matplotlib need not be here
    if pyplot is None:
        return []
    figures = []
    try:
        for number in pyplot.get_fignums():
            drawing = io.BytesIO()
            pyplot.figure(number).savefig(drawing, format="svg", bbox_inches="tight")
            figures.append(drawing.getvalue())
    finally:
        pyplot.close("all")
    return figures
