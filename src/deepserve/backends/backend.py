"""What a back end is: something that can answer as DeepSeek V4."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol, runtime_checkable

from deepserve.core.events import Event
from deepserve.core.provider import ServedModel
from deepserve.core.request import Request


class Backend(Protocol):
    """Answers requests as event streams, in the order that `core.events` promises.

    `answer` raises before its first event what the client must learn as a plain error (a prompt too long, a full
    queue); afterwards a fault is a `Failed` event. Closing the generator cancels the work within one step.
    """

    def models(self) -> tuple[ServedModel, ...]:
        """The canonical ids this back end serves, with the truth about what stands behind each."""
        ...

    async def start(self) -> None:
        """Load what must be loaded. Raises SetupError."""
        ...

    async def close(self) -> None: ...

    def is_ready(self) -> bool: ...

    def enforces(self) -> bool:
        """Whether answers have the form that was asked for, by construction or because they were checked."""
        ...

    def gauges(self) -> Mapping[str, float]:
        """What monitoring may show of the inside now: a name with its unit -> a number. May be empty."""
        ...

    def answer(self, request: Request) -> AsyncGenerator[Event]: ...

    async def count(self, request: Request) -> int:
        """Prompt tokens the request would be billed for, without answering it."""
        ...


@runtime_checkable
class RenderingBackend(Protocol):
    """One that writes prompts itself, down to their tokens."""

    async def rendered(self, request: Request) -> tuple[Request, list[int]]:
        """The request with what is put back into it, and the tokens of its prompt. Raises RequestError."""
        ...
