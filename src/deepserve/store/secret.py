"""Random keys: made once in a state directory, kept beside what depends on them, or given to several servers alike."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from pathlib import Path

from deepserve.core.errors import ConfigurationError
from deepserve.store.agreements import FINGERPRINT, agree
from deepserve.store.database import Database, is_shared
from deepserve.store.private_file import create_private, open_private, write_all

_logger = logging.getLogger(__name__)

SECRET_BYTES = 32

_SHARED_FILE = "shared.key"


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


def open_shared_secret(database: Database | None, state_dir: Path | None, secret_file: Path | None) -> bytes | None:
    """What the servers of one database seal and sign with; None: each state directory has keys of its own.

    That of the file, else one made in the state directory. A database that several machines may use keeps a
    fingerprint of it: what one of them sealed or signed would be worth nothing with another's secret.

    Raises ConfigurationError, also for another secret than the other servers'.
    """
    shares = database is not None and is_shared(database)
    secret = None
    if secret_file is not None:
        secret = _read_given(secret_file)
    elif shares:
        if state_dir is None:
            raise ConfigurationError("Servers that share a database need a secret: name it with --secret-file.")
        try:
            secret = load_secret(state_dir / _SHARED_FILE)
        except OSError as error:
            raise ConfigurationError(f"The state directory {state_dir} cannot keep a secret: {error}.") from error
    if (
        secret is not None
        and database is not None
        and shares
        and not agree(database, FINGERPRINT, _fingerprint(secret))
    ):
        source = secret_file or f"{state_dir}/{_SHARED_FILE}"
        raise ConfigurationError(
            f"The secret of this server ({source}) is not that of the other servers on its database, so they could not "
            "read what it seals. Give all of them the same bytes with --secret-file. If the secret they had is lost, "
            "run `deepserve database forget-secret`: traces sealed with it are lost, and webhooks get new secrets."
        )
    return secret


def derive_key(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose, which tells nothing of the secret or of other keys."""
    return hashlib.blake2b(secret, person=purpose.encode(), digest_size=SECRET_BYTES).digest()


def _fingerprint(secret: bytes) -> str:
    return hashlib.blake2b(secret, person=b"fingerprint", digest_size=16).hexdigest()


def _read_given(path: Path) -> bytes:
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The secret file {path} cannot be read: {error.strerror}.") from error
    if len(secret) < SECRET_BYTES:
        raise ConfigurationError(
            f"The secret file {path} has {len(secret)} bytes; it needs {SECRET_BYTES} random ones or more. "
            f"Make one with: openssl rand -base64 {SECRET_BYTES} > {path}"
        )
    return secret


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
