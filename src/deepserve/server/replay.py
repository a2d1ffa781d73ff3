"""Requests sent again: the same `Idempotency-Key` gets the same answer, computed and billed once.

Complete answers are kept in memory, each tenant's for itself, within bounds that all share. What failed or was broken
off is not kept: a repetition computes it anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from itertools import chain

import msgspec
from starlette.datastructures import Headers

from deepserve.config import Settings
from deepserve.core.errors import DeepserveError, InvalidField, Overloaded
from deepserve.core.events import BlockClosed, BlockDelta, Event, Failed
from deepserve.core.tenant import TenantId
from deepserve.dialects.exchange import AnswerHead
from deepserve.server.shared_shelf import SharedShelf

_HEADER = "idempotency-key"
_MAX_KEY_CHARACTERS = 255
_LOGPROB_BYTES = 400
"""What one log-probability takes in memory, roughly."""


def idempotency_key(headers: Headers) -> str | None:
    """The client's name for this request. Raises InvalidField."""
    keys = headers.getlist(_HEADER)
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
    """All answers that may be asked for again. clock: monotonic seconds. Belongs to one event loop."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._running: dict[tuple[TenantId, str], _Record] = {}
        self._complete: SharedShelf[_Record] = SharedShelf(
            max_entries=settings.replay_answers, max_bytes=settings.replay_bytes, keep_s=settings.replay_s, clock=clock
        )

    @contextmanager
    def claim(
        self,
        tenant: TenantId,
        key: str,
        *,
        digest: bytes,
        head: AnswerHead,
        start: Callable[[], AsyncGenerator[Event]],
    ) -> Iterator[Claim]:
        """Answer inside this context: with start() the first time, with the same events again later.

        digest tells requests apart. A repetition of a request that is still being answered waits for its end.
        Raises InvalidField where the key belongs to another request.
        """
        name = (tenant, key)
        known = self._running.get(name) or self._complete.find(tenant, key)
        if known is not None:
            if known.digest != digest:
                raise InvalidField(
                    "This Idempotency-Key was used for another request. Use a new key for a new request.",
                    field="idempotency-key",
                )
            yield Claim(head=known.head, events=_replayed(known), is_replay=True)
            return
        record = self._running[name] = _Record(digest, head)
        try:
            yield Claim(head=head, events=self._recorded(name, record, start()))
        finally:
            if not record.is_complete:
                record.error = record.error or Overloaded(
                    "The first request with this Idempotency-Key was broken off. Please retry."
                )
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


async def _replayed(record: _Record) -> AsyncGenerator[Event]:
    await record.has_ended.wait()
    if record.error is not None:
        raise record.error
    for event in record.events:
        yield event
