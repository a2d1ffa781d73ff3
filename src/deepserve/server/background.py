"""Responses that are worked on in the background: handed to the task runner, looked up and cancelled there.

Until the work has ended the task is the truth about it, afterwards what is kept; so what was deleted stays deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from uuid import UUID, uuid4

import msgspec
from starlette.types import Receive, Send
from typing_extensions import override

from deepserve.core.answer import collect
from deepserve.core.errors import DeepserveError, InvalidField, RequestTimedOut
from deepserve.core.events import Event
from deepserve.core.request import RequestId
from deepserve.core.task import NewTask, TaskState
from deepserve.core.tenant import TenantId
from deepserve.dialects.exchange import AnswerHead, Arrival
from deepserve.dialects.responses.background import Order, order_of
from deepserve.dialects.responses.exchange import Decoders, ResponsesExchange
from deepserve.dialects.responses.memory import Remembered, response_id
from deepserve.server.delivery import Delivery, HeaderList
from deepserve.server.endpoint import headers_of
from deepserve.server.following import Lines
from deepserve.server.site import Site
from deepserve.tasks.performer import Announce, Performer

KIND = "response"

_TASK_KEEP_S = 60.0
"""The task's own copy of the content; the response itself is kept elsewhere."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """Work that was read and not yet handed in. raw: the body; headers: what its reading has to tell the client."""

    exchange: ResponsesExchange
    arrival: Arrival
    raw: bytes
    has_key: bool
    headers: HeaderList

    @property
    def name(self) -> str:
        return response_id(self.arrival.id)

    @property
    def head(self) -> AnswerHead:
        return AnswerHead(id=str(UUID(self.arrival.id)), created_at=self.arrival.at, model=self.exchange.model.id)


class Background:
    """Hands work in, and knows how far it is. Registers what carries it out."""

    def __init__(self, site: Site, decoders: Decoders) -> None:
        self._site = site
        self._decoders = decoders
        self._lines = Lines()
        site.tasks.register(KIND, _Performer(site, decoders, self._lines))

    async def read(self, raw: bytes, arrival: Arrival, key: str | None) -> Draft:
        """What a body asks for. key: of idempotency, which names the response. Raises RequestError."""
        digest: str | None = None
        if key is not None:
            name = hashlib.blake2b(f"{arrival.tenant.id}\n{key}".encode(), digest_size=16).hexdigest()
            arrival = msgspec.structs.replace(arrival, id=RequestId(name))
            digest = hashlib.sha256(raw).hexdigest()
        exchange = await asyncio.to_thread(self._decoders.response, raw, arrival)
        self._site.gateway.check(exchange.request)
        exchange = msgspec.structs.replace(exchange, digest=digest)
        headers = headers_of(exchange, self._site.gateway.toolbox.lacking(exchange.request))
        return Draft(exchange=exchange, arrival=arrival, raw=raw, has_key=key is not None, headers=headers)

    async def submit(self, draft: Draft) -> tuple[Remembered, HeaderList]:
        """The response, queued; the one there is already where the idempotency key was used for the same body."""
        arrival, order = draft.arrival, order_of(draft.exchange, draft.raw, draft.head)
        task = NewTask(
            id=draft.name,
            kind=KIND,
            tenant=arrival.tenant,
            body=order.encode(),
            arrived_at=arrival.at,
            keep_s=_TASK_KEEP_S,
        )
        try:
            state = await self._site.tasks.submit(task)
        except InvalidField as error:
            if error.field != "id" or not draft.has_key:
                raise
            found = await self._repeat(arrival, draft.exchange.digest)
            return found, [*draft.headers, (b"idempotent-replayed", b"true")]
        return order.seen(state.status), draft.headers

    async def follow(self, draft: Draft, receive: Receive, send: Send) -> None:
        """Hand the work in and stream it to the client, who may leave: the work goes on."""
        site, key = self._site, (draft.arrival.tenant.id, draft.name)
        if self._lines.find(key) is not None or (draft.has_key and await self.find(*key) is not None):
            raise InvalidField(
                f"This Idempotency-Key was used for the response {draft.name}, whose stream is told once. "
                "Ask for the response by its id.",
                field="idempotency-key",
            )
        with self._lines.open(key) as line:
            await self.submit(draft)
            followed = draft.exchange.follow(draft.head)
            delivery = Delivery(
                followed,
                draft.head,
                line.events(site.tasks, key),
                served_by=partial(site.label_of, followed.request.model),
                headers=draft.headers,
                settings=site.settings,
                closing=site.closing,
                clock=site.clock,
                opening=followed.encoder.open(),
            )
            await delivery.run(receive, send)

    async def _repeat(self, arrival: Arrival, digest: str | None) -> Remembered:
        found = await self.find(arrival.tenant.id, response_id(arrival.id))
        if found is None or found.digest != digest:
            raise InvalidField(
                "This Idempotency-Key was used for another request. Use a new key for a new request.",
                field="idempotency-key",
            )
        return found

    async def find(self, tenant: TenantId, name: str) -> Remembered | None:
        """A response, ended or not."""
        kept = await self._kept(tenant, name)
        if kept is not None:
            return kept
        task = await self._task(tenant, name)
        if task is None:
            return None
        # It may have ended between the two looks.
        return await self._kept(tenant, name) if task.has_ended else Order.decode(task.body).seen(task.status)

    async def cancel(self, tenant: TenantId, name: str) -> Remembered | None:
        """The response after that; one that had ended stays as it is."""
        task = await self._task(tenant, name)
        if task is not None and not task.has_ended:
            state = await self._site.tasks.cancel(tenant, name)
            if state is not None and state.status == "cancelled":
                record = msgspec.json.encode(Order.decode(task.body).seen("cancelled"))
                self._site.responses.keep(tenant, name, record)
        return await self.find(tenant, name)

    async def delete(self, tenant: TenantId, name: str) -> bool:
        """Whether there was one. Work that has not ended is cancelled."""
        task = await self._task(tenant, name)
        has_work = task is not None and not task.has_ended
        if has_work:
            await self._site.tasks.cancel(tenant, name)
        return await asyncio.to_thread(self._site.responses.delete, tenant, name) or has_work

    async def _kept(self, tenant: TenantId, name: str) -> Remembered | None:
        record = await asyncio.to_thread(self._site.responses.find, tenant, name)
        return None if record is None else msgspec.json.decode(record, type=Remembered)

    async def _task(self, tenant: TenantId, name: str) -> TaskState | None:
        task = await self._site.tasks.find(tenant, name)
        return task if task is not None and task.kind == KIND else None


class _Performer(Performer):
    """Announces nothing before the end: a response is one item.

    new_id: of each attempt, which is billed and logged by itself
    """

    def __init__(self, site: Site, decoders: Decoders, lines: Lines, *, new_id: Callable[[], UUID] = uuid4) -> None:
        self._site = site
        self._decoders = decoders
        self._lines = lines
        self._new_id = new_id

    @override
    async def perform(self, task: TaskState, announce: Announce) -> bytes:
        responses = self._site.responses
        kept = await asyncio.to_thread(responses.find, task.tenant.id, task.id)
        if kept is not None:  # a former attempt came so far
            return msgspec.json.encode(msgspec.json.decode(kept, type=Remembered).response)
        order = Order.decode(task.body)
        digits = task.id.removeprefix(response_id(""))
        arrival = Arrival(id=RequestId(digits), at=task.arrived_at, tenant=task.tenant)
        exchange = await asyncio.to_thread(self._decoders.response, bytes(order.request), arrival)
        exchange = msgspec.structs.replace(exchange, digest=order.shown.digest)
        head = AnswerHead(id=str(UUID(digits)), created_at=task.arrived_at, model=exchange.model.id)
        own_id = RequestId(self._new_id().hex)
        request = msgspec.structs.replace(exchange.request, id=own_id, answer_id=exchange.request.id)
        line = self._lines.find((task.tenant.id, task.id))
        if line is not None:
            line.begin()
        events = self._site.gateway.answer(request)
        async with aclosing(events):
            moving = _moving(events, self._site.settings.request_timeout_s)
            answer = await collect(moving if line is None else line.overhear(moving))
        body = exchange.encode_answer(answer, head)
        await asyncio.to_thread(responses.flush)
        if line is not None:
            line.end()
        return body

    @override
    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        failed = Order.decode(task.body).failed(error)
        self._site.responses.keep(task.tenant.id, task.id, msgspec.json.encode(failed))
        line = self._lines.find((task.tenant.id, task.id))
        if line is not None:
            line.fail(error)
        return msgspec.json.encode(failed.response)


async def _moving(events: AsyncGenerator[Event], limit_s: float) -> AsyncGenerator[Event]:
    """The same events. Raises RequestTimedOut when none comes for so long."""
    while True:
        try:
            async with asyncio.timeout(limit_s):
                event = await anext(events, None)
        except TimeoutError:
            raise RequestTimedOut(f"The answer made no progress for {limit_s:g} seconds and was given up.") from None
        if event is None:
            return
        yield event
