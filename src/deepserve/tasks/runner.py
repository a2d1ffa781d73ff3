"""Carries out tasks: each is durable when accepted, ends exactly once, and outlives the process.

A task that was running when the process died is begun again, a stated number of times at most. Knows no dialect and no
gateway: it is handed performers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from deepserve.config import TaskLimits
from deepserve.core.errors import CapacityError, DeepserveError, EngineFailure, InvalidField, TooManyRequests
from deepserve.core.task import DeliveryState, NewTask, TaskState
from deepserve.core.tenant import TenantId
from deepserve.outgoing.client import OutgoingClient
from deepserve.outgoing.errors import OutgoingError
from deepserve.store.database import Database, is_shared, is_text, tell_fault
from deepserve.store.deliveries import DeliveryStore
from deepserve.store.secret import load_secret
from deepserve.store.task_ids import TaskIds
from deepserve.store.tasks import DuplicateTask, TaskKey, TaskStore, TooManyTasks
from deepserve.tasks.database_thread import DatabaseThread
from deepserve.tasks.ownership import Ownership
from deepserve.tasks.performer import Performer, WebhookShape, whole_result
from deepserve.tasks.retries import RetrySchedule
from deepserve.tasks.signing import WebhookSecrets
from deepserve.tasks.webhooks import WebhookLimits, WebhookSender

_log = logging.getLogger(__name__)

_ROUNDS_PER_LEASE = 3
"""Of housekeeping, so that two of them may fail before the lease runs out."""
_POLL_S = 1.0
"""How often a waiting caller looks for the end of a task that another process works on."""
_MAX_ID_CHARACTERS = 256
KEY_FILE = "webhooks.key"
LOCK_FILE = "tasks.lock"


class TaskRunner:
    """One for each server. `register` the performers, then `start`; `close` gives unfinished tasks back to the store.

    state_dir  where the database lies; None: it is in memory, and tasks end with the process
    webhook_key  random bytes that webhooks are signed by; None: those of the state directory
    now        the wall clock, in UTC; clock: monotonic seconds; chance: random from 0 to 1
    new_hex    so many random bytes as hex digits
    """

    def __init__(
        self,
        database: Database,
        client: OutgoingClient,
        *,
        state_dir: Path | None = None,
        webhook_key: bytes | None = None,
        limits: TaskLimits = TaskLimits(),  # noqa: B008 - frozen
        schedule: RetrySchedule = RetrySchedule(),  # noqa: B008 - frozen
        webhook_limits: WebhookLimits = WebhookLimits(),  # noqa: B008 - frozen
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.Random().random,  # noqa: B008 - a generator of its own
        new_hex: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self._store = TaskStore(database)
        self._ids = TaskIds(database)
        self._deliveries = DeliveryStore(database)
        self._client = client
        self._limits = limits
        self._now = now
        self._new_hex = new_hex
        self._thread = DatabaseThread()
        self._owner = Ownership(
            None if state_dir is None else state_dir / LOCK_FILE, other_name=new_hex(8), is_shared=is_shared(database)
        )
        if webhook_key is None and state_dir is not None:
            webhook_key = load_secret(state_dir / KEY_FILE)
        self._secrets = WebhookSecrets(self._deliveries, webhook_key)
        self._sender = WebhookSender(
            self._deliveries,
            self._thread,
            client,
            secrets=self._secrets,
            shape_of=self._shape_of,
            owner=self._owner.name,
            schedule=schedule,
            limits=webhook_limits,
            now=now,
            clock=clock,
            chance=chance,
        )
        self._performers: dict[str, tuple[Performer, WebhookShape]] = {}
        self._waiting: OrderedDict[TenantId, deque[str]] = OrderedDict()
        self._known: set[TaskKey] = set()
        self._held: set[TaskKey] = set()
        self._running: dict[TaskKey, asyncio.Task[None]] = {}
        self._ends: dict[TaskKey, list[asyncio.Future[None]]] = {}
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._num_ended: Counter[tuple[str, ...]] = Counter()

    def take(self, limits: TaskLimits) -> None:
        """Other limits from now on."""
        self._limits = limits
        self._wake.set()

    def register(self, kind: str, performer: Performer, *, webhooks: WebhookShape = WebhookShape()) -> None:  # noqa: B008 - frozen
        """Let `performer` carry out tasks of this kind. Before `start`, else tasks of a former run find nobody."""
        assert kind not in self._performers, kind
        self._performers[kind] = (performer, webhooks)

    async def start(self) -> None:
        """Take up what a former process left, and begin to work."""
        now = self._now()
        dead_owner = self._owner.name if self._owner.is_main else None
        num_left = await self._thread.run(self._store.release, now=now, dead_owner=dead_owner)
        if num_left:
            _log.info("%d tasks were running when the server ended; they are begun again", num_left)
        if dead_owner is not None:
            await self._thread.run(self._deliveries.release, dead_owner=dead_owner)
        await self._keep_house()
        await self._sender.start()
        self._loops = [asyncio.create_task(self._begin_waiting()), asyncio.create_task(self._housekeeping())]

    async def close(self) -> None:
        """Stop working. Tasks that were begun are queued again, as if they had not been."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        held, working = set(self._held), list(self._running.values())
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        for key in held:
            await self._thread.run(self._store.requeue, key, owner=self._owner.name, is_counted=False)
        await self._sender.close()
        self._thread.close()
        self._ids.close()
        self._client.close()
        self._owner.close()

    async def submit(self, task: NewTask) -> TaskState:
        """Accept a task: durable when this returns.

        Raises InvalidField for an id this tenant has used (field `id`) and for an address that is not to be called
        (field `webhook_url`); TooManyRequests when the tenant has too many unfinished tasks.
        """
        assert task.kind in self._performers, task.kind
        if not 1 <= len(task.id) <= _MAX_ID_CHARACTERS:
            raise InvalidField(f"A task's id has from 1 to {_MAX_ID_CHARACTERS} characters.", field="id")
        if not is_text(task.id):
            raise InvalidField("A task's id contains no null characters and no halves of characters.", field="id")
        if task.webhook_url is not None:
            self.check_webhook_url(task.webhook_url)
        most, most_bytes = self._limits.max_unfinished_per_tenant, self._limits.max_bytes_per_tenant
        try:
            state = await self._thread.run(
                self._store.insert, task, now=self._now(), max_unfinished=most, max_bytes=most_bytes
            )
        except DuplicateTask:
            raise InvalidField(
                f"The id {task.id} was used before. Ask for the result of that task, or choose another id.", field="id"
            ) from None
        except TooManyTasks:
            raise TooManyRequests(
                f"For this account at most {most} tasks, of {most_bytes >> 20} MiB together, may wait or run. "
                "Try again when some have ended.",
                retry_after_s=10.0,
            ) from None
        self._enqueue((task.tenant.id, task.id))
        return state

    def check_webhook_url(self, url: str) -> None:
        """Raises InvalidField (field `webhook_url`) when it is clear already that it is not going to be called."""
        try:
            self._client.policy.check_url(url)
        except OutgoingError as error:
            raise InvalidField(error.message, field="webhook_url") from error

    async def find(self, tenant: TenantId, task_id: str) -> TaskState | None:
        """None for an unknown task, and once its time is over."""
        return await self._thread.run(self._store.find, (tenant, task_id), now=self._now())

    async def is_taken(self, tenant: TenantId, task_id: str) -> bool:
        """Whether this id was used before, so that no other task can have it."""
        taken = self._ids.is_taken_at_hand((tenant, task_id)) if self._ids.is_at_hand else None
        return await self._thread.run(self._ids.is_taken, (tenant, task_id)) if taken is None else taken

    async def cancel(self, tenant: TenantId, task_id: str) -> TaskState | None:
        """End a task that has not ended; the state says whether it had. No webhook tells of it."""
        key, now = (tenant, task_id), self._now()
        state = await self._thread.run(self._store.cancel, key, now=now)
        if state is not None and state.status == "cancelled" and state.ended_at == now:
            self._num_ended[(state.kind, "cancelled")] += 1
            running = self._running.get(key)
            if running is not None:
                running.cancel()
        self._tell(key)
        return state

    async def wait(self, tenant: TenantId, task_id: str) -> TaskState | None:
        """The task when it has ended; None as for `find`. Bound it with a time-out of your own."""
        key = (tenant, task_id)
        while True:
            end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._ends.setdefault(key, []).append(end)
            try:
                state = await self.find(tenant, task_id)
                if state is None or state.has_ended:
                    return state
                await asyncio.wait((end,), timeout=_POLL_S)
            finally:
                waiting = self._ends.get(key, [])
                if end in waiting:
                    waiting.remove(end)
                if not waiting:
                    self._ends.pop(key, None)

    async def deliveries(self, tenant: TenantId, task_id: str) -> list[DeliveryState]:
        """The webhook calls of a task, by item."""
        return await self._thread.run(self._deliveries.of_task, tenant, task_id)

    async def create_secret(self, tenant: TenantId) -> str | None:
        """A new secret that signs this tenant's webhooks; the one before signs a day longer. None without a state."""
        return await self._thread.run(self._secrets.create, tenant, now=self._now())

    def gauges(self) -> Mapping[str, float]:
        """What monitoring shows of this process's work."""
        return {
            "tasks_queued": len(self._known),
            "tasks_running": len(self._running),
            "webhooks_pending": self._sender.num_pending,
        }

    def counts(self) -> Mapping[str, Mapping[tuple[str, ...], int]]:
        """What monitoring counts: ended tasks by kind and status, webhook attempts by what followed."""
        return {
            "tasks_ended": dict(self._num_ended),
            "webhook_attempts": {(status,): count for status, count in self._sender.num_attempts.items()},
        }

    def _shape_of(self, kind: str) -> WebhookShape:
        return self._performers[kind][1] if kind in self._performers else WebhookShape()

    def _enqueue(self, key: TaskKey) -> None:
        if key in self._known or key in self._held:
            return
        self._known.add(key)
        self._waiting.setdefault(key[0], deque()).append(key[1])
        self._wake.set()

    def _next(self) -> TaskKey | None:
        """The oldest task of the tenant that has waited longest for a turn."""
        if not self._waiting:
            return None
        tenant, ids = next(iter(self._waiting.items()))
        key = (tenant, ids.popleft())
        self._known.discard(key)
        if ids:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
        return key

    async def _begin_waiting(self) -> None:
        while True:
            self._wake.clear()
            while len(self._running) < self._limits.max_running and (key := self._next()) is not None:
                self._held.add(key)
                try:
                    state = await self._thread.run(
                        self._store.claim, key, owner=self._owner.name, now=self._now(), lease_s=self._limits.lease_s
                    )
                except Exception as error:  # noqa: BLE001 - supervised: housekeeping finds the task again
                    tell_fault(_log, "A task could not be begun", error)
                    state = None
                if state is None:
                    self._held.discard(key)
                    continue
                self._running[key] = asyncio.create_task(self._work(key, state))
            await self._wake.wait()

    async def _work(self, key: TaskKey, state: TaskState) -> None:
        try:
            await self._perform(key, state)
        except Exception as error:  # noqa: BLE001 - supervised: housekeeping gives the task back
            tell_fault(_log, "The end of a task could not be written; it is begun again", error)
        finally:
            del self._running[key]
            self._held.discard(key)
            self._wake.set()

    async def _perform(self, key: TaskKey, state: TaskState) -> None:
        performer, shape = self._performers.get(state.kind, (None, WebhookShape()))
        status: Literal["succeeded", "failed"] = "failed"
        result: bytes | None = None
        error: DeepserveError | None = None
        known = state

        async def announce(result: bytes) -> None:
            nonlocal known
            known = msgspec.structs.replace(state, result=result)
            await self._advance(key, known, shape)

        try:
            if performer is None:
                raise EngineFailure(f"This server does not carry out tasks of the kind {state.kind}.")
            if state.num_attempts > self._limits.max_attempts:
                raise EngineFailure(
                    f"The task was begun {self._limits.max_attempts} times, and each time the server ended in the "
                    "middle of it."
                )
            result = await performer.perform(state, announce)
            status = "succeeded"
        except CapacityError as raised:
            if (self._now() - state.created_at).total_seconds() < self._limits.patience_s:
                await self._thread.run(self._store.requeue, key, owner=self._owner.name, is_counted=False)
                asyncio.get_running_loop().call_later(max(0.1, raised.retry_after_s), self._enqueue, key)
                return
            error = raised
        except DeepserveError as raised:
            error = raised
        except Exception:  # noqa: BLE001 - the boundary that keeps a fault of one task from the others
            _log.exception("A task of the kind %s met a fault of the server", state.kind)
            error = EngineFailure("The server met an internal fault while answering. It has been logged.")
        if error is not None and performer is not None:
            result = _encode(performer, known, error)
        await self._finish(key, state, shape, status, result, error)

    async def _advance(self, key: TaskKey, known: TaskState, shape: WebhookShape) -> None:
        """Note what is known of a result, and announce what is new in it."""
        try:
            written = await self._thread.run(
                self._store.advance,
                key,
                owner=self._owner.name,
                result=known.result or b"",
                announcements=self._plan(known, shape),
            )
        except Exception as error:  # noqa: BLE001 - the answer is worth more than an early announcement
            tell_fault(_log, "An item of a task could not be written; it is announced later", error)
            return
        self._sender.add(written or ())

    async def _finish(
        self,
        key: TaskKey,
        state: TaskState,
        shape: WebhookShape,
        status: Literal["succeeded", "failed"],
        result: bytes | None,
        error: DeepserveError | None,
    ) -> None:
        now = self._now()
        error_code = None if error is None else error.code
        ended = msgspec.structs.replace(state, status=status, result=result, error_code=error_code, ended_at=now)
        planned = self._plan(ended, shape)
        written = await self._thread.insist(
            self._store.finish,
            key,
            owner=self._owner.name,
            status=status,
            result=result,
            error_code=error_code,
            now=now,
            announcements=planned,
        )
        if written is not None:
            self._num_ended[(state.kind, status)] += 1
            self._sender.add(written)
        self._tell(key)

    def _plan(self, told: TaskState, shape: WebhookShape) -> Sequence[DeliveryState]:
        if told.webhook_url is None:
            return []
        try:
            bodies = shape.bodies(told)
        except Exception:  # noqa: BLE001 - a dialect's fault must not lose the result
            _log.exception("The webhooks of a task of the kind %s could not be written as the dialect does", told.kind)
            bodies = whole_result(told) if told.has_ended else {}
        return self._sender.plan(told, bodies, new_id=lambda: f"msg_{self._new_hex(16)}")

    def _tell(self, key: TaskKey) -> None:
        for end in self._ends.pop(key, []):
            if not end.done():
                end.set_result(None)

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(self._limits.lease_s / _ROUNDS_PER_LEASE)
            try:
                await self._keep_house()
            except Exception as error:  # noqa: BLE001 - supervised: the next round may find the database well again
                tell_fault(_log, "Tasks could not be looked after", error)

    async def _keep_house(self) -> None:
        """Keep our leases, take over what nobody holds, find what others queued, forget what is over."""
        now, owner = self._now(), self._owner.name
        held_before = set(self._running)
        leased = await self._thread.run(self._store.renew, owner=owner, now=now, lease_s=self._limits.lease_s)
        for key in held_before - leased:
            if key in self._running:  # cancelled or taken over by another server
                self._running[key].cancel()
        for key in leased - self._held:  # its end could not be written
            await self._thread.run(self._store.requeue, key, owner=owner, is_counted=True)
        await self._thread.run(self._store.release, now=now, dead_owner=None)
        for key in await self._thread.run(self._store.queued):
            self._enqueue(key)
        limits = self._limits
        await self._thread.run(
            self._store.purge, now=now, record_s=limits.record_s, max_bytes_per_tenant=limits.max_bytes_per_tenant
        )
        await self._thread.run(self._deliveries.purge, now=now, record_s=limits.delivery_record_s)


def _encode(performer: Performer, state: TaskState, error: DeepserveError) -> bytes | None:
    try:
        return performer.encode_failure(state, error)
    except Exception:  # noqa: BLE001 - the failure is recorded by its code even so
        _log.exception("The failure of a task of the kind %s could not be written as the dialect does", state.kind)
        return None
