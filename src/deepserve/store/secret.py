"""Random keys that stay on this machine: made once, kept beside what depends on them."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from deepserve.store.private_file import create_private, open_private, write_all

_logger = logging.getLogger(__name__)

SECRET_BYTES = 32


def load_secret(path: Path) -> bytes:
    """Random bytes that only this user knows, made at the first call; of two servers at once both get the same.

    A file that others could read or that has not the right size is replaced: what was sealed with it is lost.
    Raises OSError.
    """
    for _ in range(2):
        secret = _read_secret(path)
        if secret is not None:
            return secret
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        with create_private(partial) as descriptor:
            write_all(descriptor, secrets.token_bytes(SECRET_BYTES))
        try:
            # Unlike a rename, this fails where another server was quicker.
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    raise OSError(f"{path} cannot be kept private")


def _read_secret(path: Path) -> bytes | None:
    try:
        descriptor = open_private(path)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        secret = file.read(SECRET_BYTES + 1)
    is_private = os.name != "posix" or not status.st_mode & 0o077
    if is_private and len(secret) == SECRET_BYTES:
        return secret
    _logger.warning(
        "%s is %s; it is made anew, and what was sealed with it so far is lost",
        path,
        "damaged" if is_private else "open to other users",
    )
    path.unlink(missing_ok=True)
    return None
