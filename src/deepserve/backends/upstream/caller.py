"""One call to the upstream: a request out, and events or the reason why there are none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime

from deepserve.backends.upstream.account import Account
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.backends.upstream.links import links_of
from deepserve.backends.upstream.patience import Patience
from deepserve.backends.upstream.plain_request import plain_request
from deepserve.backends.upstream.retries import REPEATABLE_STATUSES, read_retry_after
from deepserve.backends.upstream.users import upstream_user
from deepserve.backends.upstream.wire import AnswerDecoder, UpstreamWire
from deepserve.catalog.providers import Provider
from deepserve.core.errors import BackendFailure, CapacityError, DeepserveError, RequestTimedOut, UnsupportedFeature
from deepserve.core.events import Event, Failed
from deepserve.core.request import Request
from deepserve.dialects.upstream_errors import decode_error
from deepserve.dialects.upstream_request import UpstreamRequest
from deepserve.outgoing.errors import AddressRefused, NotConnected, OutgoingError, OutgoingTimedOut
from deepserve.outgoing.event_stream import EventStreamReader
from deepserve.outgoing.origin_client import OriginAnswer, OriginClient

_log = logging.getLogger(__name__)

_STREAM_BEGINNINGS = (b":", b"data:", b"event:", b"id:", b"retry:")
_MAX_REFUSAL_BYTES = 64 * 1024
_NO_SUCH_ADDRESS = frozenset((404, 405, 501))


class UpstreamCaller:
    """Asks once. key: is sent to the client's address and nowhere else, and never told to anybody."""

    def __init__(
        self,
        provider: Provider,
        *,
        client: OriginClient,
        key: str | None,
        limits: UpstreamLimits,
        now: Callable[[], datetime],
        wire: UpstreamWire,
    ) -> None:
        self._provider = provider
        self._client = client
        self._key = key
        self._limits = limits
        self._now = now
        self._wire = wire
        self._lingering: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> AsyncGenerator[Event]:
        """As `Backend.answer`. What is raised says whether the same request may be made again here."""
        is_whole = self._is_asked_whole(request)
        asked = self._encoded(request, is_stream=not is_whole)
        patience = Patience(self._limits, is_whole=is_whole)
        answer: OriginAnswer | None = None
        is_complete = False
        try:
            answer = await self._opened(request, asked, patience)
            if answer.status != 200:
                raise await self._refusal(answer)
            decoder = self._wire.decoder(request, served_by=answer.headers.get("x-deepserve-served-by"))
            left_out = tuple(f"{name} (not taken by {self._provider.title})" for name in asked.left_out)
            account = Account(request, decoder, left_out)
            try:
                async with aclosing(self._events(answer, decoder, patience)) as pieces:
                    async for events in pieces:
                        for event in events:
                            yield account.note(event)
            except (DeepserveError, OutgoingError) as raised:
                error = self._explained(raised)
                if not decoder.has_begun:
                    error.may_repeat = isinstance(error, CapacityError)
                    raise error from raised
                # Where all ends were heard, only the usage can be missing.
                last = decoder.finish(None if decoder.has_all_ends else error)
            else:
                last = self._last(decoder)
                is_complete = True
            if decoder.doubt is not None:
                _log.warning("%s reports a usage that cannot be: %s", self._provider.id, decoder.doubt)
            for event in account.settle(last):
                if isinstance(event, Failed):
                    self._hide_key(event.error)
                yield event
        finally:
            patience.close()
            if answer is not None:
                (self._linger if is_complete else OriginAnswer.close)(answer)

    async def count(self, request: Request) -> int | None:
        """Prompt tokens as the service counts them; None: it has no such address. Raises DeepserveError."""
        asked = self._wire.encode_count(plain_request(request))
        patience = Patience(self._limits, is_whole=False)
        answer: OriginAnswer | None = None
        try:
            answer = await self._opened(request, asked, patience)
            if answer.status in _NO_SUCH_ADDRESS:
                return None
            if answer.status != 200:
                raise await self._refusal(answer)
            return self._wire.decode_count(await patience.wait(answer.read(), patience.first_event_at))
        except OutgoingError as error:
            raise self._explained(error) from error
        except TimeoutError as error:
            raise self._too_late(patience) from error
        finally:
            patience.close()
            if answer is not None:
                answer.close()

    def _is_asked_whole(self, request: Request) -> bool:
        most_tokens = request.max_output_tokens or request.default_output_tokens
        return request.is_whole and most_tokens is not None and most_tokens <= self._limits.whole_tokens

    def _encoded(self, request: Request, *, is_stream: bool) -> UpstreamRequest:
        asked = self._wire.encode(plain_request(request), user=upstream_user(request), is_stream=is_stream)
        if asked.left_out and request.provider.require_parameters:
            raise UnsupportedFeature(
                f"{self._provider.title} does not take {', '.join(asked.left_out)}.",
                field="provider.require_parameters",
            )
        return asked

    async def _opened(self, request: Request, asked: UpstreamRequest, patience: Patience) -> OriginAnswer:
        headers = {"Content-Type": "application/json", **self.headers("text/event-stream, application/json")}
        try:
            return await patience.wait(
                self._client.call(asked.path, body=asked.body, headers=headers, once=links_of(request)),
                patience.first_event_at,
            )
        except OutgoingError as error:
            _log.warning("%s: %s", self._provider.id, error.message)
            explained = self._explained(error)
            explained.may_repeat = isinstance(error, NotConnected)
            raise explained from error
        except TimeoutError as error:
            raise self._too_late(patience) from error

    def headers(self, accepted: str) -> dict[str, str]:
        return {"Accept": accepted, **self._wire.headers(self._key)}

    async def _refusal(self, answer: OriginAnswer) -> DeepserveError:
        """Why a status other than 200 came, in words."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.error_s):
                while len(body) < _MAX_REFUSAL_BYTES and (piece := await answer.piece()):
                    body += piece
        except (OutgoingError, TimeoutError):
            pass  # the status tells enough
        retry_after_s = read_retry_after(answer.headers, now=self._now())
        error = decode_error(answer.status, bytes(body), title=self._provider.title, retry_after_s=retry_after_s)
        self._hide_key(error)
        _log.warning("%s refused a request with status %d", self._provider.id, answer.status)
        error.may_repeat = answer.status in REPEATABLE_STATUSES
        error.repeat_after_s = retry_after_s
        return error

    async def _events(
        self, answer: OriginAnswer, decoder: AnswerDecoder, patience: Patience
    ) -> AsyncGenerator[Sequence[Event]]:
        """Everything before the terminal events, as it comes. Raises OutgoingError, DeepserveError."""
        if "html" in answer.headers.get("content-type", ""):
            raise BackendFailure(f"{self._provider.title} answered with a web page. Is its address right?")
        piece = await self._piece(answer, decoder, patience)
        is_stream = "event-stream" in answer.headers.get("content-type", "")
        if not is_stream and not piece.lstrip().startswith(_STREAM_BEGINNINGS):
            body = bytearray(piece)
            while piece:
                piece = await self._piece(answer, decoder, patience)
                body += piece
            yield decoder.whole(bytes(body))
            return
        reader = EventStreamReader(max_bytes=self._limits.event_bytes)
        while piece:
            for data in reader.feed(piece):
                events = decoder.chunk(data)
                if events:
                    patience.advance()
                    yield events
                if decoder.is_complete:
                    return
            piece = await self._piece(answer, decoder, patience)
        for data in reader.finish():
            yield decoder.chunk(data)

    async def _piece(self, answer: OriginAnswer, decoder: AnswerDecoder, patience: Patience) -> bytes:
        try:
            return await patience.wait(answer.piece(), patience.deadline(decoder))
        except TimeoutError as error:
            if decoder.has_begun:
                raise RequestTimedOut(
                    f"{self._provider.title} stopped in the middle of its answer. Please retry."
                ) from error
            raise self._too_late(patience) from error

    def _last(self, decoder: AnswerDecoder) -> list[Event]:
        try:
            return decoder.finish()
        except DeepserveError as error:
            self._hide_key(error)
            raise

    def _linger(self, answer: OriginAnswer) -> None:
        """Read what still comes after the end, so that the connection can be used again; nobody waits for it."""
        if answer.is_over:
            answer.close()
            return
        draining = asyncio.create_task(self._drain(answer))
        self._lingering.add(draining)
        draining.add_done_callback(self._lingering.discard)

    async def _drain(self, answer: OriginAnswer) -> None:
        try:
            async with asyncio.timeout(self._limits.linger_s):
                await answer.read()
        except (OutgoingError, TimeoutError):
            pass  # then it is closed
        finally:
            answer.close()

    async def close(self) -> None:
        for draining in self._lingering:
            draining.cancel()
        await asyncio.gather(*self._lingering, return_exceptions=True)

    # Words

    def _too_late(self, patience: Patience) -> RequestTimedOut:
        return RequestTimedOut(
            f"{self._provider.title} did not begin to answer within {patience.first_event_s:.0f} s. Please retry."
        )

    def _explained(self, error: DeepserveError | OutgoingError) -> DeepserveError:
        title = self._provider.title
        match error:
            case NotConnected():
                found: DeepserveError = BackendFailure(f"{title} cannot be reached. Please retry.")
            case AddressRefused():
                _log.error("%s: %s", self._provider.id, error.message)
                found = BackendFailure(f"{title} stands where this server must not call. Its operator knows more.")
            case OutgoingTimedOut():
                found = RequestTimedOut(f"{title} did not answer in time. Please retry.")
            case OutgoingError():
                _log.warning("%s: %s", self._provider.id, error.message)
                found = BackendFailure(f"The connection to {title} failed in the middle of its answer. Please retry.")
            case _:
                found = error
        self._hide_key(found)
        return found

    def _hide_key(self, error: DeepserveError) -> None:
        """Whatever an upstream quotes, its key stays here."""
        if self._key and self._key in error.message:
            error.message = error.message.replace(self._key, "[key]")
            error.args = (error.message,)
