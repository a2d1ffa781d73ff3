"""One answer on its way to one client: whole or streamed, kept alive, and cancelled when the client leaves.

Two tasks race: one delivers, one waits for the client to go. Whatever ends first ends the other, and the gateway's
stream is always closed, so that an abandoned answer frees its place at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Receive, Send

from deepserve.config import Settings
from deepserve.core.answer import Answer, collect
from deepserve.core.errors import Cancelled, DeepserveError, EngineFailure, Overloaded, RequestTimedOut
from deepserve.core.events import Event, PastReasoning, Started, worst_check
from deepserve.core.verdict import is_judged, judge, validated_label
from deepserve.dialects.exchange import AnswerHead, Exchange, StreamWriter
from deepserve.server.closing import Closing

_log = logging.getLogger(__name__)

_FAULT = "Answer %s met a fault of the server"
_FAULT_TOLD = "The server met an internal fault while answering. It has been logged."

Value = TypeVar("Value")

HeaderList = list[tuple[bytes, bytes]]


_MAX_TOLD_CHARACTERS = 1_000


def answer_headers(served_by: str, past: PastReasoning, relaxed: tuple[str, ...] = ()) -> HeaderList:
    """Who answered, what became of the traces of earlier turns, and what of the tools' schemas is not enforced."""
    reasoning = f"sent={past.sent} restored={past.restored} missing={past.missing}"
    headers = [
        (b"x-deepserve-served-by", served_by.encode("ascii", "replace")),
        (b"x-deepserve-reasoning", reasoning.encode()),
    ]
    if relaxed:
        headers.append((b"x-deepserve-relaxed", _printable("; ".join(relaxed))))
    return headers


def _printable(text: str) -> bytes:
    """Names in it are the client's or the model's: they may hold anything, and a header may not."""
    told = "".join(character if character.isprintable() else "?" for character in text[:_MAX_TOLD_CHARACTERS])
    return told.encode("ascii", "replace")


class Delivery:
    """Delivers one answer. `run` raises DeepserveError only while nothing has been sent.

    served_by  the label to announce when headers must leave before the back end has said a word
    clock      monotonic seconds
    opening    frames of a stream that leave before the first event
    """

    def __init__(
        self,
        exchange: Exchange,
        head: AnswerHead,
        events: AsyncGenerator[Event],
        *,
        served_by: str,
        headers: HeaderList,
        settings: Settings,
        closing: Closing,
        clock: Callable[[], float],
        opening: bytes = b"",
    ) -> None:
        self._exchange = exchange
        self._opening = opening
        self._head = head
        self._events = _Watched(events, clock, settings.request_timeout_s)
        self._served_by = served_by
        self._headers = headers
        self._settings = settings
        self._closing = closing
        self._clock = clock
        self._has_client = True
        self._has_begun = False
        self._sent_at = clock()
        self._writing = asyncio.Lock()
        self._fault: DeepserveError | TimeoutError | None = None

    async def run(self, receive: Receive, send: Send) -> None:
        deliver = self._stream(send) if self._exchange.is_stream else self._whole(send)
        work = asyncio.create_task(deliver)
        gone = asyncio.create_task(_until_gone(receive))
        self._closing.register(work)
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except TimeoutError:
            _log.info("Answer %s was given up: its client does not read", self._head.id)
            raise Cancelled("The client does not read.") from None
        finally:
            self._has_client = not gone.done()
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    # Streamed.

    async def _stream(self, send: Send) -> None:
        encoder = self._exchange.open_stream(self._head)
        error: DeepserveError | None = None
        try:
            await self._attended(send, self._pump(send, encoder), self._exchange.keep_alive)
        except DeepserveError as raised:
            error = raised
        except asyncio.CancelledError:
            error = self._ended_by_server()
        except TimeoutError:
            raise  # the client does not read: `run` knows what to do
        except Exception:  # noqa: BLE001 - logged: a fault of ours must not end a stream in silence
            _log.exception(_FAULT, self._head.id)
            error = EngineFailure(_FAULT_TOLD)
        if error is not None and not self._has_begun:
            raise error
        await self._write(send, encoder.finish(error), is_last=True)

    async def _pump(self, send: Send, encoder: StreamWriter) -> None:
        async with aclosing(self._events):
            if self._opening:
                await self._write(send, self._opening)
            async for event in self._events:
                frames = encoder.encode(event)
                if frames:
                    await self._write(send, frames)

    # Whole.

    async def _whole(self, send: Send) -> None:
        try:
            answer = await self._attended(send, self._collect(), b"\n")
            label = self._validated(answer)
            body = self._exchange.encode_answer(answer, self._head, validated=label if self._has_begun else None)
            if label is not None:
                self._headers.append((b"x-deepserve-validated", label.encode()))
        except DeepserveError as error:
            body = self._late(error)
        except asyncio.CancelledError:
            body = self._late(self._ended_by_server())
        except TimeoutError:
            raise  # the client does not read: `run` knows what to do
        except Exception:  # noqa: BLE001 - logged: a fault of ours must not end a begun body in silence
            _log.exception(_FAULT, self._head.id)
            body = self._late(EngineFailure(_FAULT_TOLD))
        await self._write(send, body, is_last=True)

    async def _collect(self) -> Answer:
        async with aclosing(self._events):
            return await collect(self._events)

    def _validated(self, answer: Answer) -> str | None:
        """What a whole answer is worth, and what the back end did for it."""
        labels: list[str] = []
        if is_judged(self._exchange.request):
            found = [
                judgement for result in answer.results for judgement in judge(self._exchange.request, result.parts)
            ]
            labels.append(validated_label(found))
        checked = worst_check(result.finished.checked for result in answer.results)
        labels.append(checked.label if checked is not None else "")
        return ", ".join(filter(None, labels)) or None

    def _late(self, error: DeepserveError) -> bytes:
        """The body of an error whose status can no longer be sent; before that moment the error itself is raised."""
        if not self._has_begun:
            raise error
        return self._exchange.encode_error(error)

    # Both.

    def _ended_by_server(self) -> DeepserveError:
        """What to tell the client when this task is cancelled; a client that left is told nothing."""
        task = asyncio.current_task()
        assert task is not None
        if not (self._closing.is_ending and self._has_client):
            raise asyncio.CancelledError
        task.uncancel()
        return Overloaded("The server is shutting down. Please retry.", retry_after_s=5.0)

    async def _attended(self, send: Send, work: Coroutine[None, None, Value], blank: bytes) -> Value:
        """Do the work in this very task, for a task more at each event is what a stream would cost most.

        Whenever nothing was written for long, `blank` is. Raises RequestTimedOut when the events stop coming, and
        TimeoutError when the client does not read.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        watching: list[asyncio.Task[None]] = []
        begun = loop.call_later(
            self._settings.keep_alive_s,
            lambda: watching.append(loop.create_task(self._watch(send, blank, task))),
        )
        try:
            return await work
        except asyncio.CancelledError:
            if self._fault is None:
                raise
            task.uncancel()
            raise self._fault from None
        finally:
            begun.cancel()
            for watch in watching:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, send: Send, blank: bytes, work: asyncio.Task[Any]) -> None:  # Any: whatever it returns
        keep_alive_s = self._settings.keep_alive_s
        try:
            while True:
                left_s = self._sent_at + keep_alive_s - self._clock()
                if left_s > 0:
                    await asyncio.sleep(left_s)
                elif self._writing.locked():  # the client does not read; there is a time limit on that already
                    await asyncio.sleep(keep_alive_s)
                else:
                    self._events.check_progress()
                    await self._write(send, blank)
        except (DeepserveError, TimeoutError) as fault:
            self._fault = fault
            work.cancel()

    async def _write(self, send: Send, data: bytes, *, is_last: bool = False) -> None:
        """Send the headers when they have not been sent, then data. A client that does not read loses the answer."""
        async with self._writing, asyncio.timeout(self._settings.limits.send_timeout_s):
            if not self._has_begun:
                self._has_begun = True
                headers = self._headers + self._kind_headers(len(data) if is_last else None)
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._sent_at = self._clock()

    def _kind_headers(self, num_bytes: int | None) -> HeaderList:
        started = self._events.started
        served_by = self._served_by if started is None else started.served_by.label
        past = (None if started is None else started.past_reasoning) or self._exchange.past_reasoning
        headers = answer_headers(served_by, past, () if started is None else started.relaxed)
        if started is not None and started.route is not None:
            headers.append((b"x-deepserve-route", _printable(started.route)))
        if self._exchange.is_stream:
            headers += [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
            ]
            if started is not None and started.checked is not None:
                headers.append((b"x-deepserve-validated", started.checked.label.encode()))
        else:
            headers.append((b"content-type", b"application/json"))
            if num_bytes is not None:
                headers.append((b"content-length", str(num_bytes).encode()))
        return headers


class _Watched:
    """The gateway's events, with the time since the last one. started: the first event, once it has come."""

    def __init__(self, events: AsyncGenerator[Event], clock: Callable[[], float], limit_s: float) -> None:
        self._events = events
        self._clock = clock
        self._limit_s = limit_s
        self._moved_at = clock()
        self.started: Started | None = None

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Event:
        event = await anext(self._events)
        self._moved_at = self._clock()
        if isinstance(event, Started):
            self.started = event
        return event

    def check_progress(self) -> None:
        """Raises RequestTimedOut."""
        if self._clock() - self._moved_at >= self._limit_s:
            raise RequestTimedOut(f"The answer made no progress for {self._limit_s:g} seconds and was given up.")

    async def aclose(self) -> None:
        await self._events.aclose()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
