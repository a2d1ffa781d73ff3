"""What is kept of a stream that a stranger's program writes."""

from __future__ import annotations

import os

_READ_BYTES = 64 * 1024


class KeptOutput:
    """The beginning of the stream, or its end, and how long it was."""

    def __init__(self, room_bytes: int, *, is_end_kept: bool = False) -> None:
        self._room_bytes = room_bytes
        self._is_end_kept = is_end_kept
        self._kept = bytearray()
        self.num_bytes = 0

    def take(self, descriptor: int) -> bool | None:
        """Read what is there. False: it has ended; None: there is nothing now."""
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return None
        self.num_bytes += len(data)
        self._kept += data
        if self._is_end_kept:
            del self._kept[: -self._room_bytes]
        else:
            del self._kept[self._room_bytes :]
        return bool(data)

    def text(self) -> str:
        kept = self._kept.decode("utf-8", "replace")
        num_left_out = self.num_bytes - len(self._kept)
        if num_left_out == 0:
            return kept
        if self._is_end_kept:
            return f"[{num_left_out:,} bytes were left out]\n{kept}"
        return f"{kept}\n[{num_left_out:,} bytes were left out]\n"
