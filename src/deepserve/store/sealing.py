"""Thinking traces in a form that clients keep for us and only we can open.

A sealed trace travels in fields that clients send back unread, so that a trace survives a client that shows none, and a
server that restarts. It is compressed, encrypted and bound to the tenant; anything altered, cut off, made elsewhere or
sent by another tenant is no seal of ours, and nobody is told why.

The construction is that of synthetic initialisation vectors (RFC 5297): keyed BLAKE2b over tenant and content gives the
tag, and the tag starts the key stream (SHAKE-256). It is deterministic: equal traces have equal seals, so a repeated
answer is repeated byte for byte. That tells who sees two seals of one tenant whether they are equal, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
import zlib
from pathlib import Path
from typing import Final

from deepserve.core.tenant import TenantId
from deepserve.store.secret import SECRET_BYTES, derive_key, load_secret

_logger = logging.getLogger(__name__)

_VERSION: Final = b"\x01"
_TAG_BYTES: Final = 32
_COMPRESSION_LEVEL: Final = 3
"""A megabyte of text in some 20 ms; higher levels save a few per cent and cost several times as much."""


class Sealer:
    """Seals and opens texts. secret: 32 random bytes; with another one, nothing sealed before can be opened."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a sealing key has {SECRET_BYTES} bytes, not {len(secret)}")
        self._tag_key = _derived(secret, b"tag")
        self._stream_key = _derived(secret, b"stream")

    def seal(self, tenant: TenantId, text: str) -> str:
        """The text as base64 that only `unseal`, asked for the same tenant, can read.

        Lone surrogates, which no byte sequence stands for, become question marks.
        """
        return base64.b64encode(self.seal_bytes(tenant, text.encode("utf-8", "replace"))).decode("ascii")

    def seal_bytes(self, tenant: TenantId, data: bytes) -> bytes:
        """The same for what does not travel as text."""
        content = zlib.compress(data, _COMPRESSION_LEVEL)
        tag = self._tag(tenant, content)
        return _VERSION + tag + self._encrypted(tag, content)

    def unseal(self, tenant: TenantId, sealed: str) -> str | None:
        """The text; None for whatever was not sealed here for this tenant."""
        try:
            data = base64.b64decode(sealed, validate=True)
        except (binascii.Error, ValueError):
            return None
        found = self.unseal_bytes(tenant, data)
        return None if found is None else found.decode()

    def unseal_bytes(self, tenant: TenantId, data: bytes) -> bytes | None:
        """What `seal_bytes` was given; None as for `unseal`."""
        if data[:1] != _VERSION or len(data) <= 1 + _TAG_BYTES:
            return None
        tag = data[1 : 1 + _TAG_BYTES]
        content = self._encrypted(tag, data[1 + _TAG_BYTES :])
        if not hmac.compare_digest(tag, self._tag(tenant, content)):
            return None
        return zlib.decompress(content)

    def _tag(self, tenant: TenantId, content: bytes) -> bytes:
        name = tenant.encode()
        digest = hashlib.blake2b(len(name).to_bytes(4, "little") + name, key=self._tag_key, digest_size=_TAG_BYTES)
        digest.update(content)
        return digest.digest()

    def _encrypted(self, tag: bytes, content: bytes) -> bytes:
        """Its own inverse. Key and tag have fixed lengths, so no two pairs of them give the same stream."""
        stream = hashlib.shake_256(self._stream_key + tag).digest(len(content))
        mixed = int.from_bytes(content, "little") ^ int.from_bytes(stream, "little")
        return mixed.to_bytes(len(content), "little")


def open_sealer(state_dir: Path | None, shared_secret: bytes | None = None) -> Sealer:
    """The sealer of one state directory; without one, or where it cannot be used, one whose seals die with it.

    shared_secret: of several servers, instead of the directory's own.
    """
    if shared_secret is not None:
        return Sealer(derive_key(shared_secret, "sealing"))
    if state_dir is not None:
        try:
            return Sealer(load_secret(state_dir / "sealing.key"))
        except OSError as error:
            _logger.warning(
                "Sealed traces will not survive this process: %s cannot be used (%s).",
                state_dir,
                error.strerror or error,
            )
    return Sealer(secrets.token_bytes(SECRET_BYTES))


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=secret, person=purpose, digest_size=32).digest()
