"""One server of a cluster: calls to it, and what is known of its state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Literal

import msgspec

from deepserve.backends.cluster.asking import AnswerReader, Ask, Part, Refused, ServedName, Wire
from deepserve.backends.cluster.course import Lost
from deepserve.backends.upstream.limits import UpstreamLimits
from deepserve.core.errors import BackendFailure, DeepserveError, Overloaded, RequestTimedOut
from deepserve.outgoing.errors import AddressRefused, NotConnected, OutgoingError, OutgoingTimedOut
from deepserve.outgoing.event_stream import EventStreamReader
from deepserve.outgoing.origin_client import OriginAnswer, OriginClient

_log = logging.getLogger(__name__)

_MAX_REFUSAL_BYTES = 64 * 1024
_LONG_PROMPT_TOKENS = 100_000
"""Writing so many numbers takes more than a millisecond, in which nobody else would be served."""
_DRAIN_S = 0.2
_MOST_MISSES = 3
"""So often in a row it may fail to say how it is before answers that have fallen silent meanwhile are given up: a
machine that vanishes closes no connection."""
_BUSY = (429, 503)
_GONE = (500, 502, 504)


class _Said(msgspec.Struct):
    """A refusal as the servers write it: OpenAI's shape, vLLM's older one, FastAPI's."""

    error: object = None
    message: str = ""
    detail: object = None


class _Reading(msgspec.Struct, eq=False):
    """An answer that is being read. moved_at: when it last had news. patience: while its next piece is waited for."""

    moved_at: float
    patience: asyncio.Timeout | None = None
    is_given_up: bool = False


class Replica:
    """address: for people and metrics. key: sent there and nowhere else. names: of the models it will be asked for.

    context_tokens  of its models, the smallest; None while it has not said
    served          the names of its models; None while it has not said
    num_running   continuations that it is computing for us
    is_healthy    it answers; one that was never asked counts as healthy
    is_draining   it answers that it is not well, as servers do that finish what they have: it is given nothing new
    """

    def __init__(
        self,
        address: str,
        *,
        wire: Wire,
        client: OriginClient,
        key: str | None,
        limits: UpstreamLimits,
        names: Collection[str] = (),
    ) -> None:
        self.address = address
        self._names = names
        self.context_tokens: int | None = None
        self.served: frozenset[str] | None = None
        self._wire = wire
        self._client = client
        self._key = key
        self._limits = limits
        self.num_running = 0
        self._readings: set[_Reading] = set()
        self._num_misses = 0
        self._missed_since = 0.0
        self.is_healthy = True
        self.is_draining = False

    @property
    def state(self) -> Literal["up", "draining", "down"]:
        return "draining" if self.is_draining else "up" if self.is_healthy else "down"

    async def ask(self, ask: Ask) -> AsyncGenerator[Part]:
        """Raises Refused and Lost. Closing it ends the work there: the connection breaks."""
        self.num_running += 1
        try:
            async with aclosing(self._parts(ask)) as parts:
                async for part in parts:
                    yield part
            self.is_healthy = True
        except Lost as loss:
            if not isinstance(loss.error, Overloaded):
                self.is_healthy = False
            self._hide_key(loss.error)
            raise
        except Refused as refusal:
            refusal.message = self._without_key(refusal.message)
            raise
        finally:
            self.num_running -= 1

    async def _parts(self, ask: Ask) -> AsyncGenerator[Part]:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        first_until, last_until = began_at + self._limits.first_event_s, began_at + self._limits.total_s
        is_long = len(ask.prompt) > _LONG_PROMPT_TOKENS
        body = await asyncio.to_thread(self._wire.encode, ask) if is_long else self._wire.encode(ask)
        try:
            async with asyncio.timeout_at(first_until):
                answer = await self._client.call(
                    self._wire.ask_path, body=body, headers=self._headers("text/event-stream"), once=ask.links
                )
        except TimeoutError as error:
            raise Lost(self._too_late()) from error
        except OutgoingError as error:
            raise Lost(self._explained(error)) from error
        reading = _Reading(moved_at=loop.time())
        self._readings.add(reading)
        try:
            if answer.status != 200:
                raise await self._refusal(answer)
            reader = EventStreamReader(max_bytes=self._limits.event_bytes)
            events = self._wire.reader(ask)
            until, has_begun, has_ended = first_until, False, False
            while piece := await self._piece(answer, reading, min(until, last_until), has_begun, has_ended):
                reading.moved_at = loop.time()
                for data in reader.feed(piece):
                    part = self._read(events, data)
                    if part is None:
                        await _drain(answer)
                        return
                    has_begun = has_begun or bool(part.drawn)
                    has_ended = has_ended or part.end is not None
                    patience_s = self._limits.linger_s if has_ended else self._limits.idle_s
                    if has_begun or has_ended:
                        until = loop.time() + patience_s
                    yield part
            for data in reader.finish():
                part = self._read(events, data)
                if part is not None:
                    has_ended = has_ended or part.end is not None
                    yield part
            if not has_ended:
                raise Lost(BackendFailure(f"{self._wire.name} broke off in the middle of its answer. Please retry."))
        finally:
            self._readings.discard(reading)
            answer.close()

    def _read(self, events: AnswerReader, data: bytes) -> Part | None:
        try:
            return events.read(data)
        except Refused as refusal:
            if refusal.status in (*_BUSY, *_GONE):
                raise Lost(self._gone(refusal.status, refusal.message)) from refusal
            raise
        except BackendFailure as failure:
            raise Lost(failure) from failure

    async def _piece(
        self, answer: OriginAnswer, reading: _Reading, until: float, has_begun: bool, has_ended: bool
    ) -> bytes:
        try:
            if reading.is_given_up:
                raise TimeoutError
            async with asyncio.timeout_at(until) as reading.patience:
                return await answer.piece()
        except TimeoutError as error:
            if reading.is_given_up:
                raise Lost(BackendFailure(f"{self._wire.name} went away. Please retry.")) from error
            if has_ended:
                return b""  # the usage that some send last does not come
            raise Lost(self._stopped() if has_begun else self._too_late()) from error
        except OutgoingError as error:
            if has_ended:
                return b""
            raise Lost(self._explained(error)) from error
        finally:
            reading.patience = None

    async def look(self) -> None:
        """Ask how it is, and what it serves if it never said so."""
        before = self.state
        try:
            async with asyncio.timeout(self._limits.learn_s):
                answer = await self._client.call(self._wire.health_path, headers=self._headers("*/*"))
                try:
                    self.is_healthy, self.is_draining = True, answer.status != 200
                    await answer.read()
                finally:
                    answer.close()
                self._num_misses = 0
                if self.state == "up" and self.served is None:
                    self._learn(await self._models())
        except (OutgoingError, TimeoutError):
            self.is_healthy = self.is_draining = False
            self._miss()
        except BackendFailure as failure:
            _log.warning("%s at %s did not say what it serves: %s", self._wire.name, self.address, failure.message)
        if self.state != before:
            _log.warning("%s at %s is %s", self._wire.name, self.address, self.state)

    def _miss(self) -> None:
        """Break off what has been silent since the first of several misses; whoever reads it goes on elsewhere."""
        if self._num_misses == 0:
            self._missed_since = asyncio.get_running_loop().time()
        self._num_misses += 1
        if self._num_misses >= _MOST_MISSES:
            for reading in self._readings:
                if reading.moved_at < self._missed_since:
                    reading.is_given_up = True
                    if reading.patience is not None:
                        reading.patience.reschedule(self._missed_since)

    async def _models(self) -> tuple[ServedName, ...]:
        answer = await self._client.call(self._wire.models_path, headers=self._headers("application/json"))
        try:
            if answer.status != 200:
                raise BackendFailure(f"the status is {answer.status}")
            return self._wire.decode_models(await answer.read())
        finally:
            answer.close()

    def _learn(self, served: tuple[ServedName, ...]) -> None:
        self.served = frozenset(listed.name for listed in served)
        if self._wire.names_models and not self.served & set(self._names):
            _log.warning(
                "%s serves %s and not %s; requests will fail there",
                self.address,
                ", ".join(sorted(self.served)) or "nothing",
                ", ".join(self._names),
            )
        sizes = [listed.context_tokens for listed in served if listed.context_tokens]
        self.context_tokens = min(sizes) if sizes else None

    async def close(self) -> None:
        await self._client.close()

    def _headers(self, accepted: str) -> dict[str, str]:
        key = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        return {"Accept": accepted, "Content-Type": "application/json", **key}

    # Words

    async def _refusal(self, answer: OriginAnswer) -> Lost | Refused:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.error_s):
                while len(body) < _MAX_REFUSAL_BYTES and (piece := await answer.piece()):
                    body += piece
        except (OutgoingError, TimeoutError):
            pass  # the status tells enough
        message = _message(bytes(body))
        _log.warning("%s at %s refused a request with status %d", self._wire.name, self.address, answer.status)
        if answer.status in (*_BUSY, *_GONE):
            return Lost(self._gone(answer.status, message))
        return Refused(answer.status, message)

    def _gone(self, status: int, message: str) -> DeepserveError:
        if status in _BUSY:
            return Overloaded(f"{self._wire.name} has no room for more requests now. Please retry.")
        return BackendFailure(f"{self._wire.name} failed ({status}): {message[:300]}. Please retry.")

    def _too_late(self) -> RequestTimedOut:
        return RequestTimedOut(
            f"{self._wire.name} did not begin to answer within {self._limits.first_event_s:.0f} s. Please retry."
        )

    def _stopped(self) -> RequestTimedOut:
        return RequestTimedOut(f"{self._wire.name} stopped in the middle of its answer. Please retry.")

    def _explained(self, error: OutgoingError) -> DeepserveError:
        name = self._wire.name
        match error:
            case NotConnected():
                return BackendFailure(f"{name} cannot be reached. Please retry.")
            case AddressRefused():
                _log.error("%s: %s", self.address, error.message)
                return BackendFailure(f"{name} stands where this server must not call. Its operator knows more.")
            case OutgoingTimedOut():
                return RequestTimedOut(f"{name} did not answer in time. Please retry.")
            case _:
                _log.warning("%s: %s", self.address, error.message)
                return BackendFailure(f"The connection to {name} failed in the middle of its answer. Please retry.")

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _hide_key(self, error: DeepserveError) -> None:
        """Whatever a server quotes, its key stays here."""
        error.message = self._without_key(error.message)
        error.args = (error.message,)


async def _drain(answer: OriginAnswer) -> None:
    """Read the end of the body, so that the connection can be used again."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            while await answer.piece():
                pass
    except (OutgoingError, TimeoutError):
        pass  # then it is closed


def _message(body: bytes) -> str:
    """What a refusal says, in whichever shape."""
    try:
        said = msgspec.json.decode(body, type=_Said)
    except msgspec.MsgspecError:
        return body.decode("utf-8", "replace").strip()
    if isinstance(said.error, dict):
        return str(said.error.get("message", ""))
    return str(said.error or said.message or said.detail or "")
