"""What goes in and out of a walled-in process: four bytes of length, so much JSON, and the contents of files.

Every message has a random tag. An answer without it was not meant for this message.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping

import msgspec

from deepserve.core.messages import Json

_MOST_HEAD_BYTES = 512 * 1024


class Garbled(Exception):
    """What arrived is no answer to what was sent."""


class Head(msgspec.Struct):
    """files: names in hexadecimal, and sizes. left_out: how many files more there are. fault: why nothing can run."""

    tag: str
    files: list[tuple[str, int]] = []
    exit_code: int = 0
    value: str | None = None
    is_value_cut: bool = False
    left_out: int = 0
    fault: str | None = None


def encode_message(tag: str, message: Mapping[str, Json]) -> bytes:
    # The tag comes last, so that nothing in the message takes its place.
    body = msgspec.json.encode({**message, "tag": tag})
    return struct.pack(">I", len(body)) + body


class Answer:
    """One answer, as its bytes come in. Nothing in it is believed beyond its form and size."""

    def __init__(self, tag: str, *, most_files: int, most_file_bytes: int) -> None:
        self._tag = tag
        self._most_files = most_files
        self._most_file_bytes = most_file_bytes
        self._received = bytearray()
        self.head: Head | None = None
        self.is_complete = False

    def add(self, data: bytes) -> None:
        """Raises Garbled."""
        self._received += data
        if self.head is None:
            self.head = self._take_head()
        if self.head is not None:
            num_bytes = sum(size for _, size in self.head.files)
            if len(self._received) > num_bytes:
                raise Garbled("more than was announced")
            self.is_complete = len(self._received) == num_bytes

    def files(self) -> tuple[tuple[str, bytes], ...]:
        """Names and contents; what has a name that cannot be shown is left out."""
        assert self.head is not None
        contents = io.BytesIO(self._received)
        listed = [(_plain_name(name), contents.read(size)) for name, size in self.head.files]
        return tuple((name, content) for name, content in listed if name is not None)

    def _take_head(self) -> Head | None:
        if len(self._received) < 4:
            return None
        end = 4 + int.from_bytes(self._received[:4])
        if end > 4 + _MOST_HEAD_BYTES:
            raise Garbled("too long")
        if len(self._received) < end:
            return None
        try:
            head = msgspec.json.decode(self._received[4:end], type=Head)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Garbled("no JSON of ours") from error
        if head.tag != self._tag:
            raise Garbled("the answer to something else")
        if len(head.files) > self._most_files or any(not 0 <= size <= self._most_file_bytes for _, size in head.files):
            raise Garbled("more files than allowed")
        del self._received[:end]
        return head


def _plain_name(hexadecimal: str) -> str | None:
    """A name without folders that can be shown; None for any other."""
    try:
        name = bytes.fromhex(hexadecimal).decode("utf-8")
    except ValueError:
        return None
    is_plain = 0 < len(name.encode()) <= 255 and name.isprintable() and name not in (".", "..")
    return name if is_plain and "/" not in name and "\\" not in name else None
