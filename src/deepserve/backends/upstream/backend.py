"""The back end that asks another service, and makes an answer of whatever it says."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec

from deepserve.backends.upstream.estimate import estimate_prompt_tokens, estimate_tokens
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.backends.upstream.plain_request import plain_request
from deepserve.backends.upstream.retries import REPEATABLE_STATUSES, pause_s, read_retry_after
from deepserve.catalog.providers import Provider
from deepserve.core.errors import (
    BackendFailure,
    CapacityError,
    DeepserveError,
    RequestTimedOut,
)
from deepserve.core.events import BlockDelta, BlockOpened, Event, ReasoningBlock, Started, UsageReported
from deepserve.core.provider import ServedBy, ServedModel
from deepserve.core.request import Request
from deepserve.core.tenant import LOCAL_TENANT
from deepserve.core.usage import Usage
from deepserve.dialects.chat.errors import decode_error
from deepserve.dialects.chat.upstream_answer import AnswerDecoder
from deepserve.dialects.chat.upstream_flavour import UPSTREAM_FLAVOURS
from deepserve.dialects.chat.upstream_models import ListedModel, decode_models
from deepserve.dialects.chat.upstream_request import UpstreamRequest, encode_upstream_request
from deepserve.outgoing.errors import AddressRefused, NotConnected, OutgoingError, OutgoingTimedOut
from deepserve.outgoing.event_stream import EventStreamReader
from deepserve.outgoing.origin_client import OriginAnswer, OriginClient
from deepserve.prompt.decoder import mint_call_id

_log = logging.getLogger(__name__)

UNPUBLISHED_TOKENS = 65_536
"""What is claimed of a context whose size the service does not publish."""

_STREAM_BEGINNINGS = (b":", b"data:", b"event:", b"id:", b"retry:")


class UpstreamBackend:
    """Implements `backends.backend.Backend`.

    client  calls the provider's address
    key     is sent there and nowhere else, and never told to anybody
    learns_models  ask it at start how large its models are, and who answers there
    sleep, jitter, now  where time and chance come from, so that tests can hold them
    """

    def __init__(
        self,
        provider: Provider,
        *,
        client: OriginClient,
        key: str | None,
        limits: UpstreamLimits | None = None,
        learns_models: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        call_id: Callable[[int], str] = mint_call_id,
    ) -> None:
        self._provider = provider
        self._flavour = UPSTREAM_FLAVOURS[provider.flavour]
        self._client = client
        self._key = key
        self._limits = limits or UpstreamLimits()
        self._learns_models = learns_models
        self._listed: Mapping[str, ListedModel] = {}
        self._sleep = sleep
        self._jitter = jitter
        self._now = now
        self._call_id = call_id
        self._is_ready = False
        self._counts = dict.fromkeys(("running", "requests", "retries", "failures"), 0)

    def models(self) -> tuple[ServedModel, ...]:
        return tuple(self._served(model_id, name) for model_id, name in self._provider.models.items())

    def _served(self, model_id: str, name: str) -> ServedModel:
        listed = self._listed.get(name, ListedModel())
        context_tokens = listed.context_tokens or self._provider.context_tokens or UNPUBLISHED_TOKENS
        return ServedModel(
            id=model_id,
            display_name=name,
            served_by=listed.served_by or ServedBy(provider=self._provider.id, model=name, fingerprint=""),
            context_tokens=context_tokens,
            max_output_tokens=listed.max_output_tokens or self._provider.max_output_tokens or context_tokens,
            note=f"Answers come from {self._provider.title}, at {self._client.host}.",
            counts_by_estimate=True,
        )

    async def start(self) -> None:
        """An upstream that is down now may be up when the first request comes: that is not a reason not to start."""
        if self._learns_models:
            try:
                async with asyncio.timeout(self._limits.learn_s):
                    await self._learn_models()
            except (OutgoingError, DeepserveError, TimeoutError) as error:
                _log.warning("%s did not say what its models are: %s", self._provider.id, error or "it took too long")
        self._is_ready = True

    async def _learn_models(self) -> None:
        answer = await self._client.call("/models", headers=self._headers("application/json"))
        try:
            if answer.status != 200:
                raise BackendFailure(f"the status is {answer.status}")
            self._listed = decode_models(await answer.read(), title=self._provider.title)
        finally:
            answer.close()
        for name in self._provider.models.values():
            if self._listed and name not in self._listed:
                _log.warning("%s lists no model %s; requests for it may fail there", self._provider.id, name)

    async def close(self) -> None:
        self._is_ready = False
        await self._client.close()

    def is_ready(self) -> bool:
        return self._is_ready

    def enforces(self) -> bool:
        """What others promise is checked."""
        return False

    def gauges(self) -> Mapping[str, float]:
        return {f"upstream_{name}": float(count) for name, count in self._counts.items()}

    async def count(self, request: Request) -> int:
        """An estimate, which `models` says."""
        return estimate_prompt_tokens(request)

    async def answer(self, request: Request) -> AsyncGenerator[Event]:
        asked = encode_upstream_request(
            plain_request(request),
            self._flavour,
            model=self._provider.models[request.model],
            user=upstream_user(request),
        )
        self._counts["running"] += 1
        try:
            attempt = 0
            while True:
                self._counts["requests"] += 1
                has_begun = False
                try:
                    async with aclosing(self._ask(request, asked)) as events:
                        async for event in events:
                            has_begun = True
                            yield event
                    return
                except _NotAnswered as failure:
                    wait_s = None
                    if failure.may_repeat and not has_begun:
                        wait_s = pause_s(attempt, failure.retry_after_s, self._limits, jitter=self._jitter)
                    if wait_s is None:
                        self._counts["failures"] += 1
                        raise failure.error from failure
                attempt += 1
                self._counts["retries"] += 1
                await self._sleep(wait_s)
        finally:
            self._counts["running"] -= 1

    # One attempt

    async def _ask(self, request: Request, asked: UpstreamRequest) -> AsyncGenerator[Event]:
        """Raises _NotAnswered before the first event; afterwards a failure is an event."""
        clock = _Clock(self._limits)
        answer = await self._opened(asked, clock)
        try:
            if answer.status != 200:
                raise await self._refusal(answer)
            decoder = AnswerDecoder(
                provider=self._provider.id,
                title=self._provider.title,
                call_id=self._call_id,
                num_results=request.num_results,
                stop=request.stop,
                served_by=self._named_server(answer),
            )
            told = _Told(request, decoder, asked, self._provider.title)
            try:
                async with aclosing(self._events(answer, decoder, clock)) as events:
                    async for event in events:
                        yield told.event(event)
            except (DeepserveError, OutgoingError) as raised:
                error = self._explained(raised)
                if not decoder.has_begun:
                    raise _NotAnswered(
                        error,
                        may_repeat=isinstance(error, CapacityError),
                        retry_after_s=None,
                    ) from raised
                # Where all ends were heard, only the usage can be missing.
                last = decoder.finish(None if decoder.has_all_ends else error)
            else:
                last = self._last(decoder)
            for event in told.last(last):
                yield event
            await self._drain(answer)
        finally:
            answer.close()

    async def _opened(self, asked: UpstreamRequest, clock: _Clock) -> OriginAnswer:
        headers = {"Content-Type": "application/json", **self._headers("text/event-stream, application/json")}
        try:
            async with asyncio.timeout_at(clock.first_event_at):
                return await self._client.call(asked.path, body=asked.body, headers=headers)
        except OutgoingError as error:
            _log.warning("%s: %s", self._provider.id, error.message)
            raise _NotAnswered(self._explained(error), may_repeat=isinstance(error, NotConnected)) from error
        except TimeoutError as error:
            raise _NotAnswered(self._too_late(), may_repeat=False) from error

    def _headers(self, accepted: str) -> dict[str, str]:
        key = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        return {"Accept": accepted, **key}

    async def _refusal(self, answer: OriginAnswer) -> _NotAnswered:
        """Why a status other than 200 came, in words."""
        body = b""
        try:
            async with asyncio.timeout(self._limits.error_s):
                body = await answer.read()
        except (OutgoingError, TimeoutError):
            pass  # the status tells enough
        retry_after_s = read_retry_after(answer.headers, now=self._now())
        error = decode_error(answer.status, body, title=self._provider.title, retry_after_s=retry_after_s)
        self._hide_key(error)
        _log.warning("%s refused a request with status %d", self._provider.id, answer.status)
        return _NotAnswered(error, may_repeat=answer.status in REPEATABLE_STATUSES, retry_after_s=retry_after_s)

    async def _events(self, answer: OriginAnswer, decoder: AnswerDecoder, clock: _Clock) -> AsyncGenerator[Event]:
        """Everything before the terminal events. Raises OutgoingError, DeepserveError."""
        if "html" in answer.headers.get("content-type", ""):
            raise BackendFailure(f"{self._provider.title} answered with a web page. Is its address right?")
        piece = await self._piece(answer, decoder, clock)
        is_stream = "event-stream" in answer.headers.get("content-type", "")
        if not is_stream and not piece.lstrip().startswith(_STREAM_BEGINNINGS):
            body = bytearray(piece)
            while piece:
                piece = await self._piece(answer, decoder, clock)
                body += piece
            for event in decoder.whole(bytes(body)):
                yield event
            return
        reader = EventStreamReader(max_bytes=self._limits.event_bytes)
        while piece:
            for data in reader.feed(piece):
                for event in decoder.chunk(data):
                    clock.advance()
                    yield event
                if decoder.is_complete:
                    return
            piece = await self._piece(answer, decoder, clock)
        for data in reader.finish():
            for event in decoder.chunk(data):
                yield event

    async def _piece(self, answer: OriginAnswer, decoder: AnswerDecoder, clock: _Clock) -> bytes:
        try:
            async with asyncio.timeout_at(clock.deadline(decoder)):
                return await answer.piece()
        except TimeoutError as error:
            if decoder.has_begun:
                raise RequestTimedOut(
                    f"{self._provider.title} stopped in the middle of its answer. Please retry."
                ) from error
            raise self._too_late() from error

    def _last(self, decoder: AnswerDecoder) -> list[Event]:
        try:
            return decoder.finish()
        except DeepserveError as error:
            raise _NotAnswered(error, may_repeat=False) from error

    async def _drain(self, answer: OriginAnswer) -> None:
        """Read what still comes, so that the connection can be used again; not for long."""
        try:
            async with asyncio.timeout(self._limits.linger_s):
                await answer.read()
        except (OutgoingError, TimeoutError):
            pass  # then it is closed

    # Words

    def _named_server(self, answer: OriginAnswer) -> ServedBy | None:
        named = answer.headers.get("x-deepserve-served-by") if self._flavour.names_server else None
        if not named:
            return None
        provider, _, model = named.partition("/")
        return ServedBy(provider=provider, model=model, fingerprint="")

    def _too_late(self) -> RequestTimedOut:
        return RequestTimedOut(
            f"{self._provider.title} did not begin to answer within {self._limits.first_event_s:.0f} s. Please retry."
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


class _NotAnswered(Exception):
    """An attempt that told nothing. may_repeat: the same request can be made again without harm."""

    def __init__(self, error: DeepserveError, *, may_repeat: bool, retry_after_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.may_repeat = may_repeat
        self.retry_after_s = retry_after_s


class _Clock:
    """When the patience with one attempt ends, in the loop's time."""

    def __init__(self, limits: UpstreamLimits) -> None:
        self._limits = limits
        self._time = asyncio.get_running_loop().time
        self._moved_at = self._time()
        self._ends_at = self._moved_at + limits.total_s
        self.first_event_at = self._moved_at + limits.first_event_s

    def advance(self) -> None:
        self._moved_at = self._time()

    def deadline(self, decoder: AnswerDecoder) -> float:
        if not decoder.has_begun:
            return min(self.first_event_at, self._ends_at)
        patience_s = self._limits.linger_s if decoder.has_all_ends else self._limits.idle_s
        return min(self._moved_at + patience_s, self._ends_at)


class _Told:
    """What was told of one answer, for what the upstream leaves out."""

    def __init__(self, request: Request, decoder: AnswerDecoder, asked: UpstreamRequest, title: str) -> None:
        self._request = request
        self._decoder = decoder
        self._left_out = tuple(f"{name} (not known to {title})" for name in asked.left_out)
        self._thinking: set[int] = set()
        self._reasoning_tokens = self._answer_tokens = 0.0

    def event(self, event: Event) -> Event:
        match event:
            case Started() if self._left_out:
                return msgspec.structs.replace(event, relaxed=(*event.relaxed, *self._left_out))
            case BlockOpened():
                is_trace = isinstance(event.block, ReasoningBlock)
                (self._thinking.add if is_trace else self._thinking.discard)(event.result)
            case BlockDelta() if event.result in self._thinking:
                self._reasoning_tokens += estimate_tokens(event.text)
            case BlockDelta():
                self._answer_tokens += estimate_tokens(event.text)
            case _:
                pass
        return event

    def last(self, events: list[Event]) -> list[Event]:
        """The terminal events, with an estimate of the usage where the upstream told none."""
        if self._decoder.usage is not None:
            return events
        usage = Usage(
            miss_tokens=estimate_prompt_tokens(self._request),
            reasoning_tokens=math.ceil(self._reasoning_tokens),
            answer_tokens=math.ceil(self._answer_tokens),
            is_estimated=True,
        )
        return [UsageReported(usage=usage), *events]


def upstream_user(request: Request) -> str | None:
    """Whose request it is, for the upstream's own isolation: different for each of our tenants, and naming nobody."""
    if request.tenant == LOCAL_TENANT:
        return request.user_id
    return hashlib.sha256(f"{request.tenant.id}\0{request.user_id or ''}".encode()).hexdigest()[:32]
