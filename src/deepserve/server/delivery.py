"""One answer on its way to one client: whole or streamed, kept alive, and cancelled when the client leaves.

Two tasks race: one delivers, one waits for the client to go. Whatever ends first ends the other, and the gateway's
stream is always closed, so that an abandoned answer frees its place at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from enum import Enum

from starlette.types import Receive, Send

from deepserve.config import Settings
from deepserve.core.answer import Answer, collect
from deepserve.core.errors import Cancelled, DeepserveError, EngineFailure, Overloaded, RequestTimedOut
from deepserve.core.events import Event, PastReasoning, Started, worst_check
from deepserve.core.verdict import is_judged, judge, validated_label
from deepserve.dialects.exchange import AnswerHead, Exchange
from deepserve.server.closing import Closing

_log = logging.getLogger(__name__)

_FAULT = "Answer %s met a fault of the server"
_FAULT_TOLD = "The server met an internal fault while answering. It has been logged."

HeaderList = list[tuple[bytes, bytes]]


_MAX_RELAXED_CHARACTERS = 1_000


def answer_headers(served_by: str, past: PastReasoning, relaxed: tuple[str, ...] = ()) -> HeaderList:
    """Who answered, what became of the traces of earlier turns, and what of the tools' schemas is not enforced."""
    reasoning = f"sent={past.sent} restored={past.restored} missing={past.missing}"
    headers = [
        (b"x-deepserve-served-by", served_by.encode("ascii", "replace")),
        (b"x-deepserve-reasoning", reasoning.encode()),
    ]
    if relaxed:
        # Names in it are the client's: they may hold anything, and a header may not.
        told = "".join(character if character.isprintable() else "?" for character in "; ".join(relaxed))
        headers.append((b"x-deepserve-relaxed", told[:_MAX_RELAXED_CHARACTERS].encode("ascii", "replace")))
    return headers


class Delivery:
    """Delivers one answer. `run` raises DeepserveError only while nothing has been sent.

    served_by  the label to announce when headers must leave before the back end has said a word
    clock      monotonic seconds
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
    ) -> None:
        self._exchange = exchange
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
            async with aclosing(_Paced(self._events)) as paced:
                while True:
                    event = await paced.next(self._settings.keep_alive_s - (self._clock() - self._sent_at))
                    if event is Mark.END:
                        break
                    if event is Mark.TICK:
                        await self._write(send, self._exchange.keep_alive)
                        continue
                    frames = encoder.encode(event)
                    if frames:
                        await self._write(send, frames)
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

    # Whole.

    async def _whole(self, send: Send) -> None:
        collecting = asyncio.create_task(self._collect())
        try:
            while not (await asyncio.wait({collecting}, timeout=self._settings.keep_alive_s))[0]:
                self._events.check_progress()
                await self._write(send, b"\n")
            answer = collecting.result()
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
        finally:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
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

    async def _write(self, send: Send, data: bytes, *, is_last: bool = False) -> None:
        """Send the headers when they have not been sent, then data. A client that does not read loses the answer."""
        async with asyncio.timeout(self._settings.limits.send_timeout_s):
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


class Mark(Enum):
    """What is no event."""

    TICK = "nothing yet"
    END = "nothing more"


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


class _Paced:
    """Waits for the next event, but not longer than told; the event is not lost when the wait is over."""

    def __init__(self, events: _Watched) -> None:
        self._events = events
        self._pending: asyncio.Task[Event | Mark] | None = None

    async def next(self, timeout_s: float) -> Event | Mark:
        if self._pending is None:
            self._pending = asyncio.create_task(self._advance())
        done, _ = await asyncio.wait({self._pending}, timeout=max(timeout_s, 0.0))
        if not done:
            self._events.check_progress()
            return Mark.TICK
        pending, self._pending = self._pending, None
        return pending.result()

    async def _advance(self) -> Event | Mark:
        try:
            return await anext(self._events)
        except StopAsyncIteration:
            return Mark.END

    async def aclose(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
        await self._events.aclose()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
