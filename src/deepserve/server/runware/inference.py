"""Carries out one decoded task, now or later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from uuid import UUID

import msgspec
from typing_extensions import override

from deepserve.core.answer import Collector, Result
from deepserve.core.cost import Cost
from deepserve.core.errors import DeepserveError, RequestTimedOut
from deepserve.core.events import Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Json
from deepserve.core.request import RequestId
from deepserve.core.task import TaskState
from deepserve.core.usage import Usage
from deepserve.dialects.runware.errors import TaskRefused, wire_error
from deepserve.dialects.runware.request import Inference, decode_inference
from deepserve.dialects.runware.response import (
    TASK_TYPE,
    Outcome,
    announced_items,
    encode_ended,
    encode_ready,
    fail_the_rest,
)
from deepserve.dialects.runware.wire import WireEnded, WireItem, encode
from deepserve.server.site import Site
from deepserve.tasks.performer import Announce, Performer, WebhookShape

KIND = "runware"
WEBHOOK_ID_HEADER = "X-Runware-Delivery"
_SLACK = 1.25
"""An answer without progress is given up between once and so many times the time it is allowed."""


class CarriedOut(msgspec.Struct, frozen=True):
    """started: what the back end said at first."""

    ended: WireEnded
    started: Started | None


Tell = Callable[[list[WireItem]], Awaitable[None]]
"""Hears of the items that are ready, all of them each time."""


async def carry_out(
    site: Site, inference: Inference, *, told: Sequence[WireItem] = (), tell: Tell | None = None
) -> CarriedOut:
    """All results of a task; failed ones stand beside those that succeeded.

    told  items that were told in an attempt before this one: they stand, whatever comes of them now
    tell  hears of items while others are still being worked on; of failures and of bills that are not known yet at the
          end, for when everything fails the task may be tried again
    Raises the first error when there is no result at all.
    """
    idle_s = site.settings.request_timeout_s
    ready = {item.result_index or 0: item for item in told}
    usage, started = Usage(), None
    cost: Cost | None = None
    events_of: list[list[Event]] = [[] for _ in range(inference.request.num_results)]
    num_open = len(events_of)
    clock = asyncio.get_running_loop().time  # what `asyncio.timeout` goes by
    try:
        async with (
            asyncio.timeout(_SLACK * idle_s) as limit,
            aclosing(site.gateway.answer(inference.request)) as events,
        ):
            async for event in events:
                _advance(limit, idle_s, clock())
                match event:
                    case Started():
                        usage, started = event.prompt_usage or usage, event
                        for own in events_of:
                            own.append(event)
                    case UsageReported():
                        usage, cost = event.usage, event.cost
                    case Finished() | Failed():
                        own, num_open = events_of[event.result], num_open - 1
                        own.append(event)
                        # The last is told with the end, which follows at once.
                        is_news = isinstance(event, Finished) and num_open > 0 and event.result not in ready
                        if tell is not None and is_news:
                            item = encode_ready(
                                inference, event.result, _result(own), usage, cost, bills_prompt=not ready
                            )
                            if item is not None:
                                ready[event.result] = item
                                await tell([ready[index] for index in sorted(ready)])
                    case _:
                        events_of[event.result].append(event)
    except TimeoutError:
        message = f"The answer made no progress for {idle_s:g} seconds and was given up."
        raise RequestTimedOut(message) from None
    outcomes = [_outcome(own) for own in events_of]
    failures = [outcome for outcome in outcomes if isinstance(outcome, DeepserveError)]
    if len(failures) == len(outcomes) and not ready:
        raise failures[0]
    return CarriedOut(encode_ended(inference, outcomes, usage, cost, ready=ready), started)


def _advance(limit: asyncio.Timeout, idle_s: float, now: float) -> None:
    """There is at least so much time from now on. Not set anew at every event, for that costs more than most events."""
    if (limit.when() or now) < now + idle_s:
        limit.reschedule(now + _SLACK * idle_s)


def _outcome(events: Sequence[Event]) -> Outcome:
    try:
        return _result(events)
    except DeepserveError as error:
        return error


def _result(events: Sequence[Event]) -> Result:
    """Raises what ended it, and BackendFailure where nothing did."""
    collector = Collector()
    for event in events:
        collector.add(event)
    return collector.answer().results[0]


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
    async def perform(self, task: TaskState, announce: Announce) -> bytes:
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

        async def tell(items: list[WireItem]) -> None:
            await announce(encode(WireEnded(items=items)))

        return encode((await carry_out(self._site, inference, told=known_of(task).items, tell=tell)).ended)

    @override
    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        task_uuid = msgspec.json.decode(task.body, type=LaterTask).task["taskUUID"]
        told = wire_error(error, task_type=TASK_TYPE, task_uuid=task_uuid)
        return encode(fail_the_rest(told, num_results_of(task), known_of(task).items))


def _webhook_bodies(task: TaskState) -> Mapping[int, bytes]:
    """One call for each result: the item as it is, not in a list."""
    return {number: encode(item) for number, item in announced_items(known_of(task)).items()}


def known_of(task: TaskState) -> WireEnded:
    """What a task came to; before its end, what was announced of it."""
    return WireEnded() if task.result is None else msgspec.json.decode(task.result, type=WireEnded)


def num_results_of(task: TaskState) -> int:
    """How many were asked for."""
    asked = task.metadata.get("num_results", 1)
    assert isinstance(asked, int)
    return asked


WEBHOOKS = WebhookShape(bodies=_webhook_bodies, id_header=WEBHOOK_ID_HEADER)
