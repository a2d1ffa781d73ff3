"""One answer on its way to one client: whole or streamed, kept alive, and cancelled when the client leaves.

It is delivered in the very task that the request came in. Beside it the connection tells of a client that goes, and a
timer looks now and then whether the client reads, whether it has to hear something, and whether the answer still moves.
Whatever ends it early cancels that task, and the gateway's stream is always closed, so that an abandoned answer frees
its place at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.types import Receive, Send

from deepserve.config import Settings
from deepserve.core.answer import Answer, Collector
from deepserve.core.errors import Cancelled, DeepserveError, EngineFailure, Overloaded, RequestTimedOut
from deepserve.core.events import Event, PastReasoning, Started, worst_check
from deepserve.core.verdict import is_judged, judge, validated_label
from deepserve.dialects.exchange import AnswerHead, Exchange, StreamWriter
from deepserve.server.closing import Closing
from deepserve.server.connection import Connection
from deepserve.server.limit_headers import limit_headers, style_of_dialect

_log = logging.getLogger(__name__)

_FAULT = "Answer %s met a fault of the server"
_FAULT_TOLD = "The server met an internal fault while answering. It has been logged."

HeaderList = list[tuple[bytes, bytes]]


_MAX_TOLD_CHARACTERS = 1_000

_LEAST_WAIT_S = 0.001
"""Clocks differ a little: the timer does not run ahead of what it waits for."""


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
    """Delivers one answer. `run` raises DeepserveError only while nothing has been sent, and Cancelled for a client
    that has left or does not read.

    served_by  gives the label to announce when headers must leave before the back end has said a word
    clock      monotonic seconds
    opening    frames of a stream that leave before the first event
    """

    _send: Send
    _task: asyncio.Task[object]
    _timer: asyncio.TimerHandle

    def __init__(
        self,
        exchange: Exchange,
        head: AnswerHead,
        events: AsyncGenerator[Event],
        *,
        served_by: Callable[[], str],
        headers: HeaderList,
        settings: Settings,
        closing: Closing,
        clock: Callable[[], float],
        opening: bytes = b"",
    ) -> None:
        self._exchange = exchange
        self._opening = opening
        self._head = head
        self._events = events
        self._served_by = served_by
        self._headers = headers
        self._settings = settings
        self._closing = closing
        self._clock = clock
        self._started: Started | None = None
        self._has_begun = self._is_over = self._is_sending = False
        self._sent_at = self._moved_at = clock()
        self._blank: asyncio.Task[None] | None = None
        self._broken_off_by: DeepserveError | None = None

    async def run(self, receive: Receive, send: Send, connection: Connection | None = None) -> None:
        """connection: tells of a client that leaves; without it somebody listens beside the answer."""
        task = asyncio.current_task()
        assert task is not None
        self._send, self._task = send, task
        gone: asyncio.Task[None] | None = None
        if connection is not None:
            connection.when_lost(self._client_left)
        else:
            gone = asyncio.create_task(_until_gone(receive))
            gone.add_done_callback(lambda gone: None if gone.cancelled() else self._client_left())
        self._attend()
        self._closing.register(task)
        try:
            await (self._stream() if self._exchange.is_stream else self._whole())
        except asyncio.CancelledError:
            if not isinstance(self._broken_off_by, Cancelled):
                raise
            task.uncancel()
            _log.info("Answer %s was given up: %s", self._head.id, self._broken_off_by)
            raise self._broken_off_by from None
        finally:
            self._is_over = True
            self._closing.forget(task)
            self._timer.cancel()
            if connection is not None:
                connection.forget(self._client_left)
            if gone is not None:
                gone.cancel()
            if self._blank is not None:
                self._blank.cancel()

    # Streamed.

    async def _stream(self) -> None:
        encoder = self._exchange.open_stream(self._head)
        error: DeepserveError | None = None
        try:
            await self._pump(encoder)
        except DeepserveError as raised:
            error = raised
        except asyncio.CancelledError:
            error = self._last_words()
        except Exception:  # noqa: BLE001 - logged: a fault of ours must not end a stream in silence
            _log.exception(_FAULT, self._head.id)
            error = EngineFailure(_FAULT_TOLD)
        if error is not None and not self._has_begun:
            raise error
        await self._write(encoder.finish(error), is_last=True)

    async def _pump(self, encoder: StreamWriter) -> None:
        async with aclosing(self._events) as events:
            if self._opening:
                await self._write(self._opening)
            async for event in events:
                self._note(event)
                frames = encoder.encode(event)
                if frames:
                    await self._write(frames)

    # Whole.

    async def _whole(self) -> None:
        try:
            answer = await self._collect()
            label = self._validated(answer)
            body = self._exchange.encode_answer(answer, self._head, validated=label if self._has_begun else None)
            if label is not None:
                self._headers.append((b"x-deepserve-validated", label.encode()))
        except DeepserveError as error:
            body = self._late(error)
        except asyncio.CancelledError:
            body = self._late(self._last_words())
        except Exception:  # noqa: BLE001 - logged: a fault of ours must not end a begun body in silence
            _log.exception(_FAULT, self._head.id)
            body = self._late(EngineFailure(_FAULT_TOLD))
        await self._write(body, is_last=True)

    async def _collect(self) -> Answer:
        collector = Collector()
        async with aclosing(self._events) as events:
            async for event in events:
                self._note(event)
                collector.add(event)
        return collector.answer()

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

    # Ended early.

    def _client_left(self) -> None:
        self._break_off(Cancelled("The client left."))

    def _attend(self) -> None:
        """Called by the loop again and again, whenever something may be due."""
        settings, now = self._settings, self._clock()
        allowed_s = settings.limits.send_timeout_s if self._is_sending else settings.keep_alive_s
        if now - self._sent_at >= allowed_s:
            if self._is_sending:
                self._break_off(Cancelled("The client does not read."))
            elif now - self._moved_at >= settings.request_timeout_s:
                self._break_off(
                    RequestTimedOut(
                        f"The answer made no progress for {settings.request_timeout_s:g} seconds and was given up."
                    )
                )
            else:
                self._blank = asyncio.create_task(self._put(self._keep_alive))
            self._sent_at = now
        wait_s = min(self._sent_at + allowed_s - now, settings.limits.send_timeout_s)
        self._timer = asyncio.get_running_loop().call_later(max(wait_s, _LEAST_WAIT_S), self._attend)

    def _break_off(self, error: DeepserveError) -> None:
        if not self._is_over and not isinstance(self._broken_off_by, Cancelled):
            self._broken_off_by = error
            self._task.cancel()

    def _last_words(self) -> DeepserveError:
        """What to tell the client when this task is cancelled. Raises CancelledError where there is nobody to tell."""
        error = self._broken_off_by
        if error is None and self._closing.is_ending:
            error = Overloaded("The server is shutting down. Please retry.", retry_after_s=5.0)
        if error is None or isinstance(error, Cancelled):
            raise asyncio.CancelledError
        self._task.uncancel()
        return error

    # Both.

    def _note(self, event: Event) -> None:
        self._moved_at = self._clock()
        if isinstance(event, Started):
            self._started = event

    @property
    def _keep_alive(self) -> bytes:
        return self._exchange.keep_alive if self._exchange.is_stream else b"\n"

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        if self._blank is not None:
            await asyncio.wait({self._blank})  # what is sent to keep the client does not get in between
            self._blank = None
        await self._put(data, is_last=is_last)

    async def _put(self, data: bytes, *, is_last: bool = False) -> None:
        """Send the headers when they have not been sent, then data."""
        self._is_sending, self._sent_at = True, self._clock()
        if not self._has_begun:
            self._has_begun = True
            headers = self._headers + self._kind_headers(len(data) if is_last else None)
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._is_sending, self._sent_at = False, self._clock()

    def _kind_headers(self, num_bytes: int | None) -> HeaderList:
        started = self._started
        served_by = self._served_by() if started is None else started.served_by.label
        past = (None if started is None else started.past_reasoning) or self._exchange.past_reasoning
        headers = answer_headers(served_by, past, () if started is None else started.relaxed)
        if started is not None and started.route is not None:
            headers.append((b"x-deepserve-route", _printable(started.route)))
        if started is not None and started.allowance is not None:
            headers += limit_headers(style_of_dialect(self._exchange.request.dialect), started.allowance)
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


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
