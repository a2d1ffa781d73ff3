"""The process that reads what strangers wrote: one document after the other, from standard input to standard output.

It has no environment, no network to use and nothing to remember, and the system ends it when it takes too much. Each
message is its length in four bytes, then MessagePack.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from typing import BinaryIO

import msgspec

from deepserve.tools.reading.charset import decode_text
from deepserve.tools.reading.reading import Reading, Unreadable

MEMORY_BYTES = 1 << 30


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """charset: as the sender declared it. url: what links in it are relative to. is_cut: the content is not all."""

    content: bytes
    media_type: str
    charset: str | None = None
    url: str = ""
    max_characters: int
    is_cut: bool = False


def main() -> None:
    """Until standard input ends."""
    _limit_memory()
    logging.disable()  # complaints about damaged files are for nobody
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while True:
        message = read_message(source)
        if message is None:
            return
        order = msgspec.msgpack.decode(message, type=Order)
        try:
            answer = carry_out(order)
        except (MemoryError, RecursionError):
            answer = Unreadable(reason="The document takes more memory than it is given.")
        reply = msgspec.msgpack.encode({"reading" if isinstance(answer, Reading) else "fault": answer})
        sink.write(len(reply).to_bytes(4, "big") + reply)
        sink.flush()


def carry_out(order: Order) -> Reading | Unreadable:
    match order.media_type:
        case "text/html" | "application/xhtml+xml":
            from deepserve.tools.reading.html import read_html

            text = decode_text(order.content, order.charset, has_markup=True, is_cut=order.is_cut)
            return read_html(text, url=order.url, max_characters=order.max_characters)
        case "application/pdf":
            if importlib.util.find_spec("pypdf") is None:
                return Unreadable(reason='This server does not read PDF; pip install "deepserve[pdf]".', is_kind=True)
            if order.is_cut:
                return Unreadable(reason="The PDF file is larger than this server reads.")
            from deepserve.tools.reading.pdf import read_pdf

            return read_pdf(order.content, max_characters=order.max_characters)
        case _:
            return Unreadable(reason=f"{order.media_type} is not read by this server.", is_kind=True)


def read_message(source: BinaryIO) -> bytes | None:
    length = source.read(4)
    return None if len(length) < 4 else source.read(int.from_bytes(length, "big"))


def _limit_memory() -> None:
    """Where the system can: Windows has only the time limit."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
