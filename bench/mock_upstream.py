"""An upstream that answers at once and costs next to nothing, so that what is measured is the gateway before it.

It speaks Chat Completions. Its knobs travel in the request and so through any gateway: `max_tokens` is the number of
content events of a stream, and a prompt that says `paced` gets one every 20 ms. A whole answer has 900 bytes of text.

python -m bench.mock_upstream PORT
"""

from __future__ import annotations

import asyncio
import re
import sys

import msgspec
import uvloop
from typing_extensions import override

NUM_EVENTS = 50
PACE_S = 0.02
PACED = b"paced"
_WHOLE_TEXT = ("It is a truth universally acknowledged. " * 23)[:900]
_MODEL = "deepseek-v4-flash"
_USAGE = {
    "prompt_tokens": 400,
    "completion_tokens": 200,
    "total_tokens": 600,
    "prompt_tokens_details": {"cached_tokens": 256},
}
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')
_IS_STREAM = re.compile(rb'"stream": ?true')


def _answer(value: object) -> bytes:
    body = msgspec.json.encode(value)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _event(data: bytes) -> bytes:
    """A frame of the stream, as a chunk of the body."""
    frame = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def _chunk(choices: list[object], usage: object = None) -> bytes:
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": _MODEL}
    return _event(msgspec.json.encode({**common, "choices": choices, "usage": usage}))


def _told(delta: object, finish_reason: str | None = None) -> bytes:
    return _chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])


_MESSAGE = {"role": "assistant", "content": _WHOLE_TEXT}
_WHOLE = _answer(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": _MODEL,
        "choices": [{"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
)
_MODELS = _answer({"object": "list", "data": [{"id": _MODEL, "object": "model", "owned_by": "nobody"}]})
_ABOUT = _answer({"model_path": _MODEL, "served_model_name": _MODEL, "is_generation": True, "tp_size": 1, "dp_size": 1})
"""What routers of engines ask before they send work."""

_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FIRST = _told({"role": "assistant", "content": ""})
# Of different texts: some gateways take a stream that repeats itself for broken.
_MIDDLE = [_told({"content": f" word{number:02}"}) for number in range(64)]
_END = _told({}, "stop") + _chunk([], _USAGE) + _event(b"[DONE]") + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._read = bytearray()
        self._is_open = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what TCP gives
        self._transport = transport
        self._is_open = True

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._is_open = False

    @override
    def data_received(self, data: bytes) -> None:
        self._read += data
        head_end = self._read.find(_HEAD_END)
        if head_end < 0:
            return
        begin, end = head_end + len(_HEAD_END), self._end_of_body(head_end)
        if end is None:
            return
        is_question, body = self._read.startswith(b"POST"), bytes(self._read[begin:end])
        path = bytes(self._read[: self._read.find(b"\r\n")]).split(b" ")[1]
        self._read.clear()
        if is_question:
            self._answer(body)
        else:
            self._transport.write(_MODELS if path.endswith(b"/models") else _ABOUT)

    def _end_of_body(self, head_end: int) -> int | None:
        """None while it is not all here."""
        begin = head_end + len(_HEAD_END)
        if _CHUNKED.search(self._read, 0, head_end) is not None:
            at = self._read.find(_LAST_CHUNK, head_end)
            return None if at < 0 else at
        announced = _LENGTH.search(self._read, 0, head_end)
        end = begin + (0 if announced is None else int(announced[1]))
        return end if len(self._read) >= end else None

    def _answer(self, body: bytes) -> None:
        if _IS_STREAM.search(body) is None:
            self._transport.write(_WHOLE)
            return
        wanted = _MAX_TOKENS.search(body)
        self._transport.write(_STREAM_HEAD + _FIRST)
        self._tell(NUM_EVENTS if wanted is None else int(wanted[1]), PACE_S if PACED in body[:1024] else 0.0)

    def _tell(self, num_left: int, pace_s: float) -> None:
        """Each event by a write of its own, as an engine does it."""
        if not self._is_open:
            return
        if not num_left:
            self._transport.write(_END)
            return
        self._transport.write(_MIDDLE[num_left % len(_MIDDLE)])
        if pace_s:
            self._loop.call_later(pace_s, self._tell, num_left - 1, pace_s)
        else:
            self._loop.call_soon(self._tell, num_left - 1, pace_s)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
