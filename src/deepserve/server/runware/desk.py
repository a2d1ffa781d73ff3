"""Takes tasks and answers them, whatever brought them: HTTP or a WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from uuid import UUID

import msgspec

from deepserve.catalog.prices import cost_usd
from deepserve.config import Settings
from deepserve.core.errors import CapacityError, DeepserveError, EngineFailure, InvalidField, Overloaded, RequestError
from deepserve.core.events import Started
from deepserve.core.messages import Json
from deepserve.core.request import RequestId
from deepserve.core.task import NewTask
from deepserve.core.tenant import Tenant, TenantId
from deepserve.core.usage import Usage
from deepserve.dialects.past_traces import count_traces
from deepserve.dialects.runware.errors import TaskRefused, status_of, wire_error
from deepserve.dialects.runware.request import (
    Inference,
    decode_inference,
    read_task_type,
    read_task_uuid,
    task_type_of,
    task_uuid_of,
)
from deepserve.dialects.runware.response import TASK_TYPE, acknowledgment, bill, polled_items, running_items
from deepserve.dialects.runware.value import Value
from deepserve.dialects.runware.wire import WireEnded, WireError, WireItem, encode
from deepserve.server.delivery import HeaderList, answer_headers
from deepserve.server.runware.account import account_details
from deepserve.server.runware.inference import (
    KIND,
    WEBHOOKS,
    CarriedOut,
    InferencePerformer,
    LaterTask,
    carry_out,
    known_of,
    num_results_of,
)
from deepserve.server.runware.memory import Job, JobMemory, conflict
from deepserve.server.site import Site
from deepserve.server.visit import Visit

_log = logging.getLogger(__name__)

_KEEP_RESULTS_S = 86_400.0

_SERVED = "textInference, getResponse, getTaskDetails, modelSearch, accountManagement, ping and authentication"


class Handled(msgspec.Struct, kw_only=True):
    """What a task came to so far.

    is_later  it was acknowledged; `Desk.await_ended` tells the rest
    status    for HTTP, where there is nothing but errors
    headers   for HTTP, where this is the only task
    """

    items: Sequence[object] = ()
    errors: Sequence[WireError] = ()
    status: int = 200
    headers: HeaderList = []
    retry_after_s: float | None = None
    is_later: bool = False


class Desk:
    """One for each server. draw_seed: a number from 0 to 2**32 - 1; new_id: for the requests that tasks become."""

    def __init__(self, site: Site, draw_seed: Callable[[], int], new_id: Callable[[], UUID]) -> None:
        self._site = site
        self._draw_seed = draw_seed
        self._new_id = new_id
        settings = site.settings
        self._jobs = JobMemory(
            max_running=settings.sockets.num_tasks,
            max_jobs=settings.replay_answers,
            max_bytes=settings.replay_bytes,
            keep_s=min(settings.replay_s, _KEEP_RESULTS_S),
            clock=site.clock,
        )
        site.live.follow(self._take)
        self._working: set[asyncio.Task[None]] = set()
        site.tasks.register(KIND, InferencePerformer(site, new_id), webhooks=WEBHOOKS)

    def _take(self, settings: Settings) -> None:
        self._jobs.max_running = settings.sockets.num_tasks

    async def handle(self, task: Mapping[str, Json], visit: Visit, *, patience_s: float) -> Handled:
        """Never raises for what a client may do wrong. patience_s: so long a whole answer is waited for."""
        task_type, task_uuid = task_type_of(task), task_uuid_of(task)
        try:
            return await self._handle(task, visit, patience_s)
        except (TaskRefused, DeepserveError) as error:
            return Handled(
                errors=[wire_error(error, task_type=task_type, task_uuid=task_uuid)],
                status=status_of(error),
                retry_after_s=error.retry_after_s if isinstance(error, CapacityError) else None,
            )

    async def estimate(self, task: Mapping[str, Json], visit: Visit) -> Handled:
        """A dry run: everything is checked and nothing begun. The cost is that of the longest answer allowed."""
        if task_type_of(task) != TASK_TYPE:
            return await self.handle(task, visit, patience_s=0)
        try:
            inference = self.decode(task, visit)
            request = inference.request
            num_output = request.max_output_tokens or request.default_output_tokens or 0
            usage = Usage(
                miss_tokens=await self._site.gateway.count(request), answer_tokens=num_output * request.num_results
            )
        except (TaskRefused, DeepserveError) as error:
            told = wire_error(error, task_type=TASK_TYPE, task_uuid=task_uuid_of(task))
            return Handled(errors=[told], status=status_of(error))
        item = WireItem(task_type=TASK_TYPE, task_uuid=inference.task_uuid, text="", seed=inference.first_seed)
        price = self._site.prices.price_at(request.model, request.arrived_at)
        return Handled(items=[bill(item, inference, usage, None if price is None else cost_usd(usage, price))])

    async def _handle(self, task: Mapping[str, Json], visit: Visit, patience_s: float) -> Handled:
        match read_task_type(task):
            case "textInference":
                inference = self.decode(task, visit)
                if inference.delivery == "stream":
                    raise TaskRefused(
                        "unsupportedDeliveryMethod",
                        "`deliveryMethod` stream needs an HTTP request with this one task in it.",
                        parameter="deliveryMethod",
                    )
                if inference.is_later:
                    return await self._accept(inference, visit)
                return await self._answer(inference, patience_s)
            case "getResponse":
                return await self._poll(visit.tenant.id, read_task_uuid(task))
            case "getTaskDetails":
                return await self._details(visit.tenant.id, read_task_uuid(task))
            case "modelSearch":
                return self._search(task, visit.tenant)
            case "accountManagement":
                details = await asyncio.to_thread(account_details, self._site, task, visit.tenant)
                return Handled(items=[details])
            case "ping":
                return Handled(items=[{"taskType": "ping", "pong": True}])
            case other:
                raise TaskRefused(
                    "unsupportedTaskType",
                    f"Tasks of the type {other[:64]} are not served here. Served are {_SERVED}.",
                    parameter="taskType",
                )

    def decode(self, task: Mapping[str, Json], visit: Visit) -> Inference:
        """Raises TaskRefused."""
        site = self._site
        inference = decode_inference(
            task,
            names=site.names.without_presets(),
            limits=site.settings.limits,
            request_id=RequestId(self._new_id().hex),
            arrived_at=site.now(),
            drawn_seed=self._draw_seed(),
            tenant=visit.tenant,
            is_strict=visit.is_strict,
        )
        site.gateway.check(inference.request)
        if inference.webhook_url is not None:
            site.tasks.check_webhook_url(inference.webhook_url)
        return inference

    def supervise(self, work: Coroutine[None, None, None]) -> None:
        """Let work go on by itself; it handles its own errors."""
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    # Ids

    async def reserve(self, inference: Inference) -> Job:
        """Take the task's id. Raises TaskRefused when this tenant has used it before."""
        tenant, name = inference.request.tenant.id, inference.task_uuid.lower()
        job = self._jobs.reserve((tenant, name), inference.source, inference.request.num_results)
        try:
            if await self._site.tasks.is_taken(tenant, name):
                raise conflict()
        except BaseException:
            self._jobs.release(job)
            raise
        return job

    def end_stream(self, job: Job, *, has_begun: bool) -> None:
        """A streamed task is over; its id is free again where nothing was begun."""
        if has_begun:
            self._jobs.finish(job, None)
        else:
            self._jobs.release(job)

    # Tasks that are waited for

    async def _answer(self, inference: Inference, patience_s: float) -> Handled:
        """The work goes on when the client leaves or the patience is over: the result can be asked for."""
        job = await self.reserve(inference)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[CarriedOut] = loop.create_future()
        work = asyncio.create_task(self._work(job, inference, outcome))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        self._site.closing.register(work)
        work.add_done_callback(self._site.closing.forget)
        patience = loop.call_later(patience_s, _give_up, outcome, patience_s)
        try:
            carried = await outcome
        finally:
            patience.cancel()
        headers = _headers(inference, carried.started)
        return Handled(items=carried.ended.items, errors=carried.ended.errors, headers=headers)

    async def _work(self, job: Job, inference: Inference, outcome: asyncio.Future[CarriedOut]) -> None:
        error: DeepserveError
        try:
            carried = await carry_out(self._site, inference)
            self._jobs.finish(job, carried.ended)
            if not outcome.done():
                outcome.set_result(carried)
            return
        except (RequestError, CapacityError) as raised:
            error = raised  # nothing was begun
            self._jobs.release(job)
        except DeepserveError as raised:
            error = raised
            self._jobs.finish(job, _failed(inference, error))
        except asyncio.CancelledError:
            error = Overloaded("The server is stopping. Please send the task again.")
            self._jobs.finish(job, _failed(inference, error))
        except Exception:  # noqa: BLE001 - supervised: a fault of ours must not leave a client waiting
            _log.exception("The task %s met a fault of the server", inference.task_uuid)
            error = EngineFailure("The server met an internal fault while answering. It has been logged.")
            self._jobs.finish(job, _failed(inference, error))
        if not outcome.done():
            outcome.set_exception(error)
            outcome.exception()  # looked at, for nobody may be waiting any more

    # Tasks that are answered later

    async def _accept(self, inference: Inference, visit: Visit) -> Handled:
        job = await self.reserve(inference)
        body = LaterTask(task=inference.source, seed=inference.first_seed, is_strict=visit.is_strict)
        try:
            await self._site.tasks.submit(
                NewTask(
                    id=inference.task_uuid.lower(),
                    kind=KIND,
                    tenant=visit.tenant,
                    body=msgspec.json.encode(body),
                    arrived_at=inference.request.arrived_at,
                    keep_s=_KEEP_RESULTS_S,
                    webhook_url=inference.webhook_url,
                    metadata={"num_results": inference.request.num_results, "task_uuid": inference.task_uuid},
                )
            )
        except InvalidField as error:
            if error.field == "id":
                raise conflict() from error
            raise
        finally:
            self._jobs.release(job)  # from here on the id is known to the runner, or free
        return Handled(items=[acknowledgment(inference.task_uuid)], is_later=True)

    async def await_ended(self, tenant: TenantId, task_uuid: str) -> Handled:
        """The results of an accepted task, when it has ended."""
        await self._site.tasks.wait(tenant, task_uuid.lower())
        return await self._poll(tenant, task_uuid)

    # Questions about tasks

    async def _poll(self, tenant: TenantId, task_uuid: str) -> Handled:
        found = await self._find(tenant, task_uuid)
        if found.ended is None:
            return Handled(items=running_items(task_uuid, found.num_results, found.ready))
        items = polled_items(found.ended)
        return Handled(items=items) if items else Handled(errors=found.ended.errors[:1])

    async def _details(self, tenant: TenantId, task_uuid: str) -> Handled:
        found = await self._find(tenant, task_uuid)
        polled = await self._poll(tenant, task_uuid)
        response = {"data": polled.items} if polled.items else {"errors": polled.errors}
        item = {"taskType": "getTaskDetails", "taskUUID": task_uuid, "request": [found.source], "response": response}
        return Handled(items=[item])

    async def _find(self, tenant: TenantId, task_uuid: str) -> Job:
        """Raises TaskRefused for a task that this tenant does not have."""
        key = (tenant, task_uuid.lower())
        job = self._jobs.find(key)
        if job is not None and (job.ended is not None or job.ended_at is None):
            return job
        state = await self._site.tasks.find(*key)
        if state is None or state.kind != KIND or (state.has_ended and state.result is None):
            raise TaskRefused(
                "taskFailedOrNotFound",
                "There is no result of a task with this taskUUID: it is unknown, streamed, or too long ago.",
                parameter="taskUUID",
                status=404,
            )
        return Job(
            key=key,
            source=msgspec.json.decode(state.body, type=LaterTask).task,
            num_results=num_results_of(state),
            ready=known_of(state).items,
            ended=known_of(state) if state.has_ended else None,
        )

    def _search(self, task: Mapping[str, Json], tenant: Tenant) -> Handled:
        """The models that answer here, by their names in the AIR form."""
        root = Value(task)
        wanted = root.optional("search")
        text = "" if wanted is None else wanted.string().strip().lower()
        served = {model.id: model for model in self._site.gateway.models(tenant)}
        found: list[Json] = [
            {
                "air": alias.name,
                "name": served[alias.id].display_name,
                "category": "checkpoint",
                "architecture": "deepseek_v4",
                "version": "4",
                "capabilities": ["io:text-to-text"],
                "source": "official",
                "private": False,
            }
            for alias in self._site.names.aliases
            if "@" in alias.name and alias.id in served and (text in alias.name or text in alias.id)
        ]
        offset, limit = root.optional("offset"), root.optional("limit")
        first = 0 if offset is None else offset.integer(0, 1 << 31)
        most = 20 if limit is None else limit.integer(1, 100)
        item = {
            "taskType": "modelSearch",
            "taskUUID": read_task_uuid(task),
            "totalResults": len(found),
            "results": found[first : first + most],
        }
        return Handled(items=[item])


def _give_up(outcome: asyncio.Future[CarriedOut], patience_s: float) -> None:
    if not outcome.done():
        outcome.set_exception(
            TaskRefused(
                "requestTimeout",
                f"The task is still running after {patience_s:g} seconds. Poll its result with `getResponse`.",
                status=504,
            )
        )


def _headers(inference: Inference, started: Started | None) -> HeaderList:
    """Who answered, and what became of earlier traces."""
    request = inference.request
    has_tools = bool(request.tools or request.server_tools)
    sent = count_traces(request.messages, is_needed=request.thinking.enabled and has_tools)
    if started is None:
        return []
    return answer_headers(started.served_by.label, started.past_reasoning or sent, started.relaxed)


def _failed(inference: Inference, error: DeepserveError) -> WireEnded:
    return WireEnded(errors=[wire_error(error, task_type=TASK_TYPE, task_uuid=inference.task_uuid)])


def encode_handled(all_handled: Sequence[Handled]) -> bytes:
    """A body of all tasks. A key stands there only when it holds something: SDKs take `errors` for a failure."""
    body: dict[str, object] = {}
    items = [item for handled in all_handled for item in handled.items]
    errors = [error for handled in all_handled for error in handled.errors]
    if items or not errors:
        body["data"] = items
    if errors:
        body["errors"] = errors
        if not items:
            body["error"] = errors[0]
    return encode(body)
