"""Cached prefixes as files: what they are called, and how they are sealed.

A file holds one state. Its name says whose it is and which tokens it covers, but only to who has the secret: every part
but the position is a keyed hash. Its content is sealed together with its name, so that a file that was damaged, cut
off, made by somebody else or moved under another name is recognised and never reaches an engine.

Keyed BLAKE2b (RFC 7693) is both the hash and the seal: some 1 GB/s on any processor, with the interpreter's lock
released meanwhile.

Knows nothing of engines, budgets and threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from deepserve.engine.prefix_index import CacheKey
from deepserve.store.private_file import create_private, open_private, write_all

_MAGIC = b"DSPREFX\x01"
_SEAL_BYTES = 32
HEADER_BYTES = len(_MAGIC) + _SEAL_BYTES
"""What a file is larger than the state in it."""

_PARTIAL = ".part"
_ABANDONED_S = 3600.0
"""A half-written file older than this has no writer any more."""


class DamagedPrefix(Exception):
    """A file that is not what its name says."""


class PrefixName(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """tenant, owner, tokens: keyed hashes of the tenant, of the whole cache key, and of the tokens under it."""

    tenant: str
    owner: str
    position: int
    tokens: str

    @property
    def file(self) -> str:
        return f"{self.tenant}-{self.owner}-{self.position}-{self.tokens}.state"


_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{32})-([1-9][0-9]{0,9})-([0-9a-f]{32})\.state")


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    name: PrefixName
    size_bytes: int
    used_at: float
    """Seconds since the epoch."""


class PrefixFiles:
    """The files of one directory.

    binding  everything that states depend on besides the cache key; files made under another are never found

    Raises OSError where the file system does, already when made.
    """

    def __init__(self, directory: Path, *, secret: bytes, binding: str) -> None:
        self.directory = directory
        self._secret = secret
        self._binding = binding
        self._make_directory()

    # Names

    def tenant_of(self, key: CacheKey) -> str:
        return self._hash(b"tenant", key.tenant.encode(), size=8).hexdigest()

    def owner_of(self, key: CacheKey) -> str:
        fields = (self._binding, key.tenant, key.user_id, key.model, key.profile, key.fingerprint)
        return self._hash(b"owner", msgspec.msgpack.encode(fields), size=16).hexdigest()

    def token_hash(self, owner: str) -> hashlib.blake2b:
        """Feed it packed tokens; its digest at any point is the last part of the name of what covers these.

        The owner goes in first: equal prompts of two users have nothing in common on the disk.
        """
        return self._hash(b"tokens", owner.encode(), size=16)

    def _hash(self, purpose: bytes, content: bytes, *, size: int) -> hashlib.blake2b:
        return hashlib.blake2b(content, key=self._secret, person=purpose, digest_size=size)

    # Files

    def write(self, name: PrefixName, blob: bytes) -> None:
        """Put a state under its name, all of it or nothing.

        Nothing is forced to the disk: what a loss of power leaves behind is not sealed, so it is a miss.
        """
        self._make_directory()
        partial = self.directory / f"{name.file}.{secrets.token_hex(8)}{_PARTIAL}"
        try:
            with create_private(partial) as descriptor:
                for part in (_MAGIC, self._seal(name, blob), blob):
                    write_all(descriptor, part)
            partial.replace(self.directory / name.file)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def read(self, name: PrefixName) -> bytes:
        """The state under a name. Raises DamagedPrefix for anything that was not written by `write` under this name."""
        descriptor = open_private(self.directory / name.file)
        with open(descriptor, "rb") as file:
            magic, seal, blob = file.read(len(_MAGIC)), file.read(_SEAL_BYTES), file.read()
        if magic != _MAGIC or not hmac.compare_digest(seal, self._seal(name, blob)):
            raise DamagedPrefix(f"{name.file} is damaged or not from here")
        return blob

    def touch(self, name: PrefixName) -> None:
        """Make it the most recently used."""
        os.utime(self.directory / name.file)

    def remove(self, name: PrefixName) -> None:
        (self.directory / name.file).unlink(missing_ok=True)

    def list(self, now: float) -> list[StoredFile]:
        """What is there, least recently used first; sweeps out what writers that died left behind.

        now  seconds since the epoch
        """
        found: list[StoredFile] = []
        for entry, status in self._entries():
            match = _NAME.fullmatch(entry.name)
            if match is not None:
                tenant, owner, position, tokens = match.groups()
                name = PrefixName(tenant=tenant, owner=owner, position=int(position), tokens=tokens)
                found.append(StoredFile(name=name, size_bytes=status.st_size, used_at=status.st_mtime))
            elif entry.name.endswith(_PARTIAL) and now - status.st_mtime > _ABANDONED_S:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
        return sorted(found, key=lambda file: (file.used_at, file.name))

    def _entries(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another server removed it meanwhile
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield entry, status

    def _seal(self, name: PrefixName, blob: bytes) -> bytes:
        seal = self._hash(b"seal", name.file.encode() + b"\0", size=_SEAL_BYTES)
        seal.update(blob)
        return seal.digest()

    def _make_directory(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
