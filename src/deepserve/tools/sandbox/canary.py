"""What is run once before a tier is trusted: one thing that must work, and three that must not."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deepserve.tools.sandbox.process import Process, StartFailed

_TIMEOUT_S = 10.0
_SINGS = "works"

_CODE = """
import os, socket

def is_refused(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False

def fork():
    if os.fork() == 0:
        os._exit(0)

attempts = dict(
    sockets=socket.socket,
    processes=fork,
    files=lambda: open({secret!r}).read(),
)
print({sings!r}, *(name for name, attempt in attempts.items() if not is_refused(attempt)))
"""


def try_out(process: Process, folder: Path) -> None:
    """Raises StartFailed if the walls do not hold. folder: one that every user can read, and the sandbox must not."""
    with _secret(folder) as path:
        result = process.run(_CODE.format(secret=str(path), sings=_SINGS), timeout_s=_TIMEOUT_S)
    if result.stopped_by is not None:
        raise StartFailed(f"a trial was stopped by {result.stopped_by}")
    sings, *open_ways = result.stdout.split() or [""]
    if sings != _SINGS:
        raise StartFailed(f"a trial failed: {result.stderr.strip() or result.stdout.strip() or 'it printed nothing'}")
    if open_ways:
        raise StartFailed(f"its walls do not hold here: {', '.join(open_ways)} can be reached")


@contextlib.contextmanager
def _secret(folder: Path) -> Iterator[Path]:
    descriptor, path = tempfile.mkstemp(prefix="secret-", dir=folder)
    try:
        os.fchmod(descriptor, 0o444)
        yield Path(path)
    finally:
        os.close(descriptor)
        os.unlink(path)
