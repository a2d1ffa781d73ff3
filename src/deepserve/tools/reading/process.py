"""Has documents read by another process, which may be slow, greedy or die without harm."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from types import TracebackType
from typing import Self

import msgspec

from deepserve.tools.reading.reading import Reading, Unreadable
from deepserve.tools.reading.worker import Order

_MAX_REPLY_BYTES = 64 * 1024 * 1024


class _Reply(msgspec.Struct, frozen=True):
    reading: Reading | None = None
    fault: Unreadable | None = None


class ReaderProcess:
    """One process, started when it is first needed and again when it had to be ended. Takes one document at a time.

    A page that takes over the parser has the process, so what belongs to different people gets different ones.
    """

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def read(self, order: Order) -> Reading | Unreadable:
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._ask(msgspec.msgpack.encode(order))
        except TimeoutError:
            await self.close()
            return Unreadable(reason=f"Reading the document took longer than {self._timeout_s:g} s.")
        except (OSError, EOFError, msgspec.DecodeError):
            await self.close()
            return Unreadable(reason="The document cannot be read: the program that reads it broke down.")
        except BaseException:
            # Whoever asked has gone; an answer in the pipe would be taken for the next document's.
            await self.close()
            raise
        answer = reply.reading or reply.fault
        assert answer is not None
        return answer

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        await process.wait()
        # Its transport closes once everything has been read, and warns where it does not.
        while await process.stdout.read(65_536):
            pass

    async def _ask(self, message: bytes) -> _Reply:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "deepserve.tools.reading.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ},
                close_fds=True,
            )
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None
        assert sink is not None
        sink.write(len(message).to_bytes(4, "big") + message)
        await sink.drain()
        length = int.from_bytes(await source.readexactly(4), "big")
        if length > _MAX_REPLY_BYTES:
            raise OSError("the reply is too long")
        return msgspec.msgpack.decode(await source.readexactly(length), type=_Reply)
