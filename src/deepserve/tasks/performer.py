"""What carries tasks out: one performer for each kind, handed to the runner at start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from deepserve.core.errors import DeepserveError
from deepserve.core.task import TaskState


class Performer(Protocol):
    """Turns a task's body into the dialect's own result body."""

    async def perform(self, task: TaskState) -> bytes:
        """The result of the whole task.

        Called again for the same task when the server died meanwhile, so it must not depend on an earlier call. Is
        cancelled when the task is, and when the server stops; the task then begins anew after the next start.
        Raises DeepserveError: CapacityError is waited out and tried again, any other ends the task as failed.
        """
        ...

    def encode_failure(self, task: TaskState, error: DeepserveError) -> bytes:
        """What a client finds as the result of a failed task."""
        ...


def whole_result(task: TaskState) -> Sequence[bytes]:
    """One call with the result as it is."""
    return () if task.result is None else (task.result,)


class WebhookShape(msgspec.Struct, frozen=True, kw_only=True):
    """How a dialect announces an ended task.

    bodies     the body of each call, one for each item of the result
    id_header  a further header that carries the delivery's id, beside `webhook-id`
    """

    bodies: Callable[[TaskState], Sequence[bytes]] = whole_result
    id_header: str | None = None
