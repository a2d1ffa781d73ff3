"""POST of tasks: an array in the body, one answer for all, or a stream for a single one."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from uuid import UUID

import msgspec
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from deepserve.core.errors import AuthenticationFailed, BodyTooLarge, Cancelled, CapacityError, DeepserveError
from deepserve.core.messages import Json
from deepserve.dialects.exchange import AnswerHead
from deepserve.dialects.runware.errors import TaskRefused, error_body, status_of, wire_error
from deepserve.dialects.runware.request import Inference, read_tasks, task_uuid_of
from deepserve.dialects.runware.response import TASK_TYPE
from deepserve.dialects.runware.stream import StreamedTask
from deepserve.server.access import ANONYMOUS, key_of
from deepserve.server.body import read_body
from deepserve.server.delivery import Delivery, HeaderList
from deepserve.server.endpoint import work_on
from deepserve.server.replay import IDEMPOTENCY_KEY, idempotency_key
from deepserve.server.runware.desk import Desk, Handled, encode_handled
from deepserve.server.site import Site
from deepserve.server.visit import Visit, fields_of, remember, visit_of

PATIENCE_S = 300.0
"""A whole answer is waited for so long; then its client has to poll."""

ANONYMOUS_BODY_BYTES = 4 * 1024 * 1024
"""Without a key in a header not much is read before it is clear who asks."""


class TaskEndpoint:
    """The ASGI application of the base addresses. new_id: for connections that log in by a task."""

    def __init__(self, site: Site, desk: Desk, new_id: Callable[[], UUID]) -> None:
        self._site = site
        self._desk = desk
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        site, limits = self._site, self._site.settings.limits
        headers = fields_of(scope)
        if IDEMPOTENCY_KEY in headers:
            # Checked as everywhere; `taskUUID` already keeps tasks from happening twice.
            idempotency_key(Headers(scope=scope))
        if visit_of(scope).tenant == ANONYMOUS:
            limits = msgspec.structs.replace(limits, body_bytes=min(limits.body_bytes, ANONYMOUS_BODY_BYTES))
        try:
            raw = await read_body(scope, receive, limits)
        except BodyTooLarge as error:
            hint = " A larger one needs the key in the header Authorization." if limits != site.settings.limits else ""
            raise BodyTooLarge(error.message + hint) from error
        tasks = await work_on(raw, partial(read_tasks, raw, site.settings.limits))
        logins = [task for task in tasks if task.get("taskType") == "authentication"]
        tasks = [task for task in tasks if task.get("taskType") != "authentication"]
        visit = await self._identify(scope, logins)
        greetings = [Handled(items=[self._greeting()])] if logins else []
        if headers.get("x-runware-dry-run", "0") != "0":
            await self._whole([self._desk.estimate(task, visit) for task in tasks], greetings, send)
            return
        if len(tasks) == 1 and tasks[0].get("deliveryMethod") == "stream":
            await self._stream(tasks[0], visit, receive, send)
            return
        works = [self._desk.handle(task, visit, patience_s=PATIENCE_S) for task in tasks]
        await self._whole(works, greetings, send)

    def _greeting(self) -> Json:
        return {"taskType": "authentication", "connectionSessionUUID": str(self._new_id())}

    async def _identify(self, scope: Scope, logins: list[Json]) -> Visit:
        """By the header, else by the first authentication task. Raises AuthenticationFailed."""
        visit = visit_of(scope)
        keys = [login.get("apiKey") for login in logins]
        if not all(isinstance(key, str) and key for key in keys):
            raise AuthenticationFailed("The authentication task lacks `apiKey`.")
        in_header = key_of(fields_of(scope))
        if visit.tenant == ANONYMOUS:
            if not keys:
                raise AuthenticationFailed(
                    "No API key was sent: use the header Authorization, or begin with an authentication task."
                )
            tenant = await self._site.access.tenant_of(keys[0])
            visit = msgspec.structs.replace(visit, tenant=tenant)
            remember(scope, visit)
            in_header = keys[0]
        if in_header and any(not hmac.compare_digest(key.encode(), in_header.encode()) for key in keys):
            raise AuthenticationFailed("The keys in the header and in the authentication task are not the same.")
        return visit

    async def _whole(
        self, works: Sequence[Coroutine[None, None, Handled]], greeting: list[Handled], send: Send
    ) -> None:
        """One body for all tasks. White space keeps the connection alive; after the first the status is fixed."""
        has_begun = False
        work = asyncio.create_task(_each(works))
        try:
            while not (await asyncio.wait({work}, timeout=self._site.settings.keep_alive_s))[0]:
                if not has_begun:
                    await send(_head(200))
                has_begun = True
                await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            handled = [*greeting, *work.result()]
        finally:
            work.cancel()
        body = encode_handled(handled)
        if not has_begun:
            worst = next((one for one in handled if one.errors), None)
            has_items = any(one.items for one in handled)
            status = 200 if worst is None or has_items else worst.status
            retry_after_s = None if worst is None or has_items else worst.retry_after_s
            headers = handled[-1].headers if len(handled) == 1 + len(greeting) else []
            await send(_head(status, len(body), retry_after_s, headers))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, task: Mapping[str, Json], visit: Visit, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_noticing(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            inference = self._desk.decode(task, visit)
            job = await self._desk.reserve(inference)
            try:
                await self._deliver(inference, visit, receive, send_noticing)
            finally:
                self._desk.end_stream(job, has_begun=has_begun)
        except Cancelled:
            raise
        except (TaskRefused, DeepserveError) as error:
            body = error_body(wire_error(error, task_type=TASK_TYPE, task_uuid=task_uuid_of(task)))
            retry_after_s = error.retry_after_s if isinstance(error, CapacityError) else None
            await send(_head(status_of(error), len(body), retry_after_s))
            await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _deliver(self, inference: Inference, visit: Visit, receive: Receive, send: Send) -> None:
        site, request = self._site, inference.request
        delivery = Delivery(
            StreamedTask(inference),
            AnswerHead(id=str(visit.id), created_at=request.arrived_at, model=request.model),
            site.gateway.answer(visit.linked(request)),
            served_by=partial(site.label_of, request.model),
            headers=[],
            settings=site.settings,
            closing=site.closing,
            clock=site.clock,
        )
        await delivery.run(receive, send)


async def _each(works: Sequence[Coroutine[None, None, Handled]]) -> list[Handled]:
    """Side by side, where they are several."""
    return [await works[0]] if len(works) == 1 else await asyncio.gather(*works)


def _head(
    status: int,
    num_bytes: int | None = None,
    retry_after_s: float | None = None,
    more: Sequence[tuple[bytes, bytes]] = (),
) -> Message:
    headers: HeaderList = [(b"content-type", b"application/json"), *more]
    if num_bytes is not None:
        headers.append((b"content-length", str(num_bytes).encode()))
    if retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(retry_after_s)).encode()))
    return {"type": "http.response.start", "status": status, "headers": headers}
