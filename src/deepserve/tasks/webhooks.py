"""Delivers results to the addresses that tasks name: at least once each, with patience, none at another's expense.

What is pending stands in the database; memory holds only when each is due, by the monotonic clock. So a wall clock
that jumps ahead does not fire everything at once, and one that jumps back does not stop anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from deepserve.core.task import DeliveryAttempt, DeliveryState, DeliveryStatus, TaskState
from deepserve.core.tenant import TenantId
from deepserve.outgoing.client import OutgoingAnswer, OutgoingClient, OutgoingLimits
from deepserve.outgoing.errors import OutgoingError
from deepserve.store.database import FAULTS, tell_fault
from deepserve.store.deliveries import DeliveryStore, PendingDelivery
from deepserve.tasks.database_thread import DatabaseThread
from deepserve.tasks.performer import WebhookShape
from deepserve.tasks.retries import RetrySchedule, Verdict, read_retry_after_s
from deepserve.tasks.signing import WebhookSecrets

Key = TypeVar("Key")

_log = logging.getLogger(__name__)

_AFTER_FAULT_S = 5.0
"""Until the next look at a delivery that met a fault of our own, such as a full disk."""

_ADDRESS_CHARACTERS = 128
_ERROR_CHARACTERS = 64
"""What the columns of an attempt hold."""


class WebhookLimits(msgspec.Struct, frozen=True, kw_only=True):
    """max_failures_in_row  after so many, a host is tried once in quarantine_s only
    rescan_s             how often the database is asked for what others have put there
    lease_s              nobody else makes an attempt meanwhile; longer than one can take
    """

    max_in_flight: int = 32
    max_in_flight_per_tenant: int = 16
    max_in_flight_per_host: int = 2
    max_failures_in_row: int = 10
    quarantine_s: float = 60.0
    rescan_s: float = 15.0
    lease_s: float = 60.0
    outgoing: OutgoingLimits = OutgoingLimits()


class _Queue(msgspec.Struct):
    """What one tenant has waiting for one host. Entries: due on the monotonic clock, a tie-breaker, the delivery."""

    entries: list[tuple[float, int, PendingDelivery]] = []
    num_failures_in_row: int = 0
    quiet_until: float = 0.0


class WebhookSender:
    """owner: under which name deliveries are leased. chance: random numbers from 0 to 1."""

    def __init__(
        self,
        store: DeliveryStore,
        thread: DatabaseThread,
        client: OutgoingClient,
        *,
        secrets: WebhookSecrets,
        shape_of: Callable[[str], WebhookShape],
        owner: str,
        schedule: RetrySchedule,
        limits: WebhookLimits,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._thread = thread
        self._client = client
        self._secrets = secrets
        self._shape_of = shape_of
        self._owner = owner
        self._schedule = schedule
        self._limits = limits
        self._now = now
        self._clock = clock
        self._chance = chance
        self._queues: OrderedDict[tuple[TenantId, str], _Queue] = OrderedDict()
        self._order = itertools.count()
        self._known: set[str] = set()
        self._in_flight: dict[asyncio.Task[None], PendingDelivery] = {}
        self._num_by_host: Counter[str] = Counter()
        self._num_by_tenant: Counter[TenantId] = Counter()
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self.num_attempts: Counter[DeliveryStatus] = Counter()

    async def start(self) -> None:
        await self._rescan()
        self._loops = [asyncio.create_task(self._send_due()), asyncio.create_task(self._keep_rescanning())]

    async def close(self) -> None:
        """Break off what is in flight; it is delivered after the next start."""
        broken_off = list(self._in_flight.values())
        tasks = [*self._loops, *self._in_flight]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pending in broken_off:
            await self._thread.run(self._store.let_go, pending.id, owner=self._owner)

    @property
    def num_pending(self) -> int:
        return len(self._known)

    def plan(self, task: TaskState, bodies: Mapping[int, bytes], *, new_id: Callable[[], str]) -> list[DeliveryState]:
        """The calls that announce a task's items, to be written together with them."""
        if task.webhook_url is None:
            return []
        url, now = self._client.policy.check_url(task.webhook_url), self._now()
        return [
            DeliveryState(
                id=new_id(),
                task_id=task.id,
                tenant=task.tenant,
                kind=task.kind,
                item=item,
                url=task.webhook_url,
                host=f"{url.host}:{url.port}",
                body=body,
                status="pending",
                num_attempts=0,
                next_attempt_at=now,
                created_at=now,
            )
            for item, body in bodies.items()
        ]

    def add(self, planned: Sequence[DeliveryState]) -> None:
        """Send what has just been written."""
        for delivery in planned:
            self._add(
                PendingDelivery(
                    id=delivery.id,
                    tenant=delivery.tenant.id,
                    host=delivery.host,
                    num_attempts=delivery.num_attempts,
                    next_attempt_at=delivery.next_attempt_at,
                )
            )

    def _add(self, pending: PendingDelivery, *, delay_s: float = 0.0) -> None:
        self._known.add(pending.id)
        queue = self._queues.setdefault((pending.tenant, pending.host), _Queue(entries=[]))
        heapq.heappush(queue.entries, (self._clock() + delay_s, next(self._order), pending))
        self._wake.set()

    def _forget(self, pending: PendingDelivery) -> None:
        self._known.discard(pending.id)
        key = (pending.tenant, pending.host)
        queue = self._queues.get(key)
        if queue is not None and not queue.entries and not queue.num_failures_in_row:
            del self._queues[key]

    async def _keep_rescanning(self) -> None:
        while True:
            await asyncio.sleep(self._limits.rescan_s)
            try:
                await self._rescan()
            except Exception as error:  # noqa: BLE001 - supervised: the next round may find the database well again
                tell_fault(_log, "Pending webhooks could not be read", error)

    async def _rescan(self) -> None:
        """Plan what this process does not know of: from before its start, of other servers, retried by hand."""
        now = self._now()
        for pending in await self._thread.run(self._store.pending):
            if pending.id not in self._known:
                self._add(pending, delay_s=self._delay_s(pending.next_attempt_at, pending.num_attempts, now))

    def _delay_s(self, next_attempt_at: datetime, num_attempts: int, now: datetime) -> float:
        """From wall time; never longer than the schedule can have meant, for the clock may have been set back."""
        delay_s = (next_attempt_at - now).total_seconds()
        return min(max(0.0, delay_s), self._schedule.longest_delay_s(num_attempts))

    async def _send_due(self) -> None:
        while True:
            self._wake.clear()
            wait_s = self._start_due()
            # Not wait_for, which loses a cancellation in Python 3.11 (https://github.com/python/cpython/issues/86296).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    def _start_due(self) -> float | None:
        """Begin every attempt that is due and allowed; return how long nothing else will be, None: until woken."""
        now, soonest = self._clock(), None
        for key, queue in list(self._queues.items()):
            tenant, host = key
            while queue.entries and len(self._in_flight) < self._limits.max_in_flight:
                due = max(queue.entries[0][0], queue.quiet_until)
                if due > now:
                    soonest = due if soonest is None else min(soonest, due)
                    break
                is_suspect = queue.num_failures_in_row >= self._limits.max_failures_in_row
                allowed = 1 if is_suspect else self._limits.max_in_flight_per_host
                if (
                    self._num_by_host[host] >= allowed
                    or self._num_by_tenant[tenant] >= self._limits.max_in_flight_per_tenant
                ):
                    break
                _, _, pending = heapq.heappop(queue.entries)
                self._begin(pending, queue)
                # Whoever just had a turn comes last in the next round.
                self._queues.move_to_end(key)
        return None if soonest is None else max(0.0, soonest - now)

    def _begin(self, pending: PendingDelivery, queue: _Queue) -> None:
        self._num_by_host[pending.host] += 1
        self._num_by_tenant[pending.tenant] += 1
        task = asyncio.create_task(self._attempt(pending, queue))
        self._in_flight[task] = pending
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        pending = self._in_flight.pop(task)
        _take_one(self._num_by_host, pending.host)
        _take_one(self._num_by_tenant, pending.tenant)
        self._wake.set()

    async def _attempt(self, pending: PendingDelivery, queue: _Queue) -> None:
        try:
            await self._deliver(pending, queue)
        except Exception as error:  # noqa: BLE001 - supervised: a fault of ours must not lose the delivery
            tell_fault(_log, f"Webhook {pending.id} met a fault of the server; it is tried again", error)
            with contextlib.suppress(*FAULTS):  # else it is free when its lease has run out
                await self._thread.run(self._store.let_go, pending.id, owner=self._owner)
            self._add(pending, delay_s=_AFTER_FAULT_S)

    async def _deliver(self, pending: PendingDelivery, queue: _Queue) -> None:
        delivery = await self._thread.run(
            self._store.claim, pending.id, owner=self._owner, now=self._now(), lease_s=self._limits.lease_s
        )
        if delivery is None:  # ended, or another server is at it
            self._forget(pending)
            return
        if delivery.num_attempts != pending.num_attempts:  # another server was quicker
            await self._thread.run(self._store.let_go, pending.id, owner=self._owner)
            delay_s = self._delay_s(delivery.next_attempt_at, delivery.num_attempts, self._now())
            self._add(_renewed(pending, delivery.num_attempts, delivery.next_attempt_at), delay_s=delay_s)
            return
        number, started_at, started = delivery.num_attempts + 1, self._now(), self._clock()
        status, error, address, retry_after_s = None, None, None, None
        is_expired = (started_at - delivery.created_at).total_seconds() > self._schedule.max_age_s
        try:
            if is_expired:
                error = "expired"
            else:
                answer = await self._client.request(
                    "POST",
                    delivery.url,
                    body=delivery.body,
                    headers=await self._headers(delivery),
                    limits=self._limits.outgoing,
                )
                status, address = answer.status, answer.address
                retry_after_s = read_retry_after_s(answer.headers, self._now())
                error = _name_failure(answer)
        except OutgoingError as raised:
            error, address = raised.code, raised.address
        now = self._now()
        verdict = (
            Verdict(status="failed")
            if is_expired
            else self._schedule.judge(number=number, status=status, retry_after_s=retry_after_s, chance=self._chance())
        )
        next_attempt_at = now + timedelta(seconds=verdict.delay_s)
        attempt = DeliveryAttempt(
            number=number,
            started_at=started_at,
            duration_ms=round((self._clock() - started) * 1000),
            status=status,
            error=error,
            address=None if address is None else address[:_ADDRESS_CHARACTERS],
        )
        await self._thread.insist(
            self._store.record,
            delivery.id,
            attempt,
            owner=self._owner,
            status=verdict.status,
            next_attempt_at=next_attempt_at,
            now=now,
        )
        self._note(queue, verdict, delivery, attempt)
        if verdict.status == "pending":
            self._add(_renewed(pending, number, next_attempt_at), delay_s=verdict.delay_s)
        else:
            self._forget(pending)

    async def _headers(self, delivery: DeliveryState) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        headers.update(await self._thread.run(self._secrets.headers, delivery, now=self._now()))
        id_header = self._shape_of(delivery.kind).id_header
        if id_header is not None:
            headers[id_header] = delivery.id
        return headers

    def _note(self, queue: _Queue, verdict: Verdict, delivery: DeliveryState, attempt: DeliveryAttempt) -> None:
        self.num_attempts[verdict.status] += 1
        if verdict.status == "delivered":
            queue.num_failures_in_row = 0
            queue.quiet_until = 0.0
            return
        queue.num_failures_in_row += 1
        if queue.num_failures_in_row >= self._limits.max_failures_in_row:
            queue.quiet_until = self._clock() + self._limits.quarantine_s
        level = logging.INFO if verdict.status == "pending" else logging.WARNING
        _log.log(
            level,
            "Webhook %s to %s: attempt %d failed (%s)%s",
            delivery.id,
            delivery.host,
            attempt.number,
            attempt.error,
            "" if verdict.status == "pending" else "; given up",
        )


def _take_one(counter: Counter[Key], key: Key) -> None:
    """Count down, leaving no zeros behind."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _renewed(pending: PendingDelivery, num_attempts: int, next_attempt_at: datetime) -> PendingDelivery:
    return msgspec.structs.replace(pending, num_attempts=num_attempts, next_attempt_at=next_attempt_at)


def _name_failure(answer: OutgoingAnswer) -> str | None:
    """A few words for a status that is no success. Redirects are not followed: their target was not asked for."""
    if 200 <= answer.status < 300:
        return None
    if 300 <= answer.status < 400:
        try:
            target = urlsplit(answer.headers.get("location", ""))
        except ValueError:
            return "redirect to nowhere"
        host = target.netloc.rpartition("@")[2]
        shown = "".join(character if character.isprintable() else "?" for character in f"{target.scheme}://{host}")
        return f"redirect to {shown}"[:_ERROR_CHARACTERS]
    return f"status_{answer.status}"
