"""Work that is answered later: what a client hands in, and what can be seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from deepserve.core.messages import Json
from deepserve.core.tenant import Tenant

TaskStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a dialect accepts it.

    id           chosen by the client or the dialect, unique within the tenant
    kind         which performer carries it out
    body         what the performer needs, in the dialect's own encoding
    keep_s       how long the result can be fetched, from the end of the task
    webhook_url  where results are posted; None: they are fetched
    metadata     small facts a dialect wants back with every state, as JSON
    """

    id: str
    kind: str
    tenant: Tenant
    body: bytes
    arrived_at: datetime
    keep_s: float
    webhook_url: str | None = None
    metadata: Mapping[str, Json] = {}


class TaskState(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is known now.

    result        the dialect's own body, of a success or of a failure; before the end what has been announced of it;
                  None before that, and for cancelled tasks
    error_code    the code of the error that ended it; None unless failed
    num_attempts  how often it was begun: more than once after the server died in the middle
    """

    id: str
    kind: str
    tenant: Tenant
    status: TaskStatus
    body: bytes
    result: bytes | None = None
    error_code: str | None = None
    arrived_at: datetime
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    keep_s: float
    num_attempts: int = 0
    webhook_url: str | None = None
    metadata: Mapping[str, Json] = {}

    @property
    def has_ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


DeliveryStatus = Literal["pending", "delivered", "failed", "cancelled"]


class DeliveryState(msgspec.Struct, frozen=True, kw_only=True):
    """One webhook call to be made, or made.

    id               the same in every attempt; receivers recognise repetitions by it
    item             which of the task's results, from 0
    host             `host:port` of the URL
    last_status      of the last attempt's response; None when there was none
    last_error       why the last attempt failed, in a word; None after a success
    """

    id: str
    task_id: str
    tenant: Tenant
    kind: str
    item: int
    url: str
    host: str
    body: bytes
    status: DeliveryStatus
    num_attempts: int
    next_attempt_at: datetime
    last_status: int | None = None
    last_error: str | None = None
    created_at: datetime
    ended_at: datetime | None = None


class DeliveryAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try. address: what was connected to, `host:port` in numbers; None when it did not come to that."""

    number: int
    started_at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    address: str | None
