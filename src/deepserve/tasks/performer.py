"""What carries tasks out: one performer for each kind, handed to the runner at start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from deepserve.core.errors import DeepserveError
from deepserve.core.task import TaskState

Announce = Callable[[bytes], Awaitable[None]]
"""Writes down a result as far as it is known, and the webhook calls of the items that are new in it, in one
transaction. What it could not write is announced with what comes next, at the latest with the end."""


class Performer(Protocol):
    """Turns a task's body into the dialect's own result body."""

    async def perform(self, task: TaskState, announce: Announce) -> bytes:
        """The result of the whole task. Its items may be announced as they are ready, with all that were before them.

        Called again for the same task when the server died meanwhile: `task.result` then holds what was announced,
        which has to stand in the result as it is; on nothing else of an earlier call may this one depend. Is cancelled
        when the task is, and when the server stops; the task then begins anew after the next start.
        Raises DeepserveError: CapacityError is waited out and tried again, any other ends the task as failed.
        """
        ...

    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        """What a client finds as the result of a failed task; `task.result` holds what was announced before."""
        ...


def whole_result(task: TaskState) -> Mapping[int, bytes]:
    """One call with the result as it is."""
    return {} if task.result is None else {0: task.result}


class WebhookShape(msgspec.Struct, frozen=True, kw_only=True):
    """How a dialect announces what a task came to.

    bodies     the body of each call by the number of the item that it announces; each item is announced once, and a
               number always means the same item
    id_header  a further header that carries the delivery's id, beside `webhook-id`
    """

    bodies: Callable[[TaskState], Mapping[int, bytes]] = whole_result
    id_header: str | None = None
