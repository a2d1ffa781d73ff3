"""Requests sent again: the same `Idempotency-Key` gets the same answer, computed and billed once.

Complete answers are kept in memory, each tenant's for itself, within bounds that all share; where several servers share
a database, they are kept there as well, so that a repetition may come to any of them. What failed or was broken off is
not kept: a repetition computes it anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import chain

import msgspec
from starlette.datastructures import Headers

from deepserve.config import Settings
from deepserve.core.errors import DeepserveError, InvalidField, Overloaded
from deepserve.core.events import BlockClosed, BlockDelta, Event, Failed
from deepserve.core.recorded_events import decode_events, encode_events
from deepserve.core.tenant import TenantId
from deepserve.dialects.exchange import AnswerHead
from deepserve.server.shared_shelf import SharedShelf
from deepserve.store.database import FAULTS, tell_fault
from deepserve.store.replays import KeptReplay, ReplayStore

_log = logging.getLogger(__name__)

IDEMPOTENCY_KEY = "idempotency-key"
_MAX_KEY_CHARACTERS = 255
_LOGPROB_BYTES = 400
"""What one log-probability takes in memory, roughly."""

_RENEWALS_PER_LEASE = 3
_POLL_S = 0.25
"""How often it is looked whether another server has completed the answer."""

_BROKEN_OFF = "The first request with this Idempotency-Key was broken off. Please retry."


def idempotency_key(headers: Headers) -> str | None:
    """The client's name for this request. Raises InvalidField."""
    keys = headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= _MAX_KEY_CHARACTERS:
        raise InvalidField(
            f"Idempotency-Key stands once, with 1 to {_MAX_KEY_CHARACTERS} characters.", field="idempotency-key"
        )
    return keys[0]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is to be answered with. A replay has the head, and so the id, of the first answer."""

    head: AnswerHead
    events: AsyncGenerator[Event]
    is_replay: bool = False


class _Record:
    """One answer while it is given and after. The deltas of a block are kept as one."""

    def __init__(self, digest: bytes, head: AnswerHead) -> None:
        self.digest = digest
        self.head = head
        self.events: list[Event] = []
        self.size_bytes = 0
        self.error: DeepserveError | None = None
        self.has_ended = asyncio.Event()
        self._deltas: dict[int, list[BlockDelta]] = {}

    @property
    def is_complete(self) -> bool:
        return self.has_ended.is_set() and self.error is None

    def add(self, event: Event) -> None:
        match event:
            case BlockDelta():
                self._deltas.setdefault(event.result, []).append(event)
                num_logprobs = sum(1 + len(logprob.top) for logprob in event.logprobs)
                self.size_bytes += len(event.text) + num_logprobs * _LOGPROB_BYTES
                return
            case BlockClosed():
                deltas = self._deltas.pop(event.result, [])
                if deltas:
                    self.events.append(_merged(deltas))
            case Failed():
                self.error = event.error
        self.events.append(event)


def _merged(deltas: list[BlockDelta]) -> BlockDelta:
    return BlockDelta(
        index=deltas[0].index,
        text="".join(delta.text for delta in deltas),
        logprobs=tuple(chain.from_iterable(delta.logprobs for delta in deltas)),
        citations=tuple(chain.from_iterable(delta.citations for delta in deltas)),
        result=deltas[0].result,
    )


class ReplayMemory:
    """All answers that may be asked for again. clock: monotonic seconds. Belongs to one event loop.

    shared: where several servers keep them; None: there is no other.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float], shared: ReplayStore | None = None) -> None:
        self._shared = shared
        self._running: dict[tuple[TenantId, str], _Record] = {}
        self._complete: SharedShelf[_Record] = SharedShelf(
            max_entries=settings.replay_answers, max_bytes=settings.replay_bytes, keep_s=settings.replay_s, clock=clock
        )

    @asynccontextmanager
    async def claim(
        self,
        tenant: TenantId,
        key: str,
        *,
        digest: bytes,
        head: AnswerHead,
        start: Callable[[], AsyncGenerator[Event]],
    ) -> AsyncIterator[Claim]:
        """Answer inside this context: with start() the first time, with the same events again later.

        digest tells requests apart. A repetition of a request that is still being answered waits for its end.
        Raises InvalidField where the key belongs to another request.
        """
        name = (tenant, key)
        known = self._running.get(name) or self._complete.find(tenant, key)
        if known is not None:
            _check(known.digest, digest)
            yield Claim(head=known.head, events=_replayed(known), is_replay=True)
            return
        if self._shared is None:
            async with self._answered_here(name, digest, head, start) as claim:
                yield claim
            return
        kept = await asyncio.to_thread(self._shared.claim, tenant, key, digest=digest, head=msgspec.json.encode(head))
        if kept is not None:
            _check(kept.digest, digest)
            first = msgspec.json.decode(kept.head, type=AnswerHead)
            yield Claim(head=first, events=_told(self._shared, name, kept), is_replay=True)
            return
        renewing = asyncio.create_task(_keep_renewing(self._shared, name))
        try:
            async with self._answered_here(name, digest, head, start) as claim:
                yield claim
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            if self._complete.find(tenant, key) is None:
                await _try(self._shared.drop, tenant, key)

    @asynccontextmanager
    async def _answered_here(
        self, name: tuple[TenantId, str], digest: bytes, head: AnswerHead, start: Callable[[], AsyncGenerator[Event]]
    ) -> AsyncIterator[Claim]:
        record = self._running[name] = _Record(digest, head)
        try:
            yield Claim(head=head, events=self._recorded(name, record, start()))
        finally:
            if not record.is_complete:
                record.error = record.error or Overloaded(_BROKEN_OFF)
                record.has_ended.set()
                del self._running[name]

    async def _recorded(
        self, name: tuple[TenantId, str], record: _Record, events: AsyncGenerator[Event]
    ) -> AsyncGenerator[Event]:
        try:
            async with aclosing(events):
                async for event in events:
                    record.add(event)
                    yield event
        except DeepserveError as error:
            record.error = error
            raise
        record.has_ended.set()
        if record.is_complete:
            del self._running[name]
            self._complete.put(*name, record, size_bytes=record.size_bytes)
            if self._shared is not None:  # before the client hears the end, for it may ask another server then
                await _try(self._shared.finish, *name, encode_events(record.events))


def _check(first: bytes, digest: bytes) -> None:
    if first != digest:
        raise InvalidField(
            "This Idempotency-Key was used for another request. Use a new key for a new request.",
            field="idempotency-key",
        )


async def _try(change: Callable[..., None], *arguments: object) -> None:
    """Without it the answer is as good; only its repetition would be computed anew."""
    try:
        await asyncio.to_thread(change, *arguments)
    except FAULTS as error:
        tell_fault(_log, "An answer for repetitions could not be kept", error)


async def _keep_renewing(shared: ReplayStore, name: tuple[TenantId, str]) -> None:
    while True:
        await asyncio.sleep(shared.lease_s / _RENEWALS_PER_LEASE)
        await _try(shared.renew, *name)


async def _told(shared: ReplayStore, name: tuple[TenantId, str], kept: KeptReplay) -> AsyncGenerator[Event]:
    """What another server answers, or has answered."""
    first = kept
    while kept.answer is None:
        await asyncio.sleep(_POLL_S)
        found = await asyncio.to_thread(shared.find, *name)
        if found is None or found.digest != first.digest or found.head != first.head:
            raise Overloaded(_BROKEN_OFF)
        kept = found
    try:
        events = decode_events(kept.answer)
    except ValueError as error:
        raise InvalidField(
            "The answer to the first request with this Idempotency-Key cannot be read by this release of the server. "
            "Use a new key.",
            field="idempotency-key",
        ) from error
    for event in events:
        yield event


async def _replayed(record: _Record) -> AsyncGenerator[Event]:
    await record.has_ended.wait()
    if record.error is not None:
        raise record.error
    for event in record.events:
        yield event
