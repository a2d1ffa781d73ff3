"""WebSocket: arrays of tasks come in as text frames, each answer goes out as a frame of its own.

A frame holds results or an error, never both, and a pong or a greeting stands alone: SDKs look at one thing in a frame.
What a broken connection left undelivered waits for the client to come back with its `connectionSessionUUID`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from uuid import UUID

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from deepserve.core.errors import AuthenticationFailed, DeepserveError, EngineFailure, StoreUnavailable
from deepserve.core.messages import Json
from deepserve.core.tenant import Tenant
from deepserve.dialects.runware.errors import TaskRefused, error_body, wire_error
from deepserve.dialects.runware.request import read_tasks, task_type_of, task_uuid_of
from deepserve.dialects.runware.wire import WireError, encode
from deepserve.server.access import ANONYMOUS, key_of
from deepserve.server.endpoint import work_on
from deepserve.server.runware.desk import Desk, Handled
from deepserve.server.runware.sessions import Session, Sessions
from deepserve.server.site import Site
from deepserve.server.visit import Visit

_log = logging.getLogger(__name__)

PATIENCE_S = 120.0
"""A whole answer is waited for so long; then its client has to poll."""

_TURNS_TO_NOTICE = 5
_LOGIN_BYTES = 64 * 1024
"""Nothing larger is looked at before the login."""

_GOING_AWAY = 1001
_NOT_LOGGED_IN = 4401


class SocketEndpoint:
    """The ASGI application of the WebSocket addresses. new_id: for sessions and requests."""

    def __init__(self, site: Site, desk: Desk, new_id: Callable[[], UUID]) -> None:
        self._site = site
        self._desk = desk
        self._new_id = new_id
        self._sessions = Sessions(site.settings.sockets, site.clock)
        site.live.follow(lambda settings: self._sessions.take(settings.sockets))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        try:
            tenant = await self._site.access.greet(scope)
        except DeepserveError:
            await socket.close()  # before it was accepted: HTTP 403
            return
        await socket.accept()
        key = key_of(Headers(scope=scope)) or None
        await Connection(socket, tenant, key, self._site, self._desk, self._sessions, self._new_id).run()


class Connection:
    """One connection from its handshake to its end."""

    def __init__(
        self,
        socket: WebSocket,
        tenant: Tenant,
        key: str | None,
        site: Site,
        desk: Desk,
        sessions: Sessions,
        new_id: Callable[[], UUID],
    ) -> None:
        """key: by which the tenant is known; None: it is not known yet, or none is needed."""
        self._socket = socket
        self._tenant = tenant
        self._key = key
        self._site = site
        self._desk = desk
        self._sessions = sessions
        self._new_id = new_id
        self._session = sessions.open(str(new_id()), tenant.id, self)
        self._writing = asyncio.create_task(self._write())
        self._is_dropped = asyncio.Event()
        self._why_unknown: DeepserveError | TaskRefused = TaskRefused(
            "missingApiKey", "Log in first: send an authentication task with `apiKey`."
        )

    async def run(self) -> None:
        limits, begun_at = self._site.settings.sockets, self._site.clock()
        dropped = asyncio.create_task(self._is_dropped.wait())
        try:
            while True:
                is_known = self._tenant != ANONYMOUS
                reading = asyncio.create_task(self._socket.receive())
                waited = {reading, dropped, self._writing}
                timeout_s = limits.idle_s if is_known else max(0.0, limits.login_s - (self._site.clock() - begun_at))
                done, _ = await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if reading not in done:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                    if not done or dropped in done:
                        await self._close(_GOING_AWAY if is_known else _NOT_LOGGED_IN)
                    return
                message = reading.result()
                if message["type"] != "websocket.receive":
                    return
                await self._read(message.get("text"), message.get("bytes"))
        except WebSocketDisconnect:
            return
        finally:
            for task in (dropped, self._writing):
                task.cancel()
            await asyncio.gather(dropped, self._writing, return_exceptions=True)
            self._sessions.leave(self._session, self)

    def drop(self) -> None:
        """The session was resumed on another connection."""
        self._is_dropped.set()

    async def _close(self, code: int) -> None:
        if self._socket.application_state is WebSocketState.CONNECTED:
            try:
                async with asyncio.timeout(self._site.settings.limits.send_timeout_s):
                    await self._socket.close(code)
            except (TimeoutError, WebSocketDisconnect, RuntimeError):
                return

    # Out

    async def _write(self) -> None:
        """Ends when the client does not read any more."""
        while True:
            session = self._session
            frame = session.first() if session.connection is self else None
            if frame is None:
                session.has_news.clear()
                await session.has_news.wait()
                continue
            try:
                async with asyncio.timeout(self._site.settings.limits.send_timeout_s):
                    await self._socket.send_text(frame.decode())
            except (TimeoutError, WebSocketDisconnect, RuntimeError):
                return
            # A connection that is found broken while a frame is written ends this task within a few turns of the loop;
            # the frame is then still there for the next connection.
            for _ in range(_TURNS_TO_NOTICE):
                await asyncio.sleep(0)
            session.delivered(frame)

    # In

    async def _read(self, text: str | None, data: bytes | None) -> None:
        raw = text.encode("utf-8", "surrogatepass") if text is not None else data or b""
        if self._tenant == ANONYMOUS and len(raw) > _LOGIN_BYTES:
            self._post_login_error(self._why_unknown)
            return
        try:
            tasks = await work_on(raw, partial(read_tasks, raw, self._site.settings.limits))
        except DeepserveError as error:
            self._session.post(encode({"errors": [wire_error(error)]}))
            return
        await self._look_again()
        for task in tasks:
            if task.get("taskType") == "authentication":
                await self._log_in(task)
            elif self._tenant == ANONYMOUS:
                self._post_login_error(self._why_unknown)
            elif task.get("taskType") == "ping":
                self._session.post(encode({"data": [{"taskType": "ping", "pong": True}]}))
            elif self._session.num_tasks >= self._site.settings.sockets.num_tasks:
                refusal = TaskRefused("rateLimitExceeded", "Too many tasks of this connection are unfinished.")
                self._post_errors(
                    self._session, [wire_error(refusal, task_type=task_type_of(task), task_uuid=task_uuid_of(task))]
                )
            else:
                self._session.num_tasks += 1
                self._desk.supervise(self._work(self._session, self._tenant, task))

    async def _look_again(self) -> None:
        """A key may have been revoked since it came, or may do less: a connection can last for days."""
        if self._key is None:
            return
        try:
            self._tenant = await self._site.access.tenant_of(self._key)
        except AuthenticationFailed as error:
            self._tenant, self._key = ANONYMOUS, None
            self._why_unknown = error
        except StoreUnavailable:
            return  # nothing is answered meanwhile; who asks is not in doubt for that

    async def _log_in(self, task: Mapping[str, Json]) -> None:
        key, wanted = task.get("apiKey"), task.get("connectionSessionUUID")
        if not isinstance(key, str) or not key:
            self._post_login_error(TaskRefused("missingApiKey", "The authentication task lacks `apiKey`."))
            return
        try:
            tenant = await self._site.access.tenant_of(key)
        except DeepserveError as error:
            self._post_login_error(error)
            return
        before, self._tenant, self._key = self._session, tenant, key
        resumed = None
        if isinstance(wanted, str) and wanted != before.name:
            resumed = self._sessions.resume(wanted, tenant.id, self)
        if resumed is None and before.tenant != tenant.id:
            # What was asked for under another identity is told to nobody else.
            resumed = self._sessions.open(str(self._new_id()), tenant.id, self)
        if resumed is not None:
            self._session = resumed
            self._sessions.leave(before, self)
            before.has_news.set()
        greeting = {"taskType": "authentication", "connectionSessionUUID": self._session.name}
        self._session.post_first(encode({"data": [greeting]}))

    def _post_login_error(self, error: DeepserveError | TaskRefused) -> None:
        """Without an id: SDKs match it by its task type. Some read only `error`, others only `errors`.

        What comes before a login that succeeds hears it again, for some SDKs believe the last that they hear.
        """
        self._why_unknown = error
        told = wire_error(error, task_type="authentication")
        told.parameter = "apiKey"
        self._session.post(error_body(told))

    async def _work(self, session: Session, tenant: Tenant, task: Mapping[str, Json]) -> None:
        """One task to its end, whether the connection holds or not."""
        visit = Visit(id=self._new_id(), tenant=tenant, is_strict=self._site.settings.is_strict)
        try:
            handled = await self._desk.handle(task, visit, patience_s=PATIENCE_S)
            self._post(session, handled)
            task_uuid = task_uuid_of(task)
            if handled.is_later and task_uuid is not None:
                # SDKs poll, but the oldest of them waits half a minute between two questions.
                self._post(session, await self._desk.await_ended(tenant.id, task_uuid))
        except (TaskRefused, DeepserveError) as error:
            told = wire_error(error, task_type=task_type_of(task), task_uuid=task_uuid_of(task))
            self._post_errors(session, [told])
        except Exception:  # noqa: BLE001 - supervised: a fault of ours must not leave a client waiting
            _log.exception("A task met a fault of the server")
            fault = EngineFailure("The server met an internal fault. It has been logged.")
            told = wire_error(fault, task_type=task_type_of(task), task_uuid=task_uuid_of(task))
            self._post_errors(session, [told])
        finally:
            session.num_tasks -= 1

    def _post(self, session: Session, handled: Handled) -> None:
        """All results in one frame; where that is too large, each in its own."""
        most = self._site.settings.sockets.frame_bytes
        if handled.items:
            frame = encode({"data": handled.items})
            if len(frame) <= most:
                session.post(frame)
            else:
                for item in handled.items:
                    self._post_item(session, item, most)
        self._post_errors(session, handled.errors)

    def _post_item(self, session: Session, item: object, most: int) -> None:
        frame = encode({"data": [item]})
        if len(frame) <= most:
            session.post(frame)
            return
        refusal = TaskRefused(
            "maxFrameSizeExceeded",
            f"The result has more than {most} bytes, too many for a WebSocket frame. POST a getResponse task for it.",
        )
        task_uuid = getattr(item, "task_uuid", None)
        self._post_errors(session, [wire_error(refusal, task_type="textInference", task_uuid=task_uuid)])

    def _post_errors(self, session: Session, errors: Sequence[WireError]) -> None:
        for error in errors:
            session.post(encode({"errors": [error]}))
