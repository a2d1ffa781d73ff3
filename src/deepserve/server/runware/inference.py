"""Carries out one decoded task, now or later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from uuid import UUID

import msgspec
from typing_extensions import override

from deepserve.core.answer import collect
from deepserve.core.cost import Cost
from deepserve.core.errors import BackendFailure, DeepserveError, RequestTimedOut
from deepserve.core.events import Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Json
from deepserve.core.request import RequestId
from deepserve.core.task import TaskState
from deepserve.core.usage import Usage
from deepserve.dialects.runware.errors import TaskRefused, wire_error
from deepserve.dialects.runware.request import Inference, decode_inference
from deepserve.dialects.runware.response import TASK_TYPE, Outcome, announced_items, encode_ended
from deepserve.dialects.runware.wire import WireEnded, encode
from deepserve.server.site import Site
from deepserve.tasks.performer import Performer, WebhookShape

KIND = "runware"
WEBHOOK_ID_HEADER = "X-Runware-Delivery"


class CarriedOut(msgspec.Struct, frozen=True):
    """started: what the back end said at first."""

    ended: WireEnded
    started: Started | None


async def carry_out(site: Site, inference: Inference) -> CarriedOut:
    """All results of a task; failed ones stand beside those that succeeded.

    Raises the first error when there is no result at all.
    """
    idle_s = site.settings.request_timeout_s
    usage, started = Usage(), None
    cost: Cost | None = None
    events_of: list[list[Event]] = [[] for _ in range(inference.request.num_results)]
    async with aclosing(site.gateway.answer(inference.request)) as events:
        while True:
            try:
                async with asyncio.timeout(idle_s):
                    event = await anext(events, None)
            except TimeoutError:
                message = f"The answer made no progress for {idle_s:g} seconds and was given up."
                raise RequestTimedOut(message) from None
            match event:
                case None:
                    break
                case Started():
                    usage, started = event.prompt_usage or usage, event
                    for own in events_of:
                        own.append(event)
                case UsageReported():
                    usage, cost = event.usage, event.cost
                case _:
                    events_of[event.result].append(event)
    outcomes = [await _outcome(own) for own in events_of]
    failures = [outcome for outcome in outcomes if isinstance(outcome, DeepserveError)]
    if len(failures) == len(outcomes):
        raise failures[0]
    return CarriedOut(encode_ended(inference, outcomes, usage, cost), started)


async def _outcome(events: Sequence[Event]) -> Outcome:
    failed = next((event for event in events if isinstance(event, Failed)), None)
    if failed is not None:
        return failed.error
    if not any(isinstance(event, Finished) for event in events):
        return BackendFailure("The answer ended without a finish. This is a fault of the server; please retry.")
    return (await collect(_replayed(events))).results[0]


async def _replayed(events: Sequence[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


class LaterTask(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down of an accepted task. seed: drawn when it came, so that a repetition gives the same."""

    task: dict[str, Json]
    seed: int
    is_strict: bool = False


class InferencePerformer(Performer):
    """Carries out accepted tasks. new_id: for the request that each attempt is."""

    def __init__(self, site: Site, new_id: Callable[[], UUID]) -> None:
        self._site = site
        self._new_id = new_id

    @override
    async def perform(self, task: TaskState) -> bytes:
        stored = msgspec.json.decode(task.body, type=LaterTask)
        try:
            inference = decode_inference(
                stored.task,
                names=self._site.names.without_presets(),
                limits=self._site.settings.limits,
                request_id=RequestId(self._new_id().hex),
                arrived_at=task.arrived_at,
                drawn_seed=stored.seed,
                tenant=task.tenant,
                is_strict=stored.is_strict,
            )
        except TaskRefused as error:  # what another version of this program accepted
            return encode(WireEnded(errors=[wire_error(error, task_type=TASK_TYPE, task_uuid=task.id)]))
        return encode((await carry_out(self._site, inference)).ended)

    @override
    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        task_uuid = msgspec.json.decode(task.body, type=LaterTask).task["taskUUID"]
        return encode(WireEnded(errors=[wire_error(error, task_type=TASK_TYPE, task_uuid=task_uuid)]))


def _webhook_bodies(task: TaskState) -> Sequence[bytes]:
    """One call for each result: the item as it is, not in a list."""
    if task.result is None:
        return ()
    return [encode(item) for item in announced_items(decode_ended(task.result))]


def decode_ended(raw: bytes) -> WireEnded:
    return msgspec.json.decode(raw, type=WireEnded)


WEBHOOKS = WebhookShape(bodies=_webhook_bodies, id_header=WEBHOOK_ID_HEADER)
