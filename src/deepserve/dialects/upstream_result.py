"""What reading another service's answer takes in every dialect whose answers have one result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import msgspec

from deepserve.core.cost import Cost
from deepserve.core.errors import BackendFailure, DeepserveError
from deepserve.core.events import Block, BlockOpened, Event, Failed, Finished, Started, UsageReported
from deepserve.core.messages import Json
from deepserve.core.usage import Usage
from deepserve.dialects.upstream_errors import decode_error_value
from deepserve.dialects.upstream_usage import CountedUsage

DONE = b"[DONE]"
"""The frame that ends a stream in OpenAI's dialect. Some gateways write it at the end of every other, too."""

Read = TypeVar("Read")


class ResultDecoder(ABC):
    """Reads one answer: `chunk` for the data of each event or `whole` once, then `finish` once.

    A dialect reads its own words: it calls `_opened`, `_new_call_id` and `_begun`, and sets `_finished`. What the
    service says of usage it gives to `_settle`, or sets `usage`, `doubt` and `_cost` where that comes piece by piece.

    title    the service's name, for messages
    call_id  names a call whose own id is missing or not the only one; gets the number of the call
    """

    def __init__(self, *, title: str, call_id: Callable[[int], str]) -> None:
        self._title = title
        self._call_id = call_id
        self._call_ids: set[str] = set()
        self._num_blocks = 0
        self._cost: Cost | None = None
        self._finished: Finished | None = None
        self._error: DeepserveError | None = None
        self._has_ended = False
        self.has_begun = False
        self.usage: Usage | None = None
        self.doubt: str | None = None
        """What was wrong with the usage, which then is an estimate."""

    @property
    def is_complete(self) -> bool:
        """Nothing that is to come can matter."""
        if self._has_ended or self._error is not None:
            return True
        return self._finished is not None and self.usage is not None

    @property
    def has_all_ends(self) -> bool:
        """What may still come is usage."""
        return self._finished is not None

    @abstractmethod
    def chunk(self, value: bytes) -> list[Event]:
        """The events of one frame's data. Raises DeepserveError for a failure before anything was told."""

    @abstractmethod
    def whole(self, body: bytes) -> list[Event]:
        """The events of a body that is the whole answer, but for those of `finish`."""

    def finish(self, error: DeepserveError | None = None) -> list[Event]:
        """The terminal events. error: why nothing more came, where it was not the service's own end.

        Raises the error instead where nothing was told.
        """
        error = self._error or error
        if not self.has_begun:
            raise error or BackendFailure(f"{self._title} ended its answer before it began. Please retry.")
        events: list[Event] = []
        if self._finished is None and self._has_ended and error is None:
            events += self._unsaid_end()
        if self.usage is not None:
            events.append(UsageReported(usage=self.usage, cost=self._cost))
        if self._finished is not None:
            return [*events, self._finished]
        told = f"{self._title} closed the stream before the end of the answer. Please retry."
        return [*events, Failed(error=error or BackendFailure(told))]

    @abstractmethod
    def _started(self) -> Started: ...

    def _unsaid_end(self) -> list[Event]:
        """For a stream with its terminator and no reason. As it stands, no end: the answer has failed."""
        return []

    def _begun(self, events: list[Event]) -> list[Event]:
        if self.has_begun:
            return events
        self.has_begun = True
        return [self._started(), *events]

    def _decoded(self, value: bytes, read: Callable[[bytes], Read]) -> Read:
        try:
            return read(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BackendFailure(f"{self._title} sent something that cannot be read: {error}") from error

    def _fail(self, error: Json) -> list[Event]:
        self._error = decode_error_value(error, title=self._title)
        if not self.has_begun:
            raise self._error
        return []

    def _settle(self, raw: msgspec.Raw, count: Callable[[msgspec.Raw], CountedUsage | None]) -> None:
        """Take what the service says of usage. A wrong one is as good as none: it is no reason to lose the answer."""
        try:
            counted = count(raw)
        except msgspec.MsgspecError:
            self.doubt = "it cannot be read"
            return
        if counted is not None:
            self.usage, self._cost = counted.usage, counted.cost
            self.doubt = counted.doubt or self.doubt

    def _new_call_id(self, given: str | None) -> str:
        id_ = given if given and given not in self._call_ids else self._call_id(len(self._call_ids))
        self._call_ids.add(id_)
        return id_

    def _opened(self, block: Block) -> BlockOpened:
        self._num_blocks += 1
        return BlockOpened(index=self._num_blocks - 1, block=block)
