"""Server-sent events out of bytes as they come: https://html.spec.whatwg.org/multipage/server-sent-events.html.

Only the data of events is told: names, ids and comments play no part in the streams that are read here.
"""

from __future__ import annotations

import re

from deepserve.outgoing.errors import InvalidAnswer

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventStreamReader:
    """`feed` with bytes however they are cut, then `finish` once. max_bytes: of one event.

    Raises InvalidAnswer for an event that is larger, once the events before it have been handed out.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size_bytes = 0
        self._is_first_line = True
        self._may_skip_newline = False
        self._error: InvalidAnswer | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The data of all events that are complete."""
        found: list[bytes] = []
        self._raise()
        try:
            self._read(data, found)
        except InvalidAnswer as error:
            if not found:
                raise
            self._error = error
        return found

    def _read(self, data: bytes, found: list[bytes]) -> None:
        if not data:
            return
        if self._may_skip_newline and data[:1] == b"\n":
            data = data[1:]  # the second half of a line's end
        self._may_skip_newline = data.endswith(b"\r")
        *lines, rest = _LINE_END.split(data)
        for line in lines:
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            event = self._take(line)
            if event is not None:
                found.append(event)
        self._line += rest
        self._check(len(self._line))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def finish(self) -> list[bytes]:
        """What stands at the end without the empty line that ends an event; the standard drops it, many write it."""
        self._raise()
        last = self._take(bytes(self._line)) if self._line else None
        self._line.clear()
        rest = last if last is not None else self._take(b"")
        return [] if rest is None else [rest]

    def _take(self, line: bytes) -> bytes | None:
        """The data of the event that this line ends."""
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if not self._data:
                return None
            event = b"\n".join(self._data)
            self._data, self._size_bytes = [], 0
            return event
        name, _, value = line.partition(b":")
        if name == b"data":
            self._check(len(value))
            self._data.append(value.removeprefix(b" "))
            self._size_bytes += len(value) + 1
        return None

    def _check(self, more_bytes: int) -> None:
        if self._size_bytes + more_bytes > self._max_bytes:
            raise InvalidAnswer(f"an event of the stream is larger than {self._max_bytes} bytes")
